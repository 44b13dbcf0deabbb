// airank_fast::layer_norm for CUDA tensors: checks, addresses, the current stream; the work is in layer_norm.cu.
#include "layer_norm.h"

#include <tuple>

#include "../layer_norm_args.h"
#include "binding.h"
#include "layer_norm_grid.h"

namespace airank_fast {
namespace {

std::tuple<Tensor, Tensor, Tensor> layer_norm_cuda(Tensor x, OptionalTensor weight, OptionalTensor bias,
                                                   int64_t num_dims, double eps, std::optional<ScalarType> dtype) {
  const char* op = "layer_norm";
  const RowShape shape = check_rows(op, x, num_dims);
  check_params(op, x, weight, bias, shape);
  const ScalarType result = dtype.value_or(x.scalar_type());
  check_result_dtype(op, x.scalar_type(), result);

  const OnDevice device(x);
  const Tensor dense = as_contiguous(x);
  const OptionalTensor weights = as_contiguous(weight), biases = as_contiguous(bias);
  const ScalarType math = math_dtype(x.scalar_type());
  Tensor y = empty_beside(x, x.sizes(), result);
  Tensor mean = empty_beside(x, shape.leading, math);
  Tensor rstd = empty_beside(x, shape.leading, math);
  LayerNormRows rows;
  rows.rows = shape.rows;
  rows.columns = shape.columns;
  rows.x_dtype = dtype_of(x);
  rows.y_dtype = dtype_of(y);
  rows.weight_dtype = dtype_of(weight ? *weight : bias ? *bias : x);
  rows.x = dense.data_ptr();
  rows.weight = weights ? weights->data_ptr() : nullptr;
  rows.bias = biases ? biases->data_ptr() : nullptr;
  rows.mean = mean.data_ptr();
  rows.rstd = rstd.data_ptr();
  check_launch(op, launch_layer_norm(rows, eps, y.data_ptr(), device.stream()));
  return {y, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> layer_norm_backward_cuda(Tensor grad, Tensor x, Tensor mean, Tensor rstd,
                                                            OptionalTensor weight, int64_t num_dims, bool need_params) {
  const RowShape shape = check_rows("layer_norm", x, num_dims);
  check_layer_norm_backward(grad, x, mean, rstd, weight, shape);

  const OnDevice device(x);
  const Tensor dense = as_contiguous(x), dense_grad = as_contiguous(grad);
  const Tensor means = as_contiguous(mean), rstds = as_contiguous(rstd);
  const OptionalTensor weights = as_contiguous(weight);
  Tensor grad_x = empty_beside(x, x.sizes());
  auto [grad_weight, grad_bias] = empty_param_grads(x, weight, shape, need_params);
  LayerNormGrads grads;
  grads.num_blocks = backward_blocks(shape.rows, shape.columns);
  const Tensor partials = empty_beside(
      x, std::vector<int64_t>{2, need_params ? grads.num_blocks : 0, shape.columns}, mean.scalar_type());
  grads.grad = dense_grad.data_ptr();
  grads.grad_x = grad_x.data_ptr();
  if (need_params) {
    grads.grad_weight = grad_weight.data_ptr();
    grads.grad_bias = grad_bias.data_ptr();
    grads.partials = partials.data_ptr();
  }
  LayerNormRows rows;
  rows.rows = shape.rows;
  rows.columns = shape.columns;
  rows.x_dtype = dtype_of(x);
  rows.y_dtype = dtype_of(grad);
  rows.weight_dtype = dtype_of(grad_weight);
  rows.x = dense.data_ptr();
  rows.weight = weights ? weights->data_ptr() : nullptr;
  rows.mean = means.data_ptr();
  rows.rstd = rstds.data_ptr();
  check_launch("layer_norm", launch_layer_norm_backward(rows, grads, device.stream()));
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("layer_norm", TORCH_BOX(&airank_fast::layer_norm_cuda));
  m.impl("layer_norm_backward", TORCH_BOX(&airank_fast::layer_norm_backward_cuda));
}
