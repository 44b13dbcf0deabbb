// Cross entropy, classes and confusion counts of upsampled logits on the GPU: chooses the kernels for the dtype. Free of
// torch, so that tests can compile it for the CPU.
#include "upsample_cross_entropy.h"

#include <algorithm>

#include "upsample_cross_entropy.cuh"

namespace airank_fast {
namespace {

constexpr dim3 kBlock(kUpsampleThreads);
// Blocks of the kernel for classes: enough for every multiprocessor, and few additions to the counts of all.
constexpr int64_t kMostBlocks = 2048;

UpsampleTask task_of(const UpsampleLaunch& work) {
  return {work.logits,
          work.strides[0],
          work.strides[1],
          work.strides[2],
          work.strides[3],
          work.pictures,
          work.classes,
          upsample_axis(work.in_height, work.height, work.align_corners),
          upsample_axis(work.in_width, work.width, work.align_corners),
          work.labels,
          work.labels_are_bytes,
          work.ignore_index,
          work.statistics};
}

int64_t blocks_of_pixels(const UpsampleLaunch& work) {
  return work.pictures * work.height * upsample_blocks(work.width);
}

template <typename T>
cudaError_t cross_entropy(const UpsampleLaunch& work, cudaStream_t stream) {
  using M = math_t<T>;
  const UpsampleTask task = task_of(work);
  const int64_t blocks = blocks_of_pixels(work);
  Sums* sums = reinterpret_cast<Sums*>(work.partial_sums);
  cudaError_t error = cudaSuccess;
  if (blocks > 0) error = launch(upsample_loss_kernel<T>, dim3(unsigned(blocks)), kBlock, 0, stream, task, sums);
  if (error != cudaSuccess) return error;
  error = launch(upsample_reduce_kernel<M>, dim3(1), kBlock, 0, stream, sums, blocks,
                 static_cast<const M*>(work.count), static_cast<M*>(work.loss), static_cast<M*>(work.scale));
  if (error != cudaSuccess || work.gradient == nullptr) return error;
  if (blocks == 0) {
    const int64_t size = work.pictures * work.classes * work.in_height * work.in_width;
    return cudaMemsetAsync(work.gradient, 0, size_t(size) * sizeof(M), stream);
  }
  const int64_t of_gradient = work.pictures * work.in_height * upsample_blocks(work.classes * work.in_width);
  return launch(upsample_gradient_kernel<T>, dim3(unsigned(of_gradient)), kBlock, 0, stream, task, work.gradient,
                work.channels_last);
}

template <typename T>
cudaError_t classes(const UpsampleLaunch& work, cudaStream_t stream) {
  const dim3 grid(unsigned(std::min(work.pictures * work.height, kMostBlocks)));
  auto* counts = reinterpret_cast<unsigned long long*>(work.confusion);
  const bool in_shared = counts != nullptr && work.classes <= kUpsampleSharedClasses;
  const size_t bytes = in_shared ? size_t(work.classes * work.classes) * sizeof(unsigned) : 0;
  return launch(upsample_classes_kernel<T>, grid, kBlock, bytes, stream, task_of(work), work.predicted, counts,
                in_shared);
}

// Calls run(T{}) with the logits' element type.
template <typename Run>
cudaError_t with_logits_type(const UpsampleLaunch& work, Run run) {
  switch (work.dtype) {
    case Dtype::kFloat32: return run(float{});
    case Dtype::kFloat64: return run(double{});
    case Dtype::kBFloat16: return run(__nv_bfloat16{});
    case Dtype::kFloat16: return run(Half{});
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace

int64_t upsample_partial_sums(const UpsampleLaunch& work) {
  return blocks_of_pixels(work) * int64_t(sizeof(Sums) / sizeof(double));
}

cudaError_t launch_upsample_cross_entropy(const UpsampleLaunch& work, cudaStream_t stream) {
  return with_logits_type(work, [&](auto element) { return cross_entropy<decltype(element)>(work, stream); });
}

cudaError_t launch_upsample_classes(const UpsampleLaunch& work, cudaStream_t stream) {
  return with_logits_type(work, [&](auto element) { return classes<decltype(element)>(work, stream); });
}

}  // namespace airank_fast
