// Where RoIAlign takes its samples; one source for the CPU and the GPU. As torchvision.ops.roi_align has it: a RoI, of
// `bins` bins along an axis, has `grid` samples in each, between two cells of the picture or outside of it.
//
//   start = low * scale - (1/2 if aligned),  length = (high - low) * scale, at least 1 unless aligned
//   position(bin, i) = start + bin * length / bins + (i + 1/2) * length / bins / grid
//   grid = sampling_ratio, or ceil(length / bins) where that is not positive
//   x(position) = 0 outside of [-1, size], else (1 - weight) * x[cell] + weight * x[cell + 1] of the nearest in
//   [0, size - 1], and a bin is the mean of its samples
//
// The two axes are independent: a bin is the sum over cells of the product of two weights.
#pragma once

#include "host_device.h"

#ifndef __CUDACC_RTC__
#include <cmath>
#include <cstdint>
#endif

namespace airank_fast {

// Levels of a pyramid that one call takes.
constexpr int kRoiLevels = 4;
// A RoI with more samples in a bin is taken for one that is not finite.
constexpr int kRoiMostSamples = 1 << 20;

// A sample between two cells; the weight of the second, or 0, and then the second may not exist.
template <typename M>
struct RoiSample {
  bool is_inside;
  int32_t cell;
  M weight;
};

template <typename M>
struct RoiAxis {
  M start;
  M bin;
  int32_t size;  // cells of the picture
  int32_t grid;  // samples in a bin; of a RoI that is not finite -1

  HOST_DEVICE bool is_finite() const { return grid >= 0; }
  HOST_DEVICE M position(int32_t bin_index, int32_t i) const {
    return start + M(bin_index) * bin + (M(i) + M(0.5)) * bin / M(grid);
  }
  HOST_DEVICE RoiSample<M> sample(int32_t bin_index, int32_t i) const {
    const M at = position(bin_index, i);
    if (at < M(-1) || at > M(size)) return {false, 0, M(0)};
    if (at <= M(0)) return {true, 0, M(0)};
    const int32_t cell = int32_t(at);
    if (cell >= size - 1) return {true, size - 1, M(0)};
    return {true, cell, at - M(cell)};
  }
  // Of a bin's samples the first that may lie at or above `low`, and the one after the last that may lie at or below
  // `high`: a huge RoI has few samples in the picture.
  HOST_DEVICE int32_t first(int32_t bin_index, M low) const {
    return bin > M(0) ? bounded((low - position(bin_index, 0)) / bin * M(grid) - M(1)) : 0;
  }
  HOST_DEVICE int32_t last(int32_t bin_index, M high) const {
    return bin > M(0) ? bounded((high - position(bin_index, 0)) / bin * M(grid) + M(2)) : grid;
  }
  HOST_DEVICE int32_t bounded(M i) const { return i <= M(0) ? 0 : i >= M(grid) ? grid : int32_t(i); }
  // The part of a bin that a cell is.
  HOST_DEVICE M share(int32_t bin_index, int32_t cell) const {
    const int32_t end = last(bin_index, cell == size - 1 ? M(size) : M(cell + 1));
    M sum = 0;
    for (int32_t i = first(bin_index, M(cell - 1)); i < end; ++i) {
      const RoiSample<M> at = sample(bin_index, i);
      if (at.is_inside && at.cell == cell) sum += M(1) - at.weight;
      else if (at.is_inside && at.cell + 1 == cell) sum += at.weight;
    }
    return sum / M(grid);
  }
};

template <typename M>
HOST_DEVICE RoiAxis<M> roi_axis(M low, M high, M scale, int32_t bins, int32_t size, int32_t sampling_ratio,
                                bool aligned) {
  const M offset = aligned ? M(0.5) : M(0);
  const M start = low * scale - offset;
  M length = (high * scale - offset) - start;
  if (!aligned && length < M(1)) length = M(1);
  const M bin = length / M(bins);
  const M grid = sampling_ratio > 0 ? M(sampling_ratio) : ceil(bin);
  if (!(start - start == M(0) && length - length == M(0) && grid <= M(kRoiMostSamples))) return {start, bin, size, -1};
  return {start, bin, size, grid > M(0) ? int32_t(grid) : 0};
}

// 0: as many samples as a bin has pixels.
HOST_DEVICE int32_t roi_sampling_ratio(int64_t ratio) { return ratio > 0 ? int32_t(ratio) : 0; }

// The level of a RoI: as many as it has limits of areas at or below its own.
template <typename M>
HOST_DEVICE int roi_level(const M* box, const M* areas, int num_areas) {
  const M area = (box[2] - box[0]) * (box[3] - box[1]);
  int level = 0;
  for (int i = 0; i < num_areas; ++i) level += area >= areas[i];
  return level;
}

}  // namespace airank_fast
