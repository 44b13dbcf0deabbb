// Where the pixels of an upsampled picture lie between those of the original, along one axis; one source for the CPU and
// the GPU. As torch.nn.functional.interpolate has it, bilinear with or without align_corners, or nearest.
//
//   position(i) = i * (in - 1) / (out - 1)            align_corners
//               = max(0, (i + 1/2) * in / out - 1/2)  otherwise
//               = floor(i * in / out)                 nearest
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
  double per_part;  // 1 / whole; 0: every pixel is at its cell

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
    return M(parts(i) % whole) * M(per_part);
  }
};

HOST_DEVICE UpsampleAxis upsample_axis(int64_t in, int64_t out, bool align_corners) {
  const int64_t last = out > 1 ? out - 1 : 1;
  if (align_corners) return {in, out, out > 1 ? in - 1 : 0, 0, last, 1.0 / double(last)};
  return {in, out, 2 * in, in - out, 2 * out, 0.5 / double(out)};
}

HOST_DEVICE UpsampleAxis nearest_axis(int64_t in, int64_t out) { return {in, out, in, 0, out, 0}; }

// The pixels that take from one number of the original: those of the cell before it, but for nearest, and of its own.
template <typename M>
struct UpsampleReach {
  UpsampleAxis axis;
  int64_t at;
  int64_t begin;
  int64_t middle;
  int64_t end;

  HOST_DEVICE UpsampleReach(const UpsampleAxis& axis, int64_t at)
      : axis(axis),
        at(at),
        begin(axis.begin(axis.per_part != 0 ? at - 1 : at)),
        middle(axis.begin(at)),
        end(axis.begin(at + 1)) {}
  HOST_DEVICE int64_t before() const { return at > 0 ? at - 1 : 0; }
  HOST_DEVICE int64_t after() const { return at + 1 < axis.in ? at + 1 : at; }
  // Pixel i's weight of the second number of its cell, and of this number.
  HOST_DEVICE M weight(int64_t i) const {
    const int64_t cell = i < middle ? at - 1 : at;
    return M(int32_t(axis.parts(i) - cell * axis.whole)) * M(axis.per_part);
  }
  HOST_DEVICE M share(int64_t i, M weight) const {
    return i < middle ? weight : at + 1 < axis.in ? M(1) - weight : M(1);
  }
};

// Between a and b. On a GPU a value is computed twice, and must be the same: first between rows, then between columns.
template <typename M>
HOST_DEVICE M upsample_between(M a, M b, M weight) {
  return (M(1) - weight) * a + weight * b;
}

}  // namespace airank_fast
