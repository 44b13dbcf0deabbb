// global_norm on the GPU: one launch per dtype (and per 1,500 tensors), and one that adds their sums. Free of torch, so
// that tests can compile it for the CPU.
#include "global_norm.h"

#include "global_norm.cuh"

namespace airank_fast {
namespace {

// Launches over the tensors of dtype P; moves `sums` behind the sums that the blocks store.
template <typename P>
cudaError_t run(const NormLaunch& norm, Dtype dtype, double*& sums, cudaStream_t stream) {
  return for_each_table<1, 30000>(
      norm.num_tensors, kNormChunk, [&](int64_t i) { return norm.dtypes[i] == dtype ? norm.sizes[i] : 0; },
      [&](int64_t i, int) { return norm.data[i]; },
      [&](const NormTable& table) {
        double* const first = sums;
        sums += table.num_blocks;
        return launch(norm_kernel<P>, dim3(table.num_blocks), dim3(kNormThreads), 0, stream, table, first);
      });
}

}  // namespace

int64_t norm_workspace(int64_t num_tensors, const int64_t* sizes) {
  return num_chunks(num_tensors, sizes, kNormChunk);
}

cudaError_t launch_norm(const NormLaunch& norm, cudaStream_t stream) {
  double* sums = norm.workspace;
  cudaError_t error = run<float>(norm, Dtype::kFloat32, sums, stream);
  if (error == cudaSuccess) error = run<double>(norm, Dtype::kFloat64, sums, stream);
  if (error == cudaSuccess) error = run<__nv_bfloat16>(norm, Dtype::kBFloat16, sums, stream);
  if (error == cudaSuccess) error = run<Half>(norm, Dtype::kFloat16, sums, stream);
  if (error != cudaSuccess) return error;
  return launch(norm_of_sums_kernel<kNormThreads>, dim3(1), dim3(kNormThreads), 0, stream, norm.workspace,
                int64_t(sums - norm.workspace), norm.norm);
}

}  // namespace airank_fast
