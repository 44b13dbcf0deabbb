// The launchers of instance norm + residual + activation and its backward as plain C++, for the torch registration and
// the tests. They enqueue on `stream` of the current device, without waiting.
#pragma once

#include "arguments.h"

namespace airank_fast {

struct InstanceNormLaunch {
  Dtype dtype = Dtype::kFloat32;  // of x; statistics, weight and bias are float32, or float64 beside float64
  int64_t pictures = 0;
  int64_t channels = 0;
  int64_t pixels = 0;
  bool channels_last = false;  // at most 65535 pictures
  const void* x = nullptr;
  const void* weight = nullptr;  // [channels], may be null, as may the bias
  const void* bias = nullptr;
  double negative_slope = 1;  // of the activation, 1 without one
};

// Rows of partial results for each picture: the reductions of channels_last need them.
int64_t instance_norm_num_parts(const InstanceNormLaunch& work);

// parts [pictures, num_parts, 2 channels + 1] -> statistics [pictures, 2, channels], y. The residual may be null.
cudaError_t launch_instance_norm_act(const InstanceNormLaunch& work, const void* residual, double eps, void* parts,
                                     void* statistics, void* y, cudaStream_t stream);

// parts [pictures, num_parts, 2, channels] -> sums of dz and of dz * xhat [pictures, 2, channels], and dx. With y, the
// result of the forward pass, also the gradient of its residual.
cudaError_t launch_instance_norm_act_backward(const InstanceNormLaunch& work, const void* dy, const void* y,
                                              const void* statistics, void* parts, void* sums, void* dx,
                                              void* dresidual, cudaStream_t stream);

}  // namespace airank_fast
