// RoIAlign on the GPU: chooses the kernels for the dtype, and their grids. Free of torch, so that tests can compile it for
// the CPU.
#include "roi_align.h"

#include <algorithm>
#include <type_traits>

#include "roi_align.cuh"

namespace airank_fast {
namespace {

constexpr dim3 kBlock(kRoiThreads);
constexpr int64_t kSharedBytes = 32 << 10;  // of a block, at most

template <typename T> using roi_math_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename M>
RoiTask<M> task_of(const RoiAlignLaunch& work) {
  RoiTask<M> task{};
  task.rois = static_cast<const M*>(work.rois);
  task.num_rois = work.num_rois;
  task.pictures = work.pictures;
  task.channels = work.channels;
  task.height = int32_t(work.height);
  task.width = int32_t(work.width);
  task.sampling_ratio = roi_sampling_ratio(work.sampling_ratio);
  task.aligned = work.aligned;
  task.channels_last = work.channels_last;
  task.num_levels = work.num_levels;
  for (int l = 0; l < work.num_levels; ++l) {
    const RoiAlignLevel& level = work.levels[l];
    task.levels[l] = {level.data,
                      int32_t(level.height),
                      int32_t(level.width),
                      M(level.scale),
                      int32_t(ceil_div(level.width, kRoiTile)),
                      int32_t(ceil_div(level.height, kRoiTile))};
    if (l > 0) task.areas[l - 1] = M(work.areas[l - 1]);
  }
  return task;
}

template <typename T>
cudaError_t forward(const RoiAlignLaunch& work, cudaStream_t stream) {
  using M = roi_math_t<T>;
  const int64_t numbers = work.num_rois * work.channels * work.height * work.width;
  if (numbers == 0) return cudaSuccess;
  const dim3 grid(unsigned(ceil_div(numbers, kRoiThreads)));
  return launch(roi_align_kernel<T, M>, grid, kBlock, 0, stream, task_of<M>(work), work.result);
}

template <typename T>
cudaError_t backward(const RoiAlignLaunch& work, cudaStream_t stream) {
  using M = roi_math_t<T>;
  const RoiTask<M> task = task_of<M>(work);
  int64_t blocks = 0;
  for (int l = 0; l < work.num_levels; ++l)
    blocks += work.pictures * task.levels[l].tiles_down * task.levels[l].tiles_across *
              ceil_div(work.channels, kRoiChannels);
  if (blocks == 0) return cudaSuccess;
  const int64_t of_roi = kRoiTile * (work.height + work.width) * int64_t(sizeof(M));
  const int64_t at_once = std::clamp<int64_t>(kSharedBytes / of_roi, 1, kRoiAtOnce);
  return launch(roi_align_backward_kernel<T, M>, dim3(unsigned(blocks)), kBlock, size_t(at_once * of_roi), stream, task,
                static_cast<const T*>(work.grad), int(at_once));
}

}  // namespace

cudaError_t launch_roi_align(const RoiAlignLaunch& work, cudaStream_t stream) {
  switch (work.dtype) {
    case Dtype::kFloat32: return forward<float>(work, stream);
    case Dtype::kFloat64: return forward<double>(work, stream);
    case Dtype::kBFloat16: return forward<__nv_bfloat16>(work, stream);
    case Dtype::kFloat16: return forward<Half>(work, stream);
    default: return forward<uint8_t>(work, stream);
  }
}

cudaError_t launch_roi_align_backward(const RoiAlignLaunch& work, cudaStream_t stream) {
  switch (work.dtype) {
    case Dtype::kFloat32: return backward<float>(work, stream);
    case Dtype::kFloat64: return backward<double>(work, stream);
    case Dtype::kBFloat16: return backward<__nv_bfloat16>(work, stream);
    case Dtype::kFloat16: return backward<Half>(work, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace airank_fast
