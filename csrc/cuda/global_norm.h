// The launcher of global_norm as plain C++, for the torch registration and the tests.
#pragma once

#include "arguments.h"

namespace airank_fast {

struct NormLaunch {
  int64_t num_tensors = 0;
  const int64_t* sizes = nullptr;  // elements per tensor
  void* const* data = nullptr;
  const Dtype* dtypes = nullptr;  // of each tensor
  double* workspace = nullptr;    // norm_workspace() numbers
  double* norm = nullptr;         // the result
};

// The size of the workspace in device memory, in numbers of 8 bytes.
int64_t norm_workspace(int64_t num_tensors, const int64_t* sizes);

// Enqueues the work on `stream` of the current device, without waiting.
cudaError_t launch_norm(const NormLaunch& launch, cudaStream_t stream);

}  // namespace airank_fast
