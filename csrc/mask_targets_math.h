// A polygon's mask on a small grid, by the rule of the COCO API (rleFrPoly); one source for the CPU and the GPU.
//
// Vertices are rounded to fifths of a pixel, and edges are walked in such steps along their longer axis, the other
// coordinate rounded. Column c is crossed where the walk passes from fifth 5c + 2 to 5c + 3 or back, at the smaller of
// both heights: from there down the column's pixels change sides. Pixels that changed an odd number of times are inside.
#pragma once

#include "host_device.h"

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace airank_fast {

// A column's pixels are the bits of a word.
constexpr int32_t kMaskMostSize = 64;

// A box as the origin and the factors of coordinates in it, and whether they are finite. Boxes are at least one pixel wide
// and high, as in MLPerf's reference; float32 as there.
struct MaskWindow {
  float left;
  float top;
  float across;
  float down;
  bool is_finite;
};

HOST_DEVICE MaskWindow mask_window(const float* box, int32_t size) {
  const float width = box[2] - box[0], height = box[3] - box[1];
  const float across = float(double(size) / double(width < 1.0f ? 1.0f : width));
  const float down = float(double(size) / double(height < 1.0f ? 1.0f : height));
  return {box[0], box[1], across, down, width - width == 0.0f && height - height == 0.0f};
}

struct MaskVertex {
  int32_t x;  // fifths of a pixel
  int32_t y;
};

// Towards 0, as a C cast; far coordinates and NaN at a limit, whose differences are integers too.
HOST_DEVICE int32_t mask_integer(double x) {
  constexpr double kMost = 1e9;
  return x > -kMost ? (x < kMost ? int32_t(x) : int32_t(kMost)) : -int32_t(kMost);
}

HOST_DEVICE MaskVertex mask_vertex(const MaskWindow& window, const float* point) {
  const float x = (point[0] - window.left) * window.across, y = (point[1] - window.top) * window.down;
  return {mask_integer(5.0 * double(x) + 0.5), mask_integer(5.0 * double(y) + 0.5)};
}

// start + slope * t, rounded. Product and sum are rounded one by one, as in the COCO API: ties are frequent.
HOST_DEVICE int32_t mask_step(int32_t start, double slope, int32_t t) {
#ifdef __CUDA_ARCH__
  return int32_t(__dadd_rn(__dadd_rn(double(start), __dmul_rn(slope, double(t))), 0.5));
#else
  return int32_t(double(start) + slope * double(t) + 0.5);
#endif
}

// Calls flip(c, pixels) for each column that an edge crosses, with the bits of the pixels that change sides.
template <typename Flip>
HOST_DEVICE void mask_edge(MaskVertex a, MaskVertex b, int32_t size, Flip flip) {
  const int32_t low = a.x < b.x ? a.x : b.x, high = a.x < b.x ? b.x : a.x;
  const int32_t dx = high - low, dy = a.y < b.y ? b.y - a.y : a.y - b.y;
  const bool is_flat = dx >= dy;
  if (is_flat ? a.x > b.x : a.y > b.y) {
    const MaskVertex other = a;
    a = b, b = other;
  }
  const double slope = is_flat ? double(b.y - a.y) / double(dx) : double(b.x - a.x) / double(dy);
  const int32_t first = low <= 2 ? 0 : (low + 2) / 5;
  for (int32_t c = first; c < size && 5 * c + 3 <= high; ++c) {
    int32_t y;
    if (is_flat) {
      const int32_t t = 5 * c + 2 - a.x;
      const int32_t before = mask_step(a.y, slope, t), after = mask_step(a.y, slope, t + 1);
      y = before < after ? before : after;
    } else {
      // The last step before x has crossed: nearly where the straight line does.
      const bool grows = slope > 0;
      const double near = (double(5 * c) + 2.5 - double(a.x)) / slope;
      int32_t t = near <= 0 ? 0 : near >= double(dy) ? dy : int32_t(near);
      const auto is_before = [&](int32_t step) { return (mask_step(a.x, slope, step) <= 5 * c + 2) == grows; };
      while (t > 0 && !is_before(t)) --t;
      while (t < dy && is_before(t + 1)) ++t;
      y = a.y + t;
    }
    const int32_t row = y <= 2 ? 0 : (y + 2) / 5;
    if (row < size) flip(c, ~uint64_t(0) << row);
  }
}

}  // namespace airank_fast
