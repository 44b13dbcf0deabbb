// The bias + GELU launchers as plain C++, for the torch registration and the tests.
#pragma once

#include "arguments.h"

namespace airank_fast {

struct BiasGeluLaunch {
  Dtype dtype = Dtype::kFloat32;       // of x, grad and result
  Dtype bias_dtype = Dtype::kFloat32;  // that of x, or float32; of the bias's gradient too
  bool tanh = false;
  int64_t rows = 0;  // contiguous, like everything
  int64_t columns = 0;
  const void* x = nullptr;
  const void* bias = nullptr;
  void* result = nullptr;  // gelu(x + bias), or the gradient of x
  // Backward:
  const void* grad = nullptr;
  void* bias_gradient = nullptr;
  void* partial = nullptr;  // bias_gelu_chunks() x columns numbers, float64 for float64, else float32
};

// Enqueue on `stream` of the current device, without waiting.
cudaError_t launch_bias_gelu(const BiasGeluLaunch& work, cudaStream_t stream);
cudaError_t launch_bias_gelu_backward(const BiasGeluLaunch& work, cudaStream_t stream);

// The number of chunks of rows in backward.
int64_t bias_gelu_chunks(int64_t rows);

}  // namespace airank_fast
