// The launcher of masks of polygons in boxes as plain C++, for the torch registration and the tests.
#pragma once

#include "../mask_targets_math.h"
#include "arguments.h"

namespace airank_fast {

struct MaskTargetsLaunch {
  int64_t num_boxes = 0;
  int64_t size = 0;     // of the grid, at most kMaskMostSize
  int64_t objects = 0;
  const float* boxes = nullptr;  // [num_boxes, 4]
  const int64_t* matched = nullptr;
  const float* points = nullptr;  // [points, 2]
  const int64_t* polygon_offsets = nullptr;
  const int64_t* object_offsets = nullptr;
  float* result = nullptr;  // [num_boxes, size, size]
};

// Enqueues on `stream` of the current device, without waiting.
cudaError_t launch_mask_targets(const MaskTargetsLaunch& work, cudaStream_t stream);

}  // namespace airank_fast
