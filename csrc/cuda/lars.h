// The LARS launcher as plain C++, for the torch registration and the tests.
#pragma once

#include "arguments.h"

namespace airank_fast {

struct LarsLaunch : ListLaunch {
  void* const* velocities = nullptr;  // of the parameters' dtype
  double momentum = 0;
  double weight_decay = 0;
  double trust_coefficient = 0;
  double eps = 0;
  bool nesterov = false;
  bool adapt = true;
  double* workspace = nullptr;  // lars_workspace() numbers
};

// The size of the workspace in device memory, in numbers of 8 bytes.
int64_t lars_workspace(int64_t num_tensors, const int64_t* sizes);

// Enqueues the step on `stream` of the current device, without waiting.
cudaError_t launch_lars(const LarsLaunch& step, cudaStream_t stream);

}  // namespace airank_fast
