// Undoes the filters of a PNG's rows, of 8 bits a channel: a byte of a row is stored as its difference from what its
// neighbours predict (Portable Network Graphics, Third Edition, section 9).
#pragma once

#include <cstdint>
#include <cstring>

namespace airank_fast::host {

// The channels of a pixel, side by side in a vector: Paeth's predictor needs the pixel before, so that there is nothing
// else to vectorise.
using Lanes = int16_t __attribute__((vector_size(16)));

inline Lanes magnitude(Lanes x) { return x < 0 ? -x : x; }

// left, up or up_left, whichever is nearest to left + up - up_left, in this order.
inline Lanes paeth(Lanes left, Lanes up, Lanes up_left) {
  const Lanes from_left = magnitude(up - up_left), from_up = magnitude(left - up_left);
  const Lanes from_corner = magnitude((up - up_left) + (left - up_left));
  const Lanes nearer = from_left <= from_up ? from_left : from_up;
  const Lanes side = from_left <= from_up ? left : up;
  return nearer <= from_corner ? side : up_left;
}

template <int kChannels>
Lanes pixel_at(const uint8_t* from) {
  Lanes pixel = {};
  for (int c = 0; c < kChannels; ++c) pixel[c] = from[c];
  return pixel;
}

template <int kChannels>
void unfilter_paeth(const uint8_t* row, const uint8_t* above, int64_t width, uint8_t* out) {
  const Lanes byte = Lanes{} + 255;
  Lanes left = {}, up_left = {};
  for (int64_t i = 0; i < width * kChannels; i += kChannels) {
    const Lanes up = pixel_at<kChannels>(above + i);
    left = (pixel_at<kChannels>(row + i) + paeth(left, up, up_left)) & byte;
    up_left = up;
    for (int c = 0; c < kChannels; ++c) out[i + c] = uint8_t(left[c]);
  }
}

// From num_rows rows of a filter's number and width pixels to [num_rows, width, kChannels]. Returns false for a number
// that is no filter's.
template <int kChannels>
bool unfilter(const uint8_t* rows, int64_t num_rows, int64_t width, const uint8_t* zeros, uint8_t* out) {
  const int64_t size = width * kChannels;
  const uint8_t* above = zeros;
  for (int64_t r = 0; r < num_rows; ++r, above = out, out += size) {
    const uint8_t* row = rows + r * (size + 1) + 1;
    switch (row[-1]) {
      case 0: std::memcpy(out, row, size); break;
      case 1:
        std::memcpy(out, row, kChannels);
        for (int64_t i = kChannels; i < size; ++i) out[i] = uint8_t(row[i] + out[i - kChannels]);
        break;
      case 2:
        for (int64_t i = 0; i < size; ++i) out[i] = uint8_t(row[i] + above[i]);
        break;
      case 3:
        for (int64_t i = 0; i < kChannels; ++i) out[i] = uint8_t(row[i] + above[i] / 2);
        for (int64_t i = kChannels; i < size; ++i) out[i] = uint8_t(row[i] + (out[i - kChannels] + above[i]) / 2);
        break;
      case 4: unfilter_paeth<kChannels>(row, above, width, out); break;
      default: return false;
    }
  }
  return true;
}

}  // namespace airank_fast::host
