// The launchers of RoIAlign and its backward as plain C++, for the torch registration and the tests.
#pragma once

#include "../roi_align_math.h"
#include "arguments.h"

namespace airank_fast {

struct RoiAlignLevel {
  void* data = nullptr;  // in backward the gradient, written
  int64_t height = 0;
  int64_t width = 0;
  double scale = 1;
};

struct RoiAlignLaunch {
  Dtype dtype = Dtype::kFloat32;  // of the pictures; kNone: bytes, whose result is float32
  int64_t pictures = 0;
  int64_t channels = 0;
  int64_t num_rois = 0;
  int64_t height = 0;  // bins
  int64_t width = 0;
  int64_t sampling_ratio = 0;
  bool aligned = false;
  bool channels_last = false;
  const void* rois = nullptr;  // [num_rois, 5], float32, or float64 of float64 pictures
  RoiAlignLevel levels[kRoiLevels];
  int num_levels = 0;
  double areas[kRoiLevels - 1] = {};
  const void* grad = nullptr;  // backward: [num_rois, channels, height, width]
  void* result = nullptr;      // forward: the same
};

// Enqueue on `stream` of the current device, without waiting.
cudaError_t launch_roi_align(const RoiAlignLaunch& work, cudaStream_t stream);
cudaError_t launch_roi_align_backward(const RoiAlignLaunch& work, cudaStream_t stream);

}  // namespace airank_fast
