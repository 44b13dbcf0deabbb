// Which truth a box is matched with, as torchvision's Matcher: the one of the largest IoU, of equal ones the first,
// unless that IoU is below the thresholds.
#pragma once

#include "host_device.h"

namespace airank_fast {

constexpr int kMatchBelowLow = -1;
constexpr int kMatchBetween = -2;

// Whether an IoU takes the place of the largest one so far: as in torch's max, NaN is larger than any number.
template <typename T>
HOST_DEVICE bool match_is_larger(T iou, T largest) {
  return iou > largest || (iou != iou && largest == largest);
}

// NaN is below no threshold.
template <typename T>
HOST_DEVICE int64_t match_of(int64_t truth, T iou, T low, T high) {
  return iou < low ? kMatchBelowLow : iou < high ? kMatchBetween : truth;
}

}  // namespace airank_fast
