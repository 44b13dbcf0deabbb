// Look-ups and bags of a table's rows on the GPU: chooses the kernels for the dtypes. Free of torch, so that tests can
// compile it for the CPU.
#include "sparse_table.h"

#include "sparse_table.cuh"
#include "sparse_table_launch.h"

namespace airank_fast {
namespace {

// The bits of a NaN in every number of 8 bytes.
uint64_t nan_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat64: return 0x7ff8000000000000u;
    case Dtype::kBFloat16: return 0x7fc07fc07fc07fc0u;
    case Dtype::kFloat16: return 0x7e007e007e007e00u;
    default: return 0x7fc000007fc00000u;
  }
}

template <typename Word>
cudaError_t launch_lookup(TableLookupTask task, int64_t row_bytes, cudaStream_t stream) {
  task.words = row_bytes / int64_t(sizeof(Word));
  return launch_rows<1>(table_lookup_kernel<Word>, ceil_div(task.num_ids, kTableAhead), task.words, stream, task);
}

template <typename M>
cudaError_t launch_bag_of_ids(const TableBagOfIdsTask& task, cudaStream_t stream) {
  const dim3 grid(unsigned(ceil_div(task.bags.num_bags, kTableWarps)));
  return launch(table_bag_of_ids_kernel<M>, grid, dim3(kTableThreads), 0, stream, task);
}

TableIds device_ids(const IdsAddress& ids) { return {ids.pointer, ids.is_int32}; }

DeviceBags device_bags(const TableBags& bags) {
  return {bags.num_bags, bags.offsets, device_ids(bags.ids), bags.padding, bags.mean, bags.weights};
}

}  // namespace

cudaError_t launch_table_lookup(const TableLookupLaunch& work, cudaStream_t stream) {
  const TableLookupTask task{work.table,
                             work.num_rows,
                             0,
                             device_ids(work.ids),
                             work.num_ids,
                             work.num_slots,
                             work.first_rows,
                             nan_of(work.dtype),
                             work.result};
  const int64_t row_bytes = work.dim * dtype_bytes(work.dtype);
  if (row_bytes == 0) return cudaSuccess;
  const auto address = reinterpret_cast<uintptr_t>(work.table) | reinterpret_cast<uintptr_t>(work.result);
  switch (int64_t(address | uintptr_t(row_bytes)) & 15) {
    case 0: return launch_lookup<uint4>(task, row_bytes, stream);
    case 8: return launch_lookup<uint2>(task, row_bytes, stream);
    case 4:
    case 12: return launch_lookup<uint32_t>(task, row_bytes, stream);
    default: return launch_lookup<uint16_t>(task, row_bytes, stream);
  }
}

cudaError_t launch_table_bag(const TableBagLaunch& work, cudaStream_t stream) {
  const TableBags& bags = work.bags;
  const TableBagTask task{table_array(work.table, work.dtype),
                          work.num_rows,
                          work.dim,
                          device_bags(bags),
                          table_array(work.result, work.dtype)};
  const auto run = [&]<typename M, int N>() {
    return launch_rows<N>(table_bag_kernel<M, N>, bags.num_bags, work.dim, stream, task);
  };
  return with_table_types(work.dtype, work.dim, run, work.table, work.result);
}

cudaError_t launch_table_bag_of_ids(const TableBags& bags, Dtype dtype, int64_t* bag_of_ids, void* factors,
                                    cudaStream_t stream) {
  if (bags.num_bags == 0) return cudaSuccess;
  const TableBagOfIdsTask task{device_bags(bags), bag_of_ids, factors};
  return dtype == Dtype::kFloat64 ? launch_bag_of_ids<double>(task, stream) : launch_bag_of_ids<float>(task, stream);
}

cudaError_t launch_table_begins(const SortedGradients& gradients, bool* begins, cudaStream_t stream) {
  if (gradients.num_ids == 0) return cudaSuccess;
  const dim3 grid(unsigned(ceil_div(gradients.num_ids, kTableThreads)));
  return launch(table_begins_kernel, grid, dim3(kTableThreads), 0, stream,
                TableBeginsTask{sorted_table(gradients), begins});
}

cudaError_t launch_table_bag_backward(const SortedGradients& gradients, int64_t num_rows, const int64_t* starts,
                                      int64_t* rows, void* values, cudaStream_t stream) {
  const TableBagBackwardTask task{sorted_table(gradients), num_rows, starts, rows,
                                  table_array(values, gradients.dtype)};
  const auto run = [&]<typename M, int N>() {
    const cudaError_t error = launch_partials<M, N>(task.table, stream);
    if (error != cudaSuccess) return error;
    return launch_rows<N>(table_bag_backward_kernel<M, N>, num_rows, gradients.dim, stream, task);
  };
  return with_table_types(gradients.dtype, gradients.dim, run, gradients.grads, gradients.partials, values);
}

}  // namespace airank_fast
