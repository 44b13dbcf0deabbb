// airank_fast::instance_norm_act and its backward for CUDA tensors: checks, addresses, the current stream; the work is in
// instance_norm_act.cu.
#include <tuple>

#include "../instance_norm_act_args.h"
#include "binding.h"
#include "instance_norm_act.h"

namespace airank_fast {
namespace {

InstanceNormLaunch describe(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias,
                            double negative_slope, bool channels_last) {
  InstanceNormLaunch work;
  work.dtype = dtype_of(x);
  work.pictures = x.size(0);
  work.channels = x.size(1);
  work.pixels = x.size(2) * x.size(3);
  work.channels_last = channels_last;
  work.x = x.data_ptr();
  work.weight = address(weight);
  work.bias = address(bias);
  work.negative_slope = negative_slope;
  return work;
}

std::tuple<Tensor, Tensor> instance_norm_act_cuda(Tensor x, OptionalTensor weight, OptionalTensor bias,
                                                  OptionalTensor residual, double negative_slope, double eps,
                                                  bool channels_last) {
  check_instance_norm_act(x, weight, bias, residual, negative_slope, eps, channels_last);
  const OnDevice device(x);
  const InstanceNormLaunch work = describe(x, weight, bias, negative_slope, channels_last);
  Tensor y = empty_picture(x, {x.size(0), x.size(1), x.size(2), x.size(3)}, channels_last);
  Tensor statistics = empty_beside(x, {x.size(0), 2, x.size(1)}, math_dtype(x));
  Tensor parts = empty_beside(x, {x.size(0), instance_norm_num_parts(work), 2 * x.size(1) + 1}, math_dtype(x));
  check_launch("instance_norm_act",
               launch_instance_norm_act(work, address(residual), eps, parts.data_ptr(), statistics.data_ptr(),
                                        y.data_ptr(), device.stream()));
  return {y, statistics};
}

std::tuple<Tensor, Tensor, Tensor> instance_norm_act_backward_cuda(Tensor grad, Tensor x, OptionalTensor y,
                                                                   OptionalTensor weight, OptionalTensor bias,
                                                                   Tensor statistics, double negative_slope,
                                                                   bool channels_last) {
  check_instance_norm_act_backward(grad, x, y, weight, bias, statistics, negative_slope, channels_last);
  const OnDevice device(x);
  const InstanceNormLaunch work = describe(x, weight, bias, negative_slope, channels_last);
  const std::array<int64_t, 4> sizes{x.size(0), x.size(1), x.size(2), x.size(3)};
  Tensor dx = empty_picture(x, sizes, channels_last);
  Tensor dresidual = y ? empty_picture(x, sizes, channels_last) : empty_beside(x, {0});
  Tensor sums = empty_beside(x, {x.size(0), 2, x.size(1)}, math_dtype(x));
  Tensor parts = empty_beside(x, {x.size(0), instance_norm_num_parts(work), 2 * x.size(1)}, math_dtype(x));
  check_launch("instance_norm_act_backward",
               launch_instance_norm_act_backward(work, grad.data_ptr(), address(y), statistics.data_ptr(),
                                                 parts.data_ptr(), sums.data_ptr(), dx.data_ptr(),
                                                 y ? dresidual.data_ptr() : nullptr, device.stream()));
  return {dx, dresidual, sums};
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("instance_norm_act", TORCH_BOX(&airank_fast::instance_norm_act_cuda));
  m.impl("instance_norm_act_backward", TORCH_BOX(&airank_fast::instance_norm_act_backward_cuda));
}
