// The arguments of airank_fast::dropout_add_layer_norm, with the same checks on every device.
#pragma once

#include "layer_norm_args.h"

namespace airank_fast {

inline void check_seed(const char* op, const Tensor& x, const OptionalTensor& seed, double p) {
  CHECK_ARGUMENT(p >= 0 && p <= 1, op, ": p must be from 0 to 1, got ", p);
  CHECK_ARGUMENT(seed.has_value() == (p != 0), op, ": seed must be given where p > 0, and only there, got ",
                 seed ? "a" : "no", " seed with p = ", p);
  if (seed) check_beside(op, "seed", *seed, x, {ScalarType::Long}, {2});
}

inline RowShape check_dropout_add_layer_norm(const Tensor& x, const Tensor& residual, const OptionalTensor& weight,
                                             const OptionalTensor& bias, const OptionalTensor& seed, double p,
                                             int64_t num_dims) {
  const char* op = "dropout_add_layer_norm";
  const RowShape shape = check_rows(op, x, num_dims);
  check_beside(op, "residual", residual, x, param_dtypes(x.scalar_type()), x.sizes());
  check_params(op, x, weight, bias, shape);
  check_seed(op, x, seed, p);
  return shape;
}

inline RowShape check_dropout_add_layer_norm_backward(const Tensor& grad, const OptionalTensor& grad_sum,
                                                      const Tensor& sum, const Tensor& mean, const Tensor& rstd,
                                                      const OptionalTensor& weight, const OptionalTensor& seed,
                                                      double p, int64_t num_dims) {
  const char* op = "dropout_add_layer_norm";
  const RowShape shape = check_rows(op, grad, num_dims);
  const ScalarType dtype = grad.scalar_type();
  check_beside(op, "sum", sum, grad, param_dtypes(dtype), grad.sizes());
  if (grad_sum) check_beside(op, "grad_sum", *grad_sum, grad, {sum.scalar_type()}, grad.sizes());
  check_params(op, grad, weight, std::nullopt, shape);
  check_beside(op, "mean", mean, grad, {math_dtype(dtype)}, shape.leading);
  check_beside(op, "rstd", rstd, grad, {math_dtype(dtype)}, shape.leading);
  check_seed(op, grad, seed, p);
  return shape;
}

}  // namespace airank_fast
