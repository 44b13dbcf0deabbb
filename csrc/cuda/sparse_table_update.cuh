// The update of a table's touched rows on the GPU; formulas in sparse_table_update_math.h.
//
// Three launches besides the sort of the look-ups by row:
//   keys       a thread per look-up: the row as a key of 4 bytes; one also takes bias corrections and the like in double
//   partials   the sums of runs of rows with many gradients, as in sparse_table_rows.cuh
//   update     a group of threads per sorted look-up: the first one of a row adds up its gradients and updates it
// Every touched row is read and written once. Bytes, of numbers of e bytes: per look-up e dim + 24 and those of the sort;
// per touched row 2e dim for the weights, and 8 dim for each state of float32.
//
// Learning rate, step, gradient scale and found_inf are read from device memory.
#pragma once

#include "../sparse_table_update_math.h"
#include "multi_tensor.cuh"
#include "sparse_table_rows.cuh"

namespace airank_fast {

constexpr int kTableUpdateBlocks = 2;  // per multiprocessor, which bounds the registers by 128

struct TableKeysTask {
  const int64_t* rows;
  int64_t num_rows;
  int64_t num_ids;
  void* keys;
  bool keys_are_int32;
  TableRule rule;
  TableOptions options;
  DeviceScalar lr, step, grad_scale;
  void* scalars;
};

template <typename M>
__global__ void __launch_bounds__(kTableThreads) table_keys_kernel(const TableKeysTask task) {
  const int64_t i = int64_t(blockIdx.x) * kTableThreads + threadIdx.x;
  if (i == 0)
    *static_cast<TableScalars<M>*>(task.scalars) =
        table_scalars<M>(task.rule, task.options, task.lr.read<double>(), task.step.read<double>(),
                         task.grad_scale.read<double>());
  if (i >= task.num_ids) return;
  const int64_t row = task.rows[i], key = row >= 0 && row < task.num_rows ? row : task.num_rows;
  if (task.keys_are_int32) static_cast<int*>(task.keys)[i] = int(key);
  else static_cast<int64_t*>(task.keys)[i] = key;
}

struct TableUpdateTask {
  SortedTable gradients;
  TableArray table;
  TableArray copy;
  void* first;
  void* second;
  TableRule rule;
  const void* scalars;
  DeviceScalar found_inf;
};

template <typename M>
__device__ __forceinline__ M table_step_of(TableRule rule, M weight, M grad, M& first, M& second,
                                     const TableScalars<M>& scalars) {
  switch (rule) {
    case TableRule::kSgd: return table_step<TableRule::kSgd>(weight, grad, first, second, scalars);
    case TableRule::kAdagrad: return table_step<TableRule::kAdagrad>(weight, grad, first, second, scalars);
    case TableRule::kRowWiseAdagrad:
      return table_step<TableRule::kRowWiseAdagrad>(weight, grad, first, second, scalars);
    case TableRule::kAdam: return table_step<TableRule::kAdam>(weight, grad, first, second, scalars);
    default: return table_step<TableRule::kFtrl>(weight, grad, first, second, scalars);
  }
}

// The master, or its copy where that differs from the rounded master; see newest_of.
template <typename M>
HOST_DEVICE M newest_weight(M master, M copy, TableDtype dtype_of_copy) {
  __half half;
  __nv_bfloat16 bfloat;
  store(&half, float(master));
  store(&bfloat, float(master));
  return (dtype_of_copy == TableDtype::kFloat16 ? load(half) : load(bfloat)) == float(copy) ? master : copy;
}

// Numbers from `at` on in the table, whose gradient is `sum`. `of_row` is the row's state under row-wise Adagrad.
template <typename M, int N>
struct TableUpdate {
  const TableUpdateTask& task;
  int64_t at;
  bool has_firsts, has_seconds;
  TablePack<M, N> weights, copies, firsts, seconds;

  // Loads what there is.
  __device__ TableUpdate(const TableUpdateTask& given, int64_t begin)
      : task(given),
        at(begin),
        has_firsts(given.rule != TableRule::kSgd && given.rule != TableRule::kRowWiseAdagrad),
        has_seconds(num_table_states(given.rule) > 1),
        weights(given.table, begin) {
    if (task.copy.data != nullptr) copies = TablePack<M, N>(task.copy, at);
    if (has_firsts) firsts = TablePack<M, N>({task.first, TableDtype::kWide}, at);
    if (has_seconds) seconds = TablePack<M, N>({task.second, TableDtype::kWide}, at);
  }

  __device__ void apply(const M (&sum)[N], M of_row) const {
    const TableScalars<M>& scalars = *static_cast<const TableScalars<M>*>(task.scalars);
    M updated[N], copied[N], first[N], second[N];
    weights.read(task.table.dtype, updated);
    copies.read(task.copy.dtype, copied);
    firsts.read(TableDtype::kWide, first);
    seconds.read(TableDtype::kWide, second);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (task.copy.data != nullptr) updated[k] = newest_weight(updated[k], copied[k], task.copy.dtype);
      if (!has_firsts) first[k] = of_row;
      updated[k] = table_step_of(task.rule, updated[k], scalars.factor * sum[k], first[k], second[k], scalars);
    }
    store_table_numbers(task.table, at, updated);
    if (task.copy.data != nullptr) store_table_numbers(task.copy, at, updated);
    if (has_firsts) store_table_numbers({task.first, TableDtype::kWide}, at, first);
    if (has_seconds) store_table_numbers({task.second, TableDtype::kWide}, at, second);
  }
};

// The sum over a group's threads, in its first one; the whole warp must call it.
template <int N, typename M>
__device__ __forceinline__ M table_group_sum(const TablePlace<N>& place, M value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    const M other = __shfl_down_sync(0xffffffffu, value, distance);
    if (place.lane + distance < place.width) value += other;
  }
  return value;
}

template <typename M, int N>
__global__ void __launch_bounds__(kTableThreads, kTableUpdateBlocks) table_update_kernel(const TableUpdateTask task) {
  if (task.found_inf.is_set()) return;
  const SortedTable& gradients = task.gradients;
  const TablePlace<N> place(gradients.dim);
  const bool begins = place.takes(gradients.num_ids) && gradients.begins_row(place.item);
  const bool by_row = task.rule == TableRule::kRowWiseAdagrad;  // for which the whole warp adds up squares
  if (!begins && !by_row) return;
  const TableRow row = begins ? TableRow(gradients, place.item) : TableRow();
  const int64_t number = begins ? gradients.rows.at(place.item) : 0;
  const int64_t dim = begins ? gradients.dim : 0;  // a thread without a row takes part in the warp's sum alone
  M squares = 0, of_row = 0;
#pragma unroll 1
  for (int pass = by_row ? 0 : 1; pass < 2; ++pass) {
    for (int64_t first = place.first; first < dim; first += 32 * N) {
      const TableUpdate<M, N> update(task, number * dim + first);  // its loads do not wait for those of the sum
      M sum[N];
      sum_of_table_row(gradients, row, first, sum);
      if (pass == 1) {
        update.apply(sum, of_row);
      } else {
        const M factor = static_cast<const TableScalars<M>*>(task.scalars)->factor;
#pragma unroll
        for (int k = 0; k < N; ++k) squares += (factor * sum[k]) * (factor * sum[k]);
      }
    }
    if (pass == 1) break;
    squares = table_group_sum(place, squares);
    M* const state = static_cast<M*>(task.first) + number;
    if (begins && place.lane == 0) *state = of_row = *state + squares / M(dim);
    of_row = __shfl_sync(0xffffffffu, of_row, place.group * place.width);
  }
}

}  // namespace airank_fast
