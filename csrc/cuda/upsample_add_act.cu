// The sum of upsampled pictures with a ReLU on the GPU: chooses the kernel for the dtype. Free of torch, so that tests can
// compile it for the CPU.
#include "upsample_add_act.h"

#include "upsample_add_act.cuh"

namespace airank_fast {
namespace {

constexpr dim3 kBlock(kUpsampleAddThreads);

UpsampleAxis axis_of(const UpsampleAddLaunch& work, int64_t in, int64_t out) {
  return work.nearest ? nearest_axis(in, out) : upsample_axis(in, out, work.align_corners);
}

template <typename T>
cudaError_t forward(const UpsampleAddLaunch& work, cudaStream_t stream) {
  UpsampleAddTask task{};
  task.x = work.x;
  task.result = work.result;
  task.height = work.height;
  task.width = work.width;
  task.channels = work.channels;
  task.num_others = work.num_others;
  task.relu = work.relu;
  for (int i = 0; i < work.num_others; ++i)
    task.others[i] = {work.others[i].data, axis_of(work, work.others[i].height, work.height),
                      axis_of(work, work.others[i].width, work.width)};
  const int64_t blocks = work.pictures * work.height * upsample_add_blocks(work.width * work.channels);
  return launch(upsample_add_act_kernel<T>, dim3(unsigned(blocks)), kBlock, 0, stream, task);
}

template <typename T>
cudaError_t backward(const UpsampleAddLaunch& work, cudaStream_t stream) {
  const int64_t blocks = work.pictures * work.low_height * upsample_add_blocks(work.low_width * work.channels);
  return launch(upsample_add_act_backward_kernel<T>, dim3(unsigned(blocks)), kBlock, 0, stream, work.x,
                axis_of(work, work.low_height, work.height), axis_of(work, work.low_width, work.width), work.channels,
                work.result);
}

// Calls run(T{}) with the element type.
template <typename Run>
cudaError_t with_picture_type(const UpsampleAddLaunch& work, Run run) {
  if (work.pictures == 0) return cudaSuccess;
  switch (work.dtype) {
    case Dtype::kFloat32: return run(float{});
    case Dtype::kFloat64: return run(double{});
    case Dtype::kBFloat16: return run(__nv_bfloat16{});
    case Dtype::kFloat16: return run(Half{});
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t launch_upsample_add_act(const UpsampleAddLaunch& work, cudaStream_t stream) {
  return with_picture_type(work, [&](auto element) { return forward<decltype(element)>(work, stream); });
}

cudaError_t launch_upsample_add_act_backward(const UpsampleAddLaunch& work, cudaStream_t stream) {
  return with_picture_type(work, [&](auto element) { return backward<decltype(element)>(work, stream); });
}

}  // namespace airank_fast
