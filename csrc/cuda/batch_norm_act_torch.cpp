// airank_fast::batch_norm_* for CUDA tensors: checks, addresses, the current stream; the work is in batch_norm_act.cu.
#include <optional>
#include <tuple>

#include "../batch_norm_act_args.h"
#include "batch_norm_act.h"
#include "binding.h"

namespace airank_fast {
namespace {

BatchNormInput input_of(const Tensor& x) { return {x.data_ptr(), num_rows(x), x.size(1), dtype_of(x)}; }

BatchNormRunningAddresses addresses_of(const BatchNormRunning& running) {
  BatchNormRunningAddresses addresses;
  addresses.mean = address(running.mean);
  addresses.var = address(running.var);
  addresses.num_batches = static_cast<int64_t*>(address(running.num_batches));
  addresses.cumulative = !running.momentum.has_value();
  addresses.momentum = running.momentum.value_or(0);
  addresses.eps = running.eps;
  return addresses;
}

Tensor reduced(const char* op, const Tensor& x, const BatchNormRunningAddresses* running) {
  const OnDevice device(x);
  const BatchNormInput input = input_of(x);
  const int64_t size = 2 * x.size(1) + 1;
  Tensor out = empty_beside(x, {size}, math_dtype(x));
  Tensor parts = empty_beside(x, {batch_norm_num_parts(input), size}, math_dtype(x));
  check_launch(op, launch_batch_norm_moments(input, parts.data_ptr(), out.data_ptr(), running, device.stream()));
  return out;
}

Tensor moments_cuda(Tensor x) {
  check_nhwc("batch_norm_moments", "x", x);
  return reduced("batch_norm_moments", x, nullptr);
}

Tensor statistics_cuda(Tensor x, OptionalTensor running_mean, OptionalTensor running_var,
                       OptionalTensor num_batches_tracked, std::optional<double> momentum, double eps) {
  const BatchNormRunning running{running_mean, running_var, num_batches_tracked, momentum, eps};
  check_nhwc("batch_norm_statistics_", "x", x);
  check_running("batch_norm_statistics_", x, math_dtype(x), x.size(1), running);
  const BatchNormRunningAddresses addresses = addresses_of(running);
  return reduced("batch_norm_statistics_", x, &addresses);
}

Tensor finish_cuda(Tensor moments, OptionalTensor running_mean, OptionalTensor running_var,
                   OptionalTensor num_batches_tracked, std::optional<double> momentum, double eps) {
  const BatchNormRunning running{running_mean, running_var, num_batches_tracked, momentum, eps};
  check_finish(moments, running);
  const OnDevice device(moments);
  Tensor statistics = empty_beside(moments, {moments.size(1)});
  check_launch("batch_norm_finish_",
               launch_batch_norm_finish(moments.data_ptr(), moments.size(0), moments.size(1) / 2, dtype_of(moments),
                                        statistics.data_ptr(), addresses_of(running), device.stream()));
  return statistics;
}

std::tuple<Tensor, Tensor> act_cuda(Tensor x, OptionalTensor residual, OptionalTensor weight, OptionalTensor bias,
                                    Tensor statistics, double negative_slope, bool with_mask,
                                    std::string /*group: autograd's*/) {
  check_batch_norm_act(x, residual, weight, bias, statistics, negative_slope, with_mask);
  const OnDevice device(x);
  Tensor y = empty_as(x);
  Tensor mask = with_mask ? empty_beside(x, mask_shape(x), ScalarType::Byte)
                          : empty_beside(x, {0}, ScalarType::Byte);
  check_launch("batch_norm_act",
               launch_batch_norm_act(input_of(x), address(residual), address(weight), address(bias),
                                     statistics.data_ptr(), negative_slope, y.data_ptr(),
                                     with_mask ? mask.data_ptr() : nullptr, device.stream()));
  return {y, mask};
}

Tensor sums_cuda(Tensor dy, Tensor x, OptionalTensor mask, Tensor statistics, double negative_slope) {
  check_sums(dy, x, mask, statistics, negative_slope);
  const OnDevice device(x);
  const BatchNormInput input = input_of(x);
  Tensor sums = empty_beside(x, {2, x.size(1)}, math_dtype(x));
  Tensor parts = empty_beside(x, {batch_norm_num_parts(input), 2 * x.size(1)}, math_dtype(x));
  check_launch("batch_norm_act_sums",
               launch_batch_norm_sums(input, dy.data_ptr(), address(mask), statistics.data_ptr(), negative_slope,
                                      parts.data_ptr(), sums.data_ptr(), device.stream()));
  return sums;
}

std::tuple<Tensor, Tensor> backward_cuda(Tensor dy, OptionalTensor x, OptionalTensor mask, OptionalTensor weight,
                                         Tensor statistics, OptionalTensor sums, double negative_slope,
                                         bool with_residual) {
  check_backward(dy, x, mask, weight, statistics, sums, negative_slope, with_residual);
  const OnDevice device(dy);
  BatchNormInput input = input_of(dy);
  input.x = address(x);
  Tensor dx = empty_as(dy);
  Tensor dresidual = with_residual ? empty_as(dy) : empty_beside(dy, {0});
  check_launch("batch_norm_act_backward",
               launch_batch_norm_backward(input, dy.data_ptr(), address(mask), address(weight), statistics.data_ptr(),
                                          address(sums), negative_slope, dx.data_ptr(),
                                          with_residual ? dresidual.data_ptr() : nullptr, device.stream()));
  return {dx, dresidual};
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("batch_norm_moments", TORCH_BOX(&airank_fast::moments_cuda));
  m.impl("batch_norm_finish_", TORCH_BOX(&airank_fast::finish_cuda));
  m.impl("batch_norm_statistics_", TORCH_BOX(&airank_fast::statistics_cuda));
  m.impl("batch_norm_act", TORCH_BOX(&airank_fast::act_cuda));
  m.impl("batch_norm_act_sums", TORCH_BOX(&airank_fast::sums_cuda));
  m.impl("batch_norm_act_backward", TORCH_BOX(&airank_fast::backward_cuda));
}
