// The arguments of airank_fast::batch_norm_*, with the same checks on every device.
#pragma once

#include <cmath>
#include <vector>

#include "tensors.h"

namespace airank_fast {

// Channels first in memory, then width, height, batch. Strides of dimensions of size 1 have no meaning.
inline bool is_nhwc(const Tensor& x) {
  if (x.numel() == 0) return true;
  int64_t expected = 1;
  for (const int64_t d : {1, 3, 2, 0}) {
    if (x.size(d) != 1 && x.stride(d) != expected) return false;
    expected *= x.size(d);
  }
  return true;
}

inline ScalarType math_dtype(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline int64_t num_rows(const Tensor& x) { return x.size(0) * x.size(2) * x.size(3); }

// A byte for 8 rows of a channel, bit k for row k of them: vectors of channels write and read it.
inline std::vector<int64_t> mask_shape(const Tensor& x) { return {(num_rows(x) + 7) / 8, x.size(1)}; }

inline void check_nhwc(const char* op, const char* name, const Tensor& tensor) {
  CHECK_ARGUMENT(tensor.dim() == 4, op, ": ", name, " must have the 4 dimensions [N, C, H, W], got shape ",
                 shape_of(tensor));
  const ScalarType dtype = tensor.scalar_type();
  CHECK_ARGUMENT(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
                     dtype == ScalarType::Half,
                 op, ": ", name, " must be float32, float64, bfloat16 or float16, got ", name_of(dtype));
  CHECK_ARGUMENT(is_nhwc(tensor), op, ": ", name, " must be channels_last without gaps, got strides ",
                 text_of(tensor.strides()));
}

inline void check_like(const char* op, const char* name, const OptionalTensor& tensor, const char* first,
                       const Tensor& like) {
  if (!tensor) return;
  CHECK_ARGUMENT(
      tensor->scalar_type() == like.scalar_type() && same_shape(*tensor, like) && same_device(*tensor, like), op, ": ",
      name, " must be ", name_of(like.scalar_type()), " of shape ", shape_of(like), " on ", device_of(like), " like ",
      first, ", got ", name_of(tensor->scalar_type()), " of shape ", shape_of(*tensor), " on ", device_of(*tensor));
  CHECK_ARGUMENT(is_nhwc(*tensor), op, ": ", name, " must be channels_last without gaps like ", first,
                 ", got strides ", text_of(tensor->strides()));
}

inline void check_vector(const char* op, const char* name, const OptionalTensor& tensor, ScalarType dtype,
                         const std::vector<int64_t>& shape, const Tensor& like) {
  if (!tensor) return;
  bool good = tensor->scalar_type() == dtype && tensor->dim() == int64_t(shape.size()) && same_device(*tensor, like);
  for (size_t d = 0; good && d < shape.size(); ++d) good = tensor->size(d) == shape[d];
  if (good && tensor->is_contiguous()) return;
  throw_argument(op, ": ", name, " must be contiguous ", name_of(dtype), " of shape ", text_of(shape), " on ",
                 device_of(like), ", got ", name_of(tensor->scalar_type()), " of shape ", shape_of(*tensor), " on ",
                 device_of(*tensor), tensor->is_contiguous() ? "" : " with strides " + text_of(tensor->strides()));
}

// Running statistics of the channels, and the options of their update.
struct BatchNormRunning {
  OptionalTensor mean;
  OptionalTensor var;
  OptionalTensor num_batches;
  std::optional<double> momentum;
  double eps;
};

inline void check_running(const char* op, const Tensor& like, ScalarType dtype, int64_t num_channels,
                          const BatchNormRunning& running) {
  check_vector(op, "running_mean", running.mean, dtype, {num_channels}, like);
  check_vector(op, "running_var", running.var, dtype, {num_channels}, like);
  check_vector(op, "num_batches_tracked", running.num_batches, ScalarType::Long, {}, like);
  CHECK_ARGUMENT(running.mean.has_value() == running.var.has_value(), op,
                 ": running_mean and running_var must be given together, got one of them");
  CHECK_ARGUMENT(!running.mean || running.momentum || running.num_batches, op,
                 ": momentum must be given without num_batches_tracked, got neither");
}

inline void check_finish(const Tensor& moments, const BatchNormRunning& running) {
  const char* op = "batch_norm_finish_";
  const ScalarType dtype = moments.scalar_type();
  const bool good = moments.dim() == 2 && moments.size(1) % 2 == 1 &&
                    (dtype == ScalarType::Float || dtype == ScalarType::Double) && moments.is_contiguous();
  CHECK_ARGUMENT(good, op, ": moments must be contiguous float32 or float64 of shape [rows, 2 channels + 1], got ",
                 name_of(dtype), " of shape ", shape_of(moments), " on ", device_of(moments),
                 moments.is_contiguous() ? "" : " with strides " + text_of(moments.strides()));
  check_running(op, moments, dtype, moments.size(1) / 2, running);
}

// Fixed statistics, which are no functions of x, have no count after the means and rstds.
inline bool is_fixed(const Tensor& statistics) { return statistics.numel() % 2 == 0; }

inline void check_statistics(const char* op, const Tensor& statistics, const Tensor& like) {
  const int64_t size = 2 * like.size(1);
  check_vector(op, "statistics", statistics, math_dtype(like), {size + (statistics.numel() != size)}, like);
}

inline void check_slope(const char* op, double negative_slope) {
  CHECK_ARGUMENT(negative_slope >= 0 && std::isfinite(negative_slope), op,
                 ": negative_slope must be at least 0 and finite, got ", negative_slope);
}

inline void check_batch_norm_act(const Tensor& x, const OptionalTensor& residual, const OptionalTensor& weight,
                                 const OptionalTensor& bias, const Tensor& statistics, double negative_slope,
                                 bool with_mask) {
  const char* op = "batch_norm_act";
  check_nhwc(op, "x", x);
  check_like(op, "residual", residual, "x", x);
  check_vector(op, "weight", weight, math_dtype(x), {x.size(1)}, x);
  check_vector(op, "bias", bias, math_dtype(x), {x.size(1)}, x);
  check_statistics(op, statistics, x);
  check_slope(op, negative_slope);
  CHECK_ARGUMENT(negative_slope != 1 || !with_mask, op, ": with_mask must be false without an activation, got true");
}

inline void check_sums(const Tensor& dy, const Tensor& x, const OptionalTensor& mask, const Tensor& statistics,
                       double negative_slope) {
  const char* op = "batch_norm_act_sums";
  check_nhwc(op, "x", x);
  check_like(op, "dy", dy, "x", x);
  check_vector(op, "mask", mask, ScalarType::Byte, mask_shape(x), x);
  check_statistics(op, statistics, x);
  check_slope(op, negative_slope);
}

inline void check_backward(const Tensor& dy, const OptionalTensor& x, const OptionalTensor& mask,
                           const OptionalTensor& weight, const Tensor& statistics, const OptionalTensor& sums,
                           double negative_slope, bool with_residual) {
  const char* op = "batch_norm_act_backward";
  check_nhwc(op, "dy", dy);
  check_like(op, "x", x, "dy", dy);
  check_vector(op, "mask", mask, ScalarType::Byte, mask_shape(dy), dy);
  check_vector(op, "weight", weight, math_dtype(dy), {dy.size(1)}, dy);
  check_statistics(op, statistics, dy);
  check_vector(op, "sums", sums, math_dtype(dy), {2, dy.size(1)}, dy);
  const int given = x.has_value() + sums.has_value();
  CHECK_ARGUMENT(given == (is_fixed(statistics) ? 0 : 2), op,
                 ": x and sums must be given where the statistics have a count, and only there, got ",
                 given == 0 ? "neither" : given == 1 ? "one of them" : "both");
  check_slope(op, negative_slope);
  CHECK_ARGUMENT(mask || !with_residual, op, ": with_residual must be false without a mask, got true");
}

inline void* address(const OptionalTensor& tensor) { return tensor ? tensor->data_ptr() : nullptr; }

}  // namespace airank_fast
