// The arguments of airank_fast::upsample_add_act and its backward, with the same checks on every device.
#pragma once

#include "tensors.h"
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

// Without gaps in the memory format. Strides of dimensions of size 1 have no meaning.
inline bool is_dense_in(const Tensor& x, bool channels_last) {
  if (x.numel() == 0) return true;
  int64_t expected = 1;
  for (const int64_t d : channels_last ? std::array<int64_t, 4>{1, 3, 2, 0} : std::array<int64_t, 4>{3, 2, 1, 0}) {
    if (x.size(d) != 1 && x.stride(d) != expected) return false;
    expected *= x.size(d);
  }
  return true;
}

inline void check_upsample_picture(const char* op, const char* name, const Tensor& x, bool channels_last) {
  CHECK_ARGUMENT(x.dim() == 4 && x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0, op, ": ", name,
                 " must have shape [N, C, H, W] with at least one channel and one pixel, got ", shape_of(x));
  const ScalarType dtype = x.scalar_type();
  CHECK_ARGUMENT(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
                     dtype == ScalarType::Half,
                 op, ": ", name, " must be float32, float64, bfloat16 or float16, got ", name_of(dtype));
  CHECK_ARGUMENT(is_dense_in(x, channels_last), op, ": ", name, " must be ",
                 channels_last ? "channels_last" : "contiguous", ", got strides ", text_of(x.strides()));
}

inline void check_upsample_add_act(const Tensor& x, const std::array<const OptionalTensor*, 3>& others,
                                   bool channels_last) {
  const char* op = "upsample_add_act";
  check_upsample_picture(op, "x", x, channels_last);
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
    check_upsample_picture(op, names[i], other, channels_last);
  }
}

inline void check_upsample_add_act_backward(const Tensor& grad, int64_t height, int64_t width, bool channels_last) {
  const char* op = "upsample_add_act_backward";
  check_upsample_picture(op, "grad", grad, channels_last);
  CHECK_ARGUMENT(height > 0 && width > 0, op, ": size must be at least 1, got [", height, ", ", width, "]");
}

// [N, C, height, width] beside x, of its dtype.
inline Tensor empty_picture(const Tensor& x, int64_t height, int64_t width, bool channels_last) {
  const int64_t channels = x.size(1);
  const std::array<int64_t, 4> sizes{x.size(0), channels, height, width};
  if (!channels_last) return empty_beside(x, Sizes(sizes.data(), sizes.size()));
  const std::array<int64_t, 4> strides{channels * height * width, 1, channels * width, channels};
  return empty_strided(x, Sizes(sizes.data(), sizes.size()), Sizes(strides.data(), strides.size()));
}

}  // namespace airank_fast
