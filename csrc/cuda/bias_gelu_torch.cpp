// airank_fast::bias_gelu and its backward for CUDA tensors: checks, addresses, the current stream; the work is in
// bias_gelu.cu.
#include <tuple>

#include "../bias_gelu_args.h"
#include "bias_gelu.h"
#include "binding.h"

namespace airank_fast {
namespace {

BiasGeluLaunch describe(const Tensor& x, const Tensor& bias, const std::string& approximate) {
  BiasGeluLaunch work;
  work.dtype = dtype_of(x);
  work.bias_dtype = dtype_of(bias);
  work.tanh = approximate == "tanh";
  work.columns = bias.size(0);
  work.rows = work.columns == 0 ? 0 : x.numel() / work.columns;
  work.x = x.data_ptr();
  work.bias = bias.data_ptr();
  return work;
}

Tensor bias_gelu_cuda(Tensor x, Tensor bias, std::string approximate) {
  check_bias_gelu(x, bias, approximate);
  const OnDevice device(x);
  x = as_contiguous(x);
  bias = as_contiguous(bias);
  Tensor y = empty_beside(x, x.sizes());
  BiasGeluLaunch work = describe(x, bias, approximate);
  work.result = y.data_ptr();
  check_launch("bias_gelu", launch_bias_gelu(work, device.stream()));
  return y;
}

std::tuple<Tensor, Tensor> bias_gelu_backward_cuda(Tensor grad, Tensor x, Tensor bias, std::string approximate) {
  check_bias_gelu_backward(grad, x, bias, approximate);
  const OnDevice device(x);
  grad = as_contiguous(grad);
  x = as_contiguous(x);
  bias = as_contiguous(bias);
  Tensor dx = empty_beside(x, x.sizes());
  BiasGeluLaunch work = describe(x, bias, approximate);
  if (work.rows == 0) return {dx, torch::stable::new_zeros(bias, {work.columns})};
  Tensor bias_gradient = empty_beside(bias, {work.columns});
  const ScalarType wide = work.dtype == Dtype::kFloat64 ? ScalarType::Double : ScalarType::Float;
  Tensor partial = empty_beside(x, {bias_gelu_chunks(work.rows), work.columns}, wide);
  work.grad = grad.data_ptr();
  work.result = dx.data_ptr();
  work.bias_gradient = bias_gradient.data_ptr();
  work.partial = partial.data_ptr();
  check_launch("bias_gelu_backward", launch_bias_gelu_backward(work, device.stream()));
  return {dx, bias_gradient};
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("bias_gelu", TORCH_BOX(&airank_fast::bias_gelu_cuda));
  m.impl("bias_gelu_backward", TORCH_BOX(&airank_fast::bias_gelu_backward_cuda));
}
