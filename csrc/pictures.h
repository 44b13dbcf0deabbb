// Pictures [N, C, H, W], contiguous or channels_last: their checks and their results.
#pragma once

#include "tensors.h"

namespace airank_fast {

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

inline void check_picture_shape(const char* op, const char* name, const Tensor& x) {
  CHECK_ARGUMENT(x.dim() == 4 && x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0, op, ": ", name,
                 " must have shape [N, C, H, W] with at least one channel and one pixel, got ", shape_of(x));
}

inline void check_picture_format(const char* op, const char* name, const Tensor& x, bool channels_last) {
  CHECK_ARGUMENT(is_dense_in(x, channels_last), op, ": ", name, " must be ",
                 channels_last ? "channels_last" : "contiguous", ", got strides ", text_of(x.strides()));
}

inline void check_picture(const char* op, const char* name, const Tensor& x, bool channels_last) {
  check_picture_shape(op, name, x);
  const ScalarType dtype = x.scalar_type();
  CHECK_ARGUMENT(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
                     dtype == ScalarType::Half,
                 op, ": ", name, " must be float32, float64, bfloat16 or float16, got ", name_of(dtype));
  check_picture_format(op, name, x, channels_last);
}

// [pictures, channels, height, width] beside x, of its dtype unless another is given.
inline Tensor empty_picture(const Tensor& x, const std::array<int64_t, 4>& sizes, bool channels_last,
                            std::optional<ScalarType> dtype = std::nullopt) {
  if (!channels_last) return empty_beside(x, Sizes(sizes.data(), sizes.size()), dtype);
  const auto [pictures, channels, height, width] = sizes;
  const std::array<int64_t, 4> strides{channels * height * width, 1, channels * width, channels};
  return empty_strided(x, Sizes(sizes.data(), sizes.size()), Sizes(strides.data(), strides.size()), dtype);
}

}  // namespace airank_fast
