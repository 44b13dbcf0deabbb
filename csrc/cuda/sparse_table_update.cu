// The update of a table's touched rows on the GPU: chooses the kernels for the dtypes. Free of torch, so that tests can
// compile it for the CPU.
#include "sparse_table_update.h"

#include "optimizer_dtypes.h"
#include "sparse_table_launch.h"
#include "sparse_table_update.cuh"

namespace airank_fast {
namespace {

template <typename M>
cudaError_t launch_keys(const TableKeysTask& task, cudaStream_t stream) {
  const dim3 grid(unsigned(ceil_div(task.num_ids, kTableThreads)));
  return launch(table_keys_kernel<M>, grid, dim3(kTableThreads), 0, stream, task);
}

}  // namespace

cudaError_t launch_table_keys(const TableKeysLaunch& work, cudaStream_t stream) {
  if (work.num_ids == 0) return cudaSuccess;
  const TableKeysTask task{work.rows,
                           work.num_rows,
                           work.num_ids,
                           work.keys,
                           work.keys_are_int32,
                           work.rule,
                           work.options,
                           device_scalar(work.lr),
                           device_scalar(work.step),
                           device_scalar(work.grad_scale),
                           work.scalars};
  return work.table_dtype == Dtype::kFloat64 ? launch_keys<double>(task, stream) : launch_keys<float>(task, stream);
}

cudaError_t launch_table_update(const TableUpdateLaunch& work, cudaStream_t stream) {
  const SortedGradients& gradients = work.gradients;
  const TableUpdateTask task{sorted_table(gradients),
                             table_array(work.table, work.table_dtype),
                             table_array(work.copy, work.copy_dtype),
                             work.first,
                             work.second,
                             work.rule,
                             work.scalars,
                             device_scalar(work.found_inf)};
  const auto run = [&]<typename M, int N>() {
    const cudaError_t error = launch_partials<M, N>(task.gradients, stream);
    if (error != cudaSuccess) return error;
    return launch_rows<N>(table_update_kernel<M, N>, gradients.num_ids, gradients.dim, stream, task);
  };
  return with_table_types(work.table_dtype, gradients.dim, run, gradients.grads, gradients.partials, work.table,
                          work.copy, work.first, work.second);
}

}  // namespace airank_fast
