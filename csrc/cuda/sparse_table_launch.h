// What the launchers of a table's ops share: types, grids, partial sums. Free of torch, so that tests can compile it
// for the CPU.
#pragma once

#include "sparse_table_rows.cuh"
#include "sparse_table_rows.h"

namespace airank_fast {

inline TableArray table_array(const void* data, Dtype dtype) {
  const auto kind = dtype == Dtype::kBFloat16  ? TableDtype::kBFloat16
                    : dtype == Dtype::kFloat16 ? TableDtype::kFloat16
                                               : TableDtype::kWide;
  return {const_cast<void*>(data), kind};
}

// Calls `run.operator()<M, N>()` with the type of the arithmetic on numbers of `dtype`, and the numbers in a pack of rows
// of these arrays, of which any may be null.
template <typename Run, typename... Arrays>
cudaError_t with_table_types(Dtype dtype, int64_t dim, Run run, const Arrays*... arrays) {
  if (dtype == Dtype::kFloat64) return run.template operator()<double, 1>();
  const bool aligned = (... && (reinterpret_cast<uintptr_t>(arrays) % 16 == 0));
  return aligned && dim % kTablePack == 0 ? run.template operator()<float, kTablePack>()
                                          : run.template operator()<float, 1>();
}

// A launch over items that are rows; nothing without items.
template <int N, typename Task>
cudaError_t launch_rows(void (*kernel)(Task), int64_t num_items, int64_t dim, cudaStream_t stream, const Task& task) {
  if (num_items <= 0) return cudaSuccess;
  const int64_t rows = kTableWarps * (32 / table_width<N>(dim));
  return launch(kernel, dim3(unsigned(ceil_div(num_items, rows))), dim3(kTableThreads), 0, stream, task);
}

inline SortedTable sorted_table(const SortedGradients& of) {
  return {{of.rows.pointer, of.rows.is_int32}, of.num_ids, of.dim,     of.order,   of.absent,
          table_array(of.grads, of.dtype),     of.sources, of.factors, of.partials};
}

template <typename M, int N>
cudaError_t launch_partials(const SortedTable& table, cudaStream_t stream) {
  return launch_rows<N>(table_partials_kernel<M, N>, (table.num_ids - 1) / kTableRun, table.dim, stream, table);
}

}  // namespace airank_fast
