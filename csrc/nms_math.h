// Non-maximum suppression: boxes in the order of falling scores; one is removed where its IoU with a kept one before it
// is above the threshold.
#pragma once

#include <cmath>
#include <limits>

namespace airank_fast {

// The largest T that is not above the threshold. A T is above the one where it is above the other, so that
// comparisons in T are those in double, which torchvision makes.
template <typename T>
T nms_threshold(double threshold) {
  const T rounded = static_cast<T>(threshold);
  return double(rounded) > threshold ? std::nextafter(rounded, -std::numeric_limits<T>::infinity()) : rounded;
}

}  // namespace airank_fast
