// The launchers of a table's look-ups and bags as plain C++, for the torch registration and the tests.
#pragma once

#include "sparse_table_rows.h"

namespace airank_fast {

// Everything is contiguous; rows of `dim` numbers.
struct TableLookupLaunch {
  Dtype dtype = Dtype::kFloat32;
  int64_t num_rows = 0;
  int64_t dim = 0;
  const void* table = nullptr;
  int64_t num_ids = 0;
  IdsAddress ids;
  int64_t num_slots = 1;
  const int64_t* first_rows = nullptr;  // [num_slots], or null: ids are rows
  void* result = nullptr;               // [num_ids, dim]; NaN for an id outside
};

// Bag b has the ids from offsets[b] to offsets[b + 1]; ids equal to `padding` are not there.
struct TableBags {
  int64_t num_bags = 0;
  const int64_t* offsets = nullptr;  // [num_bags + 1]
  int64_t num_ids = 0;
  IdsAddress ids;
  int64_t padding = -1;
  bool mean = false;
  const void* weights = nullptr;  // [num_ids], float32, or float64 of a float64 table; null: 1
};

struct TableBagLaunch {
  Dtype dtype = Dtype::kFloat32;
  int64_t num_rows = 0;
  int64_t dim = 0;
  const void* table = nullptr;
  TableBags bags;
  void* result = nullptr;  // [bags, dim]; NaN for a bag with an id outside the table
};

// Enqueue on `stream` of the current device, without waiting.
cudaError_t launch_table_lookup(const TableLookupLaunch& work, cudaStream_t stream);
cudaError_t launch_table_bag(const TableBagLaunch& work, cudaStream_t stream);

// The backward of bags, in three steps, between which the ids are sorted and the begins of rows counted.
// For each id, both [num_ids]: its bag, and with `mean` the factor of the bag's gradient, float64 where `dtype` is, else
// float32.
cudaError_t launch_table_bag_of_ids(const TableBags& bags, Dtype dtype, int64_t* bag_of_ids, void* factors,
                                    cudaStream_t stream);
// begins[i]: whether sorted id i is the first of a row that counts.
cudaError_t launch_table_begins(const SortedGradients& gradients, bool* begins, cudaStream_t stream);
// starts[r]: the sorted id with which row r begins. Writes its number, rows[r], and its gradient, values[r].
cudaError_t launch_table_bag_backward(const SortedGradients& gradients, int64_t num_rows, const int64_t* starts,
                                      int64_t* rows, void* values, cudaStream_t stream);

}  // namespace airank_fast
