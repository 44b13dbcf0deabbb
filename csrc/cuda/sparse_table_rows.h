// Look-ups of a table, sorted by row, and their gradients, as the launchers of its ops take them.
#pragma once

#include "../sparse_table_math.h"
#include "arguments.h"

namespace airank_fast {

// int64 or int32 numbers in device memory.
struct IdsAddress {
  const void* pointer = nullptr;
  bool is_int32 = false;
};

struct SortedGradients {
  Dtype dtype = Dtype::kFloat32;
  int64_t num_ids = 0;
  int64_t dim = 0;
  IdsAddress rows;                   // [num_ids], ascending
  const int64_t* order = nullptr;    // [num_ids]: the look-up of each
  int64_t absent = -1;               // the row of look-ups that do not count
  const void* grads = nullptr;       // [gradients, dim]
  const int64_t* sources = nullptr;  // [num_ids]: the gradient of each look-up; null: its own
  const void* factors = nullptr;     // [num_ids]: what multiplies it, float32, or float64 of float64; null: 1
  void* partials = nullptr;          // table_partials() numbers, likewise
};

// The size of the workspace for partial sums.
inline int64_t table_partials(int64_t num_ids, int64_t dim) { return ceil_div(num_ids, kTableRun) * dim; }

}  // namespace airank_fast
