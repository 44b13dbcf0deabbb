// Where a direct convolution, or the gradient of its input, finds its numbers.
//
// Both are sums over the taps of a filter: output m of a side is at first + m * out_step, and tap t of it meets the
// source at m * in_step + offset. The gradient of an input with a stride has as many phases, each with taps of its own.
// Taps that meet nothing but padding are left out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../direct_conv_args.h"

namespace airank_fast {

struct ConvTap {
  int64_t index;  // in the filter
  int64_t offset;
};

struct ConvPhase {
  int64_t first;
  int64_t count;
  std::vector<ConvTap> taps;  // by offset
};

struct ConvSide {
  int64_t in_step;
  int64_t out_step;
  int64_t size;    // of the source
  int64_t before;  // padding in front of the source, and the size with all padding
  int64_t padded;
  std::vector<ConvPhase> phases;

  // Whether the source itself will do.
  bool is_source() const { return before == 0 && padded == size; }
};

inline ConvSide padded_side(int64_t in_step, int64_t out_step, int64_t size, std::vector<ConvPhase> phases) {
  int64_t lo = 0, hi = 1;
  for (ConvPhase& phase : phases) {
    const int64_t reach = (phase.count - 1) * in_step;
    std::erase_if(phase.taps, [&](const ConvTap& tap) {
      // The least m at which the tap is not before the source must be an output, and not behind the source.
      const int64_t m = tap.offset >= 0 ? 0 : (-tap.offset + in_step - 1) / in_step;
      return m >= phase.count || m * in_step + tap.offset >= size;
    });
    for (const ConvTap& tap : phase.taps) {
      lo = std::min(lo, tap.offset);
      hi = std::max(hi, reach + tap.offset + 1);
    }
    if (phase.taps.empty()) hi = std::max(hi, reach + 1);
  }
  return {in_step, out_step, size, -lo, hi - lo, std::move(phases)};
}

// Of the output, from the input.
inline ConvSide output_side(const ConvArgs& args, int64_t size, int64_t outputs, int64_t kernel) {
  ConvPhase phase{0, outputs, {}};
  for (int64_t t = 0; t < kernel; ++t) phase.taps.push_back({t, t * args.dilation - args.padding});
  return padded_side(args.stride, 1, size, {phase});
}

// Of the input's gradient, from the output's.
inline ConvSide input_side(const ConvArgs& args, int64_t size, int64_t outputs, int64_t kernel) {
  std::vector<ConvPhase> phases;
  for (int64_t first = 0; first < std::min(args.stride, size); ++first) {
    ConvPhase phase{first, (size - first + args.stride - 1) / args.stride, {}};
    for (int64_t t = kernel; t-- > 0;) {
      const int64_t distance = first + args.padding - t * args.dilation;
      if (distance % args.stride == 0) phase.taps.push_back({t, distance / args.stride});
    }
    phases.push_back(std::move(phase));
  }
  return padded_side(1, args.stride, outputs, std::move(phases));
}

// Neighbours in the padded source, from `offset` numbers behind an output's first.
struct ConvRun {
  int64_t offset;
  int64_t size;
};

constexpr int64_t kConvPartNumbers = 192;  // whose weights stay in the first-level cache

// The taps of two sides' phases: as places in the filter, and as runs, which are taken in parts.
struct ConvTaps {
  std::vector<int64_t> places;  // row * kernel_w + column
  std::vector<int64_t> offsets;
  std::vector<ConvRun> runs;
  std::vector<int64_t> parts{0};  // the first run of each, and behind the last

  ConvTaps(const ConvSide& rows, const ConvPhase& down, const ConvSide& columns, const ConvPhase& across,
           int64_t kernel_w, int64_t channels) {
    for (const ConvTap& row : down.taps) {
      for (const ConvTap& column : across.taps) {
        const int64_t pixel = (row.offset + rows.before) * columns.padded + column.offset + columns.before;
        places.push_back(row.index * kernel_w + column.index);
        offsets.push_back(pixel * channels);
        add(pixel * channels, channels);
      }
    }
    if (parts.back() < int64_t(runs.size()) || runs.empty()) parts.push_back(int64_t(runs.size()));
  }

 private:
  int64_t open = 0;  // numbers of the last part

  void add(int64_t offset, int64_t size) {
    while (size > 0) {
      if (open == kConvPartNumbers) {
        parts.push_back(int64_t(runs.size()));
        open = 0;
      }
      const int64_t taken = std::min(size, kConvPartNumbers - open);
      if (open > 0 && runs.back().offset + runs.back().size == offset) runs.back().size += taken;
      else runs.push_back({offset, taken});
      offset += taken;
      size -= taken;
      open += taken;
    }
  }
};

// The pixels of two sides' phases, numbered through all pictures: where their sources begin, and where they lie.
struct ConvPixels {
  int64_t pictures, rows, columns;
  int64_t in_picture, in_row, in_column;              // numbers from one to the next
  int64_t out_first, out_picture, out_row, out_column;

  int64_t count() const { return pictures * rows * columns; }

  void find(int64_t begin, int64_t end, int64_t* in, int64_t* out) const {
    int64_t column = begin % columns, row = begin / columns % rows, picture = begin / columns / rows;
    for (int64_t p = begin; p < end; ++p) {
      *in++ = picture * in_picture + row * in_row + column * in_column;
      if (out != nullptr) *out++ = out_first + picture * out_picture + row * out_row + column * out_column;
      if (++column < columns) continue;
      column = 0;
      if (++row < rows) continue;
      row = 0;
      ++picture;
    }
  }
};

}  // namespace airank_fast
