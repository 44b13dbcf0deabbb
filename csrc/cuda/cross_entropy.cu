// Cross entropy on the GPU: chooses the kernel for the dtype, the length of a row and label smoothing. Free of torch,
// so that tests can compile it for the CPU.
#include "cross_entropy.h"

#include "cross_entropy.cuh"

namespace airank_fast {
namespace {

constexpr dim3 kBlock(kCrossEntropyThreads);

CrossEntropyRows rows_of(const CrossEntropyLaunch& work) {
  return {work.logits,      work.target,       work.statistics,      work.num_rows, work.logits_stride,
          work.num_classes, work.ignore_index, work.label_smoothing, work.label_smoothing / double(work.num_classes)};
}

// A warp's packs in flight are 2 KB: for shorter rows most threads of a block would be idle, and wait at its barriers.
template <typename T>
bool a_warp_is_enough(const CrossEntropyLaunch& work) {
  return work.num_classes * int64_t(sizeof(T)) <= 4096;
}

template <int kRowThreads>
dim3 grid_of(const CrossEntropyLaunch& work) {
  constexpr int64_t kRows = kCrossEntropyThreads / kRowThreads;
  return dim3(unsigned(ceil_div(work.num_rows, kRows)));
}

template <bool kSmoothing, int kRowThreads, typename T>
cudaError_t rows_forward(const CrossEntropyLaunch& work, cudaStream_t stream) {
  return launch(cross_entropy_kernel<kSmoothing, kRowThreads, T>, grid_of<kRowThreads>(work), kBlock, 0, stream,
                rows_of(work), static_cast<math_t<T>*>(work.losses));
}

template <bool kSmoothing, typename T>
cudaError_t choose_threads(const CrossEntropyLaunch& work, cudaStream_t stream) {
  return a_warp_is_enough<T>(work) ? rows_forward<kSmoothing, 32, T>(work, stream)
                                   : rows_forward<kSmoothing, kCrossEntropyThreads, T>(work, stream);
}

template <typename T>
cudaError_t forward(const CrossEntropyLaunch& work, cudaStream_t stream) {
  using M = math_t<T>;
  M* losses = static_cast<M*>(work.losses);
  if (work.num_rows > 0) {
    const cudaError_t error = work.label_smoothing != 0 ? choose_threads<true, T>(work, stream)
                                                        : choose_threads<false, T>(work, stream);
    if (error != cudaSuccess) return error;
  }
  return launch(cross_entropy_reduce_kernel<M>, dim3(1), kBlock, 0, stream, losses, work.target, work.num_rows,
                work.ignore_index, work.mean, static_cast<M*>(work.loss), static_cast<M*>(work.scale));
}

template <int kRowThreads, typename T>
cudaError_t rows_backward(const CrossEntropyLaunch& work, cudaStream_t stream) {
  using M = math_t<T>;
  return launch(cross_entropy_backward_kernel<kRowThreads, T>, grid_of<kRowThreads>(work), kBlock, 0, stream,
                rows_of(work), static_cast<const M*>(work.grad), work.grad_stride, static_cast<const M*>(work.scale),
                work.gradient, work.gradient_stride);
}

template <typename T>
cudaError_t backward(const CrossEntropyLaunch& work, cudaStream_t stream) {
  if (work.num_rows == 0) return cudaSuccess;
  return a_warp_is_enough<T>(work) ? rows_backward<32, T>(work, stream)
                                   : rows_backward<kCrossEntropyThreads, T>(work, stream);
}

}  // namespace

cudaError_t launch_cross_entropy(const CrossEntropyLaunch& work, cudaStream_t stream) {
  switch (work.dtype) {
    case Dtype::kFloat32: return forward<float>(work, stream);
    case Dtype::kFloat64: return forward<double>(work, stream);
    case Dtype::kBFloat16: return forward<__nv_bfloat16>(work, stream);
    case Dtype::kFloat16: return forward<Half>(work, stream);
    default: return cudaErrorInvalidValue;
  }
}

cudaError_t launch_cross_entropy_backward(const CrossEntropyLaunch& work, cudaStream_t stream) {
  switch (work.dtype) {
    case Dtype::kFloat32: return backward<float>(work, stream);
    case Dtype::kFloat64: return backward<double>(work, stream);
    case Dtype::kBFloat16: return backward<__nv_bfloat16>(work, stream);
    case Dtype::kFloat16: return backward<Half>(work, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace airank_fast
