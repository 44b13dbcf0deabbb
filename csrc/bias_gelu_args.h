// The arguments of airank_fast::bias_gelu and its backward, with the same checks on every device.
#pragma once

#include <string>

#include "tensors.h"

namespace airank_fast {

inline void check_bias_gelu(const Tensor& x, const Tensor& bias, const std::string& approximate,
                            const char* op = "bias_gelu") {
  const ScalarType dtype = x.scalar_type(), of_bias = bias.scalar_type();
  const bool is_16_bit = dtype == ScalarType::BFloat16 || dtype == ScalarType::Half;
  CHECK_ARGUMENT(dtype == ScalarType::Float || dtype == ScalarType::Double || is_16_bit, op,
                 ": x must be float32, float64, bfloat16 or float16, got ", name_of(dtype));
  CHECK_ARGUMENT(x.dim() >= 1, op, ": x must have shape [..., features], got []");
  CHECK_ARGUMENT(same_device(bias, x), op, ": bias must be on ", device_of(x), ", got ", device_of(bias));
  CHECK_ARGUMENT(of_bias == dtype || (is_16_bit && of_bias == ScalarType::Float), op, ": bias must be ",
                 name_of(dtype), is_16_bit ? " or float32" : "", ", got ", name_of(of_bias));
  const int64_t features = x.size(x.dim() - 1);
  CHECK_ARGUMENT(bias.dim() == 1 && bias.size(0) == features, op, ": bias must have shape [", features, "], got ",
                 shape_of(bias));
  CHECK_ARGUMENT(approximate == "none" || approximate == "tanh", op, ": approximate must be none or tanh, got ",
                 approximate);
}

inline void check_bias_gelu_backward(const Tensor& grad, const Tensor& x, const Tensor& bias,
                                     const std::string& approximate) {
  const char* op = "bias_gelu_backward";
  check_bias_gelu(x, bias, approximate, op);
  CHECK_ARGUMENT(same_device(grad, x), op, ": grad must be on ", device_of(x), ", got ", device_of(grad));
  CHECK_ARGUMENT(grad.scalar_type() == x.scalar_type(), op, ": grad must be ", name_of(x.scalar_type()), ", got ",
                 name_of(grad.scalar_type()));
  CHECK_ARGUMENT(same_shape(grad, x), op, ": grad must have shape ", shape_of(x), ", got ", shape_of(grad));
}

}  // namespace airank_fast
