// airank_fast::upsample_add_act and its backward for CUDA tensors: checks, addresses, the current stream; the work is in
// upsample_add_act.cu.
#include "../upsample_add_act_args.h"
#include "binding.h"
#include "upsample_add_act.h"

namespace airank_fast {
namespace {

UpsampleAddLaunch describe(const Tensor& x, const Tensor& result, bool nearest, bool align_corners,
                           bool channels_last) {
  const UpsampleSizes sizes = upsample_sizes(x, channels_last);
  UpsampleAddLaunch work;
  work.dtype = dtype_of(x);
  work.pictures = sizes.pictures;
  work.channels = sizes.channels;
  work.height = sizes.height;
  work.width = sizes.width;
  work.nearest = nearest;
  work.align_corners = align_corners;
  work.x = x.data_ptr();
  work.result = result.data_ptr();
  return work;
}

Tensor upsample_add_act_cuda(Tensor x, OptionalTensor a, OptionalTensor b, OptionalTensor c, bool relu, bool nearest,
                             bool align_corners, bool channels_last) {
  check_upsample_add_act(x, {&a, &b, &c}, channels_last);
  const OnDevice device(x);
  Tensor y = empty_picture(x, {x.size(0), x.size(1), x.size(2), x.size(3)}, channels_last);
  UpsampleAddLaunch work = describe(x, y, nearest, align_corners, channels_last);
  work.relu = relu;
  for (const OptionalTensor& other : {a, b, c})
    if (other) work.others[work.num_others++] = {other->data_ptr(), other->size(2), other->size(3)};
  check_launch("upsample_add_act", launch_upsample_add_act(work, device.stream()));
  return y;
}

Tensor upsample_add_act_backward_cuda(Tensor grad, int64_t height, int64_t width, bool nearest, bool align_corners,
                                      bool channels_last) {
  check_upsample_add_act_backward(grad, height, width, channels_last);
  const OnDevice device(grad);
  Tensor result = empty_picture(grad, {grad.size(0), grad.size(1), height, width}, channels_last);
  UpsampleAddLaunch work = describe(grad, result, nearest, align_corners, channels_last);
  work.low_height = height;
  work.low_width = width;
  check_launch("upsample_add_act_backward", launch_upsample_add_act_backward(work, device.stream()));
  return result;
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("upsample_add_act", TORCH_BOX(&airank_fast::upsample_add_act_cuda));
  m.impl("upsample_add_act_backward", TORCH_BOX(&airank_fast::upsample_add_act_backward_cuda));
}
