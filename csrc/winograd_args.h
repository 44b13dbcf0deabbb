// The arguments of airank_fast::winograd_*, with the checks of airank_fast/ops/winograd.py in the same words.
#pragma once

#include "tensors.h"

namespace airank_fast {

// Pictures [N, H, W, C] whose windows of 4 x 4 pixels, 2 apart, are rows x columns.
struct WinogradSizes {
  int64_t pictures;
  int64_t height;
  int64_t width;
  int64_t channels;
  int64_t rows;
  int64_t columns;
};

inline void check_winograd_dtype(const char* op, const Tensor& x) {
  const ScalarType dtype = x.scalar_type();
  CHECK_ARGUMENT(dtype == ScalarType::Float || dtype == ScalarType::Double, op,
                 ": x must be float32 or float64, got ", name_of(dtype));
  CHECK_ARGUMENT(x.is_contiguous(), op, ": x must be contiguous, got strides ", text_of(x.strides()));
}

// `margin`: pixels beyond those of the 2 x 2 outputs of each window.
inline WinogradSizes check_winograd_pixels(const char* op, const Tensor& x, int64_t margin) {
  CHECK_ARGUMENT(x.dim() == 4 && x.size(1) >= 2 + margin && x.size(2) >= 2 + margin && x.size(1) % 2 == 0 &&
                     x.size(2) % 2 == 0,
                 op, ": x must have shape [N, H, W, C] with H and W even and at least ", 2 + margin, ", got ",
                 shape_of(x));
  check_winograd_dtype(op, x);
  return {x.size(0), x.size(1), x.size(2), x.size(3), (x.size(1) - margin) / 2, (x.size(2) - margin) / 2};
}

inline WinogradSizes check_winograd_numbers(const char* op, const Tensor& x, int64_t margin) {
  CHECK_ARGUMENT(x.dim() == 5 && x.size(0) == 16, op, ": x must have shape [16, N, rows, columns, C], got ",
                 shape_of(x));
  check_winograd_dtype(op, x);
  return {x.size(1), 2 * x.size(2) + margin, 2 * x.size(3) + margin, x.size(4), x.size(2), x.size(3)};
}

}  // namespace airank_fast
