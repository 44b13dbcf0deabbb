// The arguments of airank_fast::layer_norm and of the ops that end in one, with the same checks on every device.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "tensors.h"

namespace airank_fast {

// x seen as a matrix: its last num_dims dimensions are a row.
struct RowShape {
  int64_t rows = 1;
  int64_t columns = 1;
  std::vector<int64_t> leading;   // the shape of the statistics
  std::vector<int64_t> trailing;  // the shape of weight and bias
};

inline bool is_16_bit(ScalarType t) { return t == ScalarType::BFloat16 || t == ScalarType::Half; }

// Statistics and sums of a tensor of this type.
inline ScalarType math_dtype(ScalarType t) { return t == ScalarType::Double ? t : ScalarType::Float; }

inline std::string names_of(const std::vector<ScalarType>& dtypes) {
  std::string names;
  for (const ScalarType dtype : dtypes) names += (names.empty() ? "" : " or ") + name_of(dtype);
  return names;
}

// `name` must be a dense tensor of one of these dtypes and this shape beside x.
inline void check_beside(const char* op, const char* name, const Tensor& tensor, const Tensor& x,
                         const std::vector<ScalarType>& dtypes, Sizes shape) {
  CHECK_ARGUMENT(same_device(tensor, x), op, ": ", name, " must be on ", device_of(x), ", got ", device_of(tensor));
  CHECK_ARGUMENT(tensor.layout() == torch::headeronly::Layout::Strided, op, ": ", name,
                 " must be dense, got a sparse tensor");
  CHECK_ARGUMENT(std::find(dtypes.begin(), dtypes.end(), tensor.scalar_type()) != dtypes.end(), op, ": ", name,
                 " must be ", names_of(dtypes), ", got ", name_of(tensor.scalar_type()));
  CHECK_ARGUMENT(same_sizes(tensor.sizes(), shape), op, ": ", name, " must have shape ", text_of(shape), ", got ",
                 shape_of(tensor));
}

// Parameters are of x's dtype, or float32 beside a 16-bit x.
inline std::vector<ScalarType> param_dtypes(ScalarType x) {
  return is_16_bit(x) ? std::vector{x, ScalarType::Float} : std::vector{x};
}

inline RowShape check_rows(const char* op, const Tensor& x, int64_t num_dims) {
  const ScalarType dtype = x.scalar_type();
  CHECK_ARGUMENT(x.layout() == torch::headeronly::Layout::Strided, op, ": x must be dense, got a sparse tensor");
  CHECK_ARGUMENT(dtype == ScalarType::Float || dtype == ScalarType::Double || is_16_bit(dtype), op,
                 ": x must be float32, float64, bfloat16 or float16, got ", name_of(dtype));
  CHECK_ARGUMENT(num_dims >= 1 && num_dims <= x.dim(), op, ": num_dims must be from 1 to the ", x.dim(),
                 " dimensions of x, got ", num_dims);
  RowShape shape;
  for (int64_t d = 0; d < x.dim(); ++d) {
    const bool leads = d < x.dim() - num_dims;
    (leads ? shape.leading : shape.trailing).push_back(x.size(d));
    (leads ? shape.rows : shape.columns) *= x.size(d);
  }
  return shape;
}

inline void check_params(const char* op, const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias,
                         const RowShape& shape) {
  if (weight) check_beside(op, "weight", *weight, x, param_dtypes(x.scalar_type()), shape.trailing);
  if (bias) {
    const auto dtypes = weight ? std::vector{weight->scalar_type()} : param_dtypes(x.scalar_type());
    check_beside(op, "bias", *bias, x, dtypes, shape.trailing);
  }
}

// The result is of x's dtype, or 16-bit of a float32 x.
inline void check_result_dtype(const char* op, ScalarType x, ScalarType result) {
  const bool narrows = x == ScalarType::Float;
  CHECK_ARGUMENT(result == x || (narrows && is_16_bit(result)), op, ": dtype must be ", name_of(x),
                 narrows ? " or bfloat16 or float16" : "", ", got ", name_of(result));
}

inline void check_layer_norm_backward(const Tensor& grad, const Tensor& x, const Tensor& mean, const Tensor& rstd,
                                      const OptionalTensor& weight, const RowShape& shape) {
  const char* op = "layer_norm";
  const ScalarType dtype = x.scalar_type();
  check_params(op, x, weight, std::nullopt, shape);
  std::vector<ScalarType> grads{dtype};
  if (dtype == ScalarType::Float) grads.insert(grads.end(), {ScalarType::BFloat16, ScalarType::Half});
  check_beside(op, "grad", grad, x, grads, x.sizes());
  check_beside(op, "mean", mean, x, {math_dtype(dtype)}, shape.leading);
  check_beside(op, "rstd", rstd, x, {math_dtype(dtype)}, shape.leading);
}

// The gradients of weight and bias, of the weight's dtype; empty where they are not needed.
inline std::pair<Tensor, Tensor> empty_param_grads(const Tensor& x, const OptionalTensor& weight,
                                                   const RowShape& shape, bool needed) {
  const std::vector<int64_t> sizes = needed ? shape.trailing : std::vector<int64_t>{0};
  const ScalarType dtype = weight ? weight->scalar_type() : math_dtype(x.scalar_type());
  return {empty_beside(x, sizes, dtype), empty_beside(x, sizes, dtype)};
}

}  // namespace airank_fast
