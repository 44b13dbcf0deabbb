// The arguments of airank_fast::fm and its backward, with the same checks on every device.
#pragma once

#include "tensors.h"

namespace airank_fast {

inline void check_fm(const Tensor& x, const char* op = "fm") {
  const ScalarType dtype = x.scalar_type();
  CHECK_ARGUMENT(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
                     dtype == ScalarType::Half,
                 op, ": x must be float32, float64, bfloat16 or float16, got ", name_of(dtype));
  CHECK_ARGUMENT(x.dim() >= 2, op, ": x must have shape [..., fields, dim], got ", shape_of(x));
}

// The dtype of the result.
inline ScalarType fm_dtype(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Sizes fm_sizes(const Tensor& x) { return Sizes(x.sizes().data(), static_cast<size_t>(x.dim() - 2)); }

inline void check_fm_backward(const Tensor& grad, const Tensor& x) {
  const char* op = "fm_backward";
  check_fm(x, op);
  CHECK_ARGUMENT(same_device(grad, x), op, ": grad must be on ", device_of(x), ", got ", device_of(grad));
  CHECK_ARGUMENT(grad.scalar_type() == fm_dtype(x), op, ": grad must be ", name_of(fm_dtype(x)), ", got ",
                 name_of(grad.scalar_type()));
  CHECK_ARGUMENT(same_sizes(grad.sizes(), fm_sizes(x)), op, ": grad must have shape ", text_of(fm_sizes(x)), ", got ",
                 shape_of(grad));
}

// The number of samples; contiguous x is [samples, fields, dim].
inline int64_t fm_samples(const Tensor& x) {
  int64_t samples = 1;
  for (int64_t d = 0; d < x.dim() - 2; ++d) samples *= x.size(d);
  return samples;
}

}  // namespace airank_fast
