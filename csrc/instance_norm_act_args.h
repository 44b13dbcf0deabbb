// The arguments of airank_fast::instance_norm_act and its backward, with the same checks on every device.
#pragma once

#include <cmath>

#include "batch_norm_act_args.h"
#include "pictures.h"

namespace airank_fast {

inline void check_instance_norm_like(const char* op, const char* name, const OptionalTensor& tensor, const Tensor& x,
                                     bool channels_last) {
  if (!tensor) return;
  CHECK_ARGUMENT(same_device(*tensor, x), op, ": ", name, " must be on ", device_of(x), ", got ", device_of(*tensor));
  CHECK_ARGUMENT(tensor->scalar_type() == x.scalar_type(), op, ": ", name, " must be ", name_of(x.scalar_type()),
                 ", got ", name_of(tensor->scalar_type()));
  CHECK_ARGUMENT(same_shape(*tensor, x), op, ": ", name, " must have shape ", shape_of(x), ", got ",
                 shape_of(*tensor));
  check_picture_format(op, name, *tensor, channels_last);
}

inline void check_instance_norm_act(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& bias,
                                    const OptionalTensor& residual, double negative_slope, double eps,
                                    bool channels_last) {
  const char* op = "instance_norm_act";
  check_picture(op, "x", x, channels_last);
  check_vector(op, "weight", weight, math_dtype(x), {x.size(1)}, x);
  check_vector(op, "bias", bias, math_dtype(x), {x.size(1)}, x);
  check_instance_norm_like(op, "residual", residual, x, channels_last);
  check_slope(op, negative_slope);
  CHECK_ARGUMENT(eps > 0 && std::isfinite(eps), op, ": eps must be above 0 and finite, got ", eps);
}

inline void check_instance_norm_act_backward(const Tensor& grad, const Tensor& x, const OptionalTensor& y,
                                             const OptionalTensor& weight, const OptionalTensor& bias,
                                             const Tensor& statistics, double negative_slope, bool channels_last) {
  const char* op = "instance_norm_act_backward";
  check_picture(op, "x", x, channels_last);
  check_instance_norm_like(op, "grad", grad, x, channels_last);
  check_instance_norm_like(op, "y", y, x, channels_last);
  check_vector(op, "weight", weight, math_dtype(x), {x.size(1)}, x);
  check_vector(op, "bias", bias, math_dtype(x), {x.size(1)}, x);
  check_vector(op, "statistics", statistics, math_dtype(x), {x.size(0), 2, x.size(1)}, x);
  check_slope(op, negative_slope);
  CHECK_ARGUMENT(!y || negative_slope != 1, op, ": y must be given with an activation only, got negative_slope 1");
}

// x's memory as units that are normalised alone: a contiguous plane, of one channel, or a picture in channels_last.
struct InstanceNormUnits {
  int64_t units;
  int64_t channels;  // of a unit
  int64_t pixels;

  int64_t size() const { return channels * pixels; }
};

inline InstanceNormUnits instance_norm_units(const Tensor& x, bool channels_last) {
  const int64_t pixels = x.size(2) * x.size(3);
  if (channels_last) return {x.size(0), x.size(1), pixels};
  return {x.size(0) * x.size(1), 1, pixels};
}

}  // namespace airank_fast
