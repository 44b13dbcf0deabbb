// Cross entropy on the GPU: chooses the kernel for the dtype; a block per row. Free of torch, so that tests can
// compile it for the CPU. It has not run on a GPU yet.
#include "cross_entropy.h"

#include "cross_entropy.cuh"

namespace airank_fast {
namespace {

constexpr dim3 kBlock(kCrossEntropyThreads);

CrossEntropyRows rows_of(const CrossEntropyLaunch& work) {
  return {work.logits,       work.target,          work.statistics, work.logits_stride, work.num_classes,
          work.ignore_index, work.label_smoothing, work.label_smoothing / double(work.num_classes)};
}

template <typename T>
cudaError_t forward(const CrossEntropyLaunch& work, cudaStream_t stream) {
  using M = math_t<T>;
  M* losses = static_cast<M*>(work.losses);
  if (work.num_rows > 0) {
    const cudaError_t error = launch(cross_entropy_kernel<T>, dim3(unsigned(work.num_rows)), kBlock, 0, stream,
                                     rows_of(work), losses);
    if (error != cudaSuccess) return error;
  }
  return launch(cross_entropy_reduce_kernel<M>, dim3(1), kBlock, 0, stream, losses, work.target, work.num_rows,
                work.ignore_index, work.mean, static_cast<M*>(work.loss), static_cast<M*>(work.scale));
}

template <typename T>
cudaError_t backward(const CrossEntropyLaunch& work, cudaStream_t stream) {
  using M = math_t<T>;
  if (work.num_rows == 0) return cudaSuccess;
  return launch(cross_entropy_backward_kernel<T>, dim3(unsigned(work.num_rows)), kBlock, 0, stream, rows_of(work),
                static_cast<const M*>(work.grad), work.grad_stride, static_cast<const M*>(work.scale), work.gradient,
                work.gradient_stride);
}

}  // namespace

cudaError_t launch_cross_entropy(const CrossEntropyLaunch& work, cudaStream_t stream) {
  switch (work.dtype) {
    case Dtype::kFloat32: return forward<float>(work, stream);
    case Dtype::kFloat64: return forward<double>(work, stream);
    case Dtype::kBFloat16: return forward<__nv_bfloat16>(work, stream);
    case Dtype::kFloat16: return forward<__half>(work, stream);
    default: return cudaErrorInvalidValue;
  }
}

cudaError_t launch_cross_entropy_backward(const CrossEntropyLaunch& work, cudaStream_t stream) {
  switch (work.dtype) {
    case Dtype::kFloat32: return backward<float>(work, stream);
    case Dtype::kFloat64: return backward<double>(work, stream);
    case Dtype::kBFloat16: return backward<__nv_bfloat16>(work, stream);
    case Dtype::kFloat16: return backward<__half>(work, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace airank_fast
