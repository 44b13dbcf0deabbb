// The arguments of airank_fast::upsample_add_act and its backward, with the same checks on every device.
#pragma once

#include "pictures.h"
#include "upsample_math.h"

namespace airank_fast {

// Of a picture [N, C, H, W], or of its planes [N * C, 1, H, W]: numbers of neighbouring channels are neighbours.
struct UpsampleSizes {
  int64_t pictures;
  int64_t channels;
  int64_t height;
  int64_t width;

  int64_t row() const { return width * channels; }
  int64_t picture() const { return height * row(); }
};

inline UpsampleSizes upsample_sizes(const Tensor& x, bool channels_last) {
  return {x.size(0) * (channels_last ? 1 : x.size(1)), channels_last ? x.size(1) : 1, x.size(2), x.size(3)};
}

inline UpsampleAxis upsample_axis_of(int64_t in, int64_t out, bool nearest, bool align_corners) {
  return nearest ? nearest_axis(in, out) : upsample_axis(in, out, align_corners);
}

inline void check_upsample_add_act(const Tensor& x, const std::array<const OptionalTensor*, 3>& others,
                                   bool channels_last) {
  const char* op = "upsample_add_act";
  check_picture(op, "x", x, channels_last);
  const char* names[] = {"a", "b", "c"};
  for (size_t i = 0; i < others.size(); ++i) {
    if (!*others[i]) continue;
    const Tensor& other = **others[i];
    CHECK_ARGUMENT(same_device(other, x), op, ": ", names[i], " must be on ", device_of(x), ", got ",
                   device_of(other));
    CHECK_ARGUMENT(other.scalar_type() == x.scalar_type(), op, ": ", names[i], " must be ", name_of(x.scalar_type()),
                   ", got ", name_of(other.scalar_type()));
    CHECK_ARGUMENT(other.dim() == 4 && other.size(0) == x.size(0) && other.size(1) == x.size(1), op, ": ", names[i],
                   " must have shape [", x.size(0), ", ", x.size(1), ", h, w], got ", shape_of(other));
    check_picture(op, names[i], other, channels_last);
  }
}

inline void check_upsample_add_act_backward(const Tensor& grad, int64_t height, int64_t width, bool channels_last) {
  const char* op = "upsample_add_act_backward";
  check_picture(op, "grad", grad, channels_last);
  CHECK_ARGUMENT(height > 0 && width > 0, op, ": size must be at least 1, got [", height, ", ", width, "]");
}

}  // namespace airank_fast
