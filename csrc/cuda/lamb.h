// The LAMB launcher as plain C++, for the torch registration and the tests.
#pragma once

#include "../lamb_math.h"
#include "arguments.h"

namespace airank_fast {

struct LambLaunch : ListLaunch {
  void* const* exp_avgs = nullptr;  // float32, or float64 of float64 parameters
  void* const* exp_avg_sqs = nullptr;
  ScalarAddress step, grad_norm;
  LambOptions options;
  double* workspace = nullptr;  // lamb_workspace() numbers
};

// The size of the workspace in device memory, in numbers of 8 bytes.
int64_t lamb_workspace(int64_t num_tensors, const int64_t* sizes);

// Enqueues the step on `stream` of the current device, without waiting.
cudaError_t launch_lamb(const LambLaunch& step, cudaStream_t stream);

}  // namespace airank_fast
