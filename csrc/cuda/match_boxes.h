// The launcher of match_boxes as plain C++, for the torch registration and the tests.
#pragma once

#include "arguments.h"

namespace airank_fast {

struct MatchLaunch {
  Dtype dtype = Dtype::kFloat32;  // of boxes, truths and IoUs, or float64
  const void* boxes = nullptr;    // [..., 4]
  // Results are of `pictures` times `boxes_each` boxes, or of `results` ones with offsets.
  int64_t pictures = 0;
  int64_t boxes_each = 0;
  bool boxes_of_all = false;              // the same boxes for every picture
  const int64_t* box_offsets = nullptr;   // [pictures + 1], or null
  int64_t results = 0;
  const void* truths = nullptr;           // [num_truths, 4]
  const int64_t* truth_offsets = nullptr;  // [pictures + 1]
  int64_t num_truths = 0;
  double low = 0;
  double high = 0;
  bool allow_low_quality = false;
  void* largest = nullptr;     // with allow_low_quality room for num_truths numbers of the dtype's size
  int64_t* matches = nullptr;  // [results]
  void* ious = nullptr;        // [results]
};

// Enqueues on `stream` of the current device, without waiting.
cudaError_t launch_match_boxes(const MatchLaunch& work, cudaStream_t stream);

}  // namespace airank_fast
