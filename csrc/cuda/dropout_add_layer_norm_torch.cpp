// airank_fast::dropout_add_layer_norm for CUDA tensors: checks, addresses, the current stream; the work is in
// dropout_add_layer_norm.cu.
#include "dropout_add_layer_norm.h"

#include <tuple>

#include "../dropout_add_layer_norm_args.h"
#include "binding.h"
#include "layer_norm_grid.h"

namespace airank_fast {
namespace {

const char* const kOp = "dropout_add_layer_norm";

const int64_t* address_of_seed(const OptionalTensor& seed) {
  return seed ? static_cast<const int64_t*>(seed->data_ptr()) : nullptr;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> dropout_add_layer_norm_cuda(Tensor x, Tensor residual, OptionalTensor weight,
                                                                       OptionalTensor bias, OptionalTensor seed,
                                                                       double p, int64_t num_dims, double eps) {
  const RowShape shape = check_dropout_add_layer_norm(x, residual, weight, bias, seed, p, num_dims);
  const OnDevice device(x);
  const Tensor dense = as_contiguous(x), dense_residual = as_contiguous(residual);
  const OptionalTensor weights = as_contiguous(weight), biases = as_contiguous(bias), numbers = as_contiguous(seed);
  const ScalarType math = math_dtype(x.scalar_type());
  Tensor y = empty_beside(x, x.sizes()), sum = empty_beside(residual, x.sizes());
  Tensor mean = empty_beside(x, shape.leading, math);
  Tensor rstd = empty_beside(x, shape.leading, math);
  LayerNormRows rows;
  rows.rows = shape.rows;
  rows.columns = shape.columns;
  rows.x_dtype = dtype_of(residual);
  rows.y_dtype = dtype_of(x);
  rows.weight_dtype = dtype_of(weight ? *weight : bias ? *bias : x);
  rows.weight = weights ? weights->data_ptr() : nullptr;
  rows.bias = biases ? biases->data_ptr() : nullptr;
  rows.mean = mean.data_ptr();
  rows.rstd = rstd.data_ptr();
  DropoutAdd add;
  add.p = p;
  add.seed = address_of_seed(numbers);
  add.x = dense.data_ptr();
  add.residual = dense_residual.data_ptr();
  add.sum = sum.data_ptr();
  add.y = y.data_ptr();
  check_launch(kOp, launch_dropout_add_layer_norm(rows, add, eps, device.stream()));
  return {y, sum, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> dropout_add_layer_norm_backward_cuda(
    Tensor grad, OptionalTensor grad_sum, Tensor sum, Tensor mean, Tensor rstd, OptionalTensor weight,
    OptionalTensor seed, double p, int64_t num_dims, bool need_params) {
  const RowShape shape =
      check_dropout_add_layer_norm_backward(grad, grad_sum, sum, mean, rstd, weight, seed, p, num_dims);
  const OnDevice device(grad);
  const Tensor dense_grad = as_contiguous(grad), dense_sum = as_contiguous(sum);
  const Tensor means = as_contiguous(mean), rstds = as_contiguous(rstd);
  const OptionalTensor weights = as_contiguous(weight), numbers = as_contiguous(seed);
  const OptionalTensor grad_sums = as_contiguous(grad_sum);
  Tensor grad_x = empty_beside(grad, grad.sizes());
  Tensor grad_residual = empty_beside(sum, grad.sizes());
  auto [grad_weight, grad_bias] = empty_param_grads(grad, weight, shape, need_params);
  LayerNormGrads grads;
  grads.num_blocks = backward_blocks(shape.rows, shape.columns);
  const Tensor partials = empty_beside(
      grad, std::vector<int64_t>{2, need_params ? grads.num_blocks : 0, shape.columns}, mean.scalar_type());
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
  rows.x_dtype = dtype_of(sum);
  rows.y_dtype = dtype_of(grad);
  rows.weight_dtype = dtype_of(grad_weight);
  rows.x = dense_sum.data_ptr();
  rows.weight = weights ? weights->data_ptr() : nullptr;
  rows.mean = means.data_ptr();
  rows.rstd = rstds.data_ptr();
  DropoutAdd add;
  add.p = p;
  add.seed = address_of_seed(numbers);
  add.grad_sum = grad_sums ? grad_sums->data_ptr() : nullptr;
  add.grad_residual = grad_residual.data_ptr();
  check_launch(kOp, launch_dropout_add_layer_norm_backward(rows, grads, add, device.stream()));
  return {grad_x, grad_residual, grad_weight, grad_bias};
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("dropout_add_layer_norm", TORCH_BOX(&airank_fast::dropout_add_layer_norm_cuda));
  m.impl("dropout_add_layer_norm_backward", TORCH_BOX(&airank_fast::dropout_add_layer_norm_backward_cuda));
}
