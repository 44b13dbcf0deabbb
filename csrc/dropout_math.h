// The elements that dropout keeps, and their scale; the same on the CPU and on the GPU.
//
// Element i (its position in the contiguous tensor) has word i % 4 of Philox's four words for counter i / 4, under the
// two numbers of `seed`: key, and upper half of the counter. It is dropped where the word is less than p * 2^32,
// rounded, at most 2^32 - 1; kept elements are multiplied by 1 / (1 - p), by 0 if p is 1. The mask is never stored: the
// backward pass recomputes it from the seed.
#pragma once

#include "philox.h"

namespace airank_fast {

template <typename T>
struct Dropout {
  uint32_t threshold;
  T scale;

  HOST_DEVICE bool any() const { return threshold != 0; }
  HOST_DEVICE bool keeps(uint64_t word) const { return uint32_t(word) >= threshold; }
};

template <typename T>
HOST_DEVICE Dropout<T> dropout_of(double p) {
  const double threshold = p * 4294967296.0 + 0.5;
  return {threshold < 4294967295.0 ? uint32_t(threshold) : 0xffffffffu, p < 1 ? T(1.0 / (1.0 - p)) : T(0)};
}

}  // namespace airank_fast
