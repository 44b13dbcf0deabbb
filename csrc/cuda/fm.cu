// The second-order term of a factorization machine on the GPU: chooses the kernel for the dtype. Free of torch, so that
// tests can compile it for the CPU.
#include "fm.h"

#include "fm.cuh"

namespace airank_fast {
namespace {

template <typename T>
cudaError_t run(const FmLaunch& work, bool is_backward, cudaStream_t stream) {
  const FmTask task{work.x, work.grad, work.result, work.samples, work.fields, work.dim};
  const dim3 grid(unsigned(ceil_div(work.samples, kFmWarps)));
  return launch(is_backward ? fm_backward_kernel<T> : fm_kernel<T>, grid, dim3(kFmThreads), 0, stream, task);
}

cudaError_t choose_dtype(const FmLaunch& work, bool is_backward, cudaStream_t stream) {
  if (work.samples == 0) return cudaSuccess;
  switch (work.dtype) {
    case Dtype::kFloat32: return run<float>(work, is_backward, stream);
    case Dtype::kFloat64: return run<double>(work, is_backward, stream);
    case Dtype::kBFloat16: return run<__nv_bfloat16>(work, is_backward, stream);
    case Dtype::kFloat16: return run<Half>(work, is_backward, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t launch_fm(const FmLaunch& work, cudaStream_t stream) { return choose_dtype(work, false, stream); }

cudaError_t launch_fm_backward(const FmLaunch& work, cudaStream_t stream) { return choose_dtype(work, true, stream); }

}  // namespace airank_fast
