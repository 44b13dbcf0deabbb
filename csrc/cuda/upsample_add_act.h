// The launchers of the sum of upsampled pictures and its backward as plain C++, for the torch registration and the tests.
#pragma once

#include "arguments.h"

namespace airank_fast {

// A picture of rows of pixels of channels; a contiguous one is planes of one channel.
struct UpsampledPicture {
  const void* data = nullptr;
  int64_t height = 0;
  int64_t width = 0;
};

struct UpsampleAddLaunch {
  Dtype dtype = Dtype::kFloat32;
  int64_t pictures = 0;
  int64_t channels = 0;
  int64_t height = 0;  // of the result; in backward of its gradient
  int64_t width = 0;
  bool relu = false;
  bool nearest = false;
  bool align_corners = false;
  const void* x = nullptr;  // of the result's size; in backward its gradient
  UpsampledPicture others[3];
  int num_others = 0;
  void* result = nullptr;
  // Backward: of the gradient that is computed.
  int64_t low_height = 0;
  int64_t low_width = 0;
};

// Enqueue on `stream` of the current device, without waiting.
cudaError_t launch_upsample_add_act(const UpsampleAddLaunch& work, cudaStream_t stream);
cudaError_t launch_upsample_add_act_backward(const UpsampleAddLaunch& work, cudaStream_t stream);

}  // namespace airank_fast
