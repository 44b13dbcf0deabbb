// Where the pixels of a bilinearly upsampled picture lie between those of the original, along one axis; one source for
// the CPU and the GPU. As torch.nn.functional.interpolate has it, with or without align_corners.
//
//   position(i) = i * (in - 1) / (out - 1)            align_corners
//               = max(0, (i + 1/2) * in / out - 1/2)  otherwise
//   y[i] = (1 - weight) * x[cell] + weight * x[min(cell + 1, in - 1)],  cell = floor(position), weight = the rest
//
// Positions are fractions of integers, so that the pixels of a cell are a range whose ends are known exactly.
#pragma once

#include "host_device.h"

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace airank_fast {

struct UpsampleAxis {
  int64_t in;
  int64_t out;
  int64_t step;    // position(i) = max(0, i * step + offset) / whole
  int64_t offset;
  int64_t whole;

  HOST_DEVICE int64_t parts(int64_t i) const {
    const int64_t parts = i * step + offset;
    return parts < 0 ? 0 : parts;
  }
  HOST_DEVICE int64_t cell(int64_t i) const { return parts(i) / whole; }
  // The first pixel of cell j or of a later one, at most `out`.
  HOST_DEVICE int64_t begin(int64_t j) const {
    if (j <= 0) return 0;
    if (j >= in || step == 0) return out;
    const int64_t i = (j * whole - offset + step - 1) / step;
    return i < 0 ? 0 : i < out ? i : out;
  }
  template <typename M>
  HOST_DEVICE M weight(int64_t i) const {
    return M(parts(i) % whole) / M(whole);
  }
};

HOST_DEVICE UpsampleAxis upsample_axis(int64_t in, int64_t out, bool align_corners) {
  if (align_corners) return {in, out, out > 1 ? in - 1 : 0, 0, out > 1 ? out - 1 : 1};
  return {in, out, 2 * in, in - out, 2 * out};
}

// Between a and b. On a GPU a value is computed twice, and must be the same: first between rows, then between columns.
template <typename M>
HOST_DEVICE M upsample_between(M a, M b, M weight) {
  return (M(1) - weight) * a + weight * b;
}

}  // namespace airank_fast
