// The launchers of the factorization machine's second-order term as plain C++, for the torch registration and the tests.
#pragma once

#include "arguments.h"

namespace airank_fast {

struct FmLaunch {
  Dtype dtype = Dtype::kFloat32;  // of x and its gradient
  int64_t samples = 0;            // contiguous, like everything
  int64_t fields = 0;
  int64_t dim = 0;
  const void* x = nullptr;
  const void* grad = nullptr;  // backward: [samples], float32, or float64 of float64 x
  void* result = nullptr;      // [samples] like grad, or the gradient of x
};

// Enqueue on `stream` of the current device, without waiting.
cudaError_t launch_fm(const FmLaunch& work, cudaStream_t stream);
cudaError_t launch_fm_backward(const FmLaunch& work, cudaStream_t stream);

}  // namespace airank_fast
