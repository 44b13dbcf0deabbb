// The launchers of the update of a table's touched rows as plain C++, for the torch registration and the tests.
#pragma once

#include "../sparse_table_update_math.h"
#include "sparse_table_rows.h"

namespace airank_fast {

// The first step: the numbers of the update, and keys by which the look-ups are sorted.
struct TableKeysLaunch {
  Dtype table_dtype = Dtype::kFloat32;
  int64_t num_rows = 0;           // of the table
  int64_t num_ids = 0;
  const int64_t* rows = nullptr;  // [num_ids]
  void* keys = nullptr;           // [num_ids]: the row, or num_rows for one outside the table
  bool keys_are_int32 = false;
  TableRule rule = TableRule::kSgd;
  TableOptions options;
  ScalarAddress lr, step, grad_scale;
  double* scalars = nullptr;  // kTableScalars numbers
};

constexpr int64_t kTableScalars = sizeof(TableScalars<double>) / sizeof(double);

// The second, after the sort. Everything is contiguous; the gradients' absent row is num_rows.
struct TableUpdateLaunch {
  Dtype table_dtype = Dtype::kFloat32;
  Dtype copy_dtype = Dtype::kNone;
  SortedGradients gradients;
  void* table = nullptr;  // [rows, dim]
  void* copy = nullptr;   // likewise, or null
  // [rows, dim] each, of row-wise Adagrad [rows]; those that the rule lacks are null.
  void* first = nullptr;
  void* second = nullptr;
  TableRule rule = TableRule::kSgd;
  const double* scalars = nullptr;
  ScalarAddress found_inf;
};

// Enqueue on `stream` of the current device, without waiting.
cudaError_t launch_table_keys(const TableKeysLaunch& work, cudaStream_t stream);
cudaError_t launch_table_update(const TableUpdateLaunch& work, cudaStream_t stream);

}  // namespace airank_fast
