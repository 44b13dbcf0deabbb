// The layer norm launchers as plain C++, for the torch registration and the tests.
#pragma once

#include "arguments.h"

namespace airank_fast {

// A contiguous matrix and its parameters, which may be null.
struct LayerNormRows {
  int64_t rows = 0;
  int64_t columns = 0;
  Dtype x_dtype = Dtype::kFloat32;       // the statistics are float32, float64 of float64
  Dtype y_dtype = Dtype::kFloat32;       // x's; or 16-bit of float32. In the backward pass: of the incoming gradient
  Dtype weight_dtype = Dtype::kFloat32;  // of bias and of the parameters' gradients too: x's, or float32
  const void* x = nullptr;
  const void* weight = nullptr;
  const void* bias = nullptr;
  void* mean = nullptr;
  void* rstd = nullptr;
};

struct LayerNormGrads {
  const void* grad = nullptr;
  void* grad_x = nullptr;
  void* grad_weight = nullptr;  // these three null: not needed
  void* grad_bias = nullptr;
  void* partials = nullptr;  // [2][num_blocks][columns] of the statistics' dtype, memory to work in
  int64_t num_blocks = 0;    // from backward_blocks() in layer_norm_grid.h
};

// Enqueue on `stream` of the current device, without waiting.
cudaError_t launch_layer_norm(const LayerNormRows& rows, double eps, void* y, cudaStream_t stream);
cudaError_t launch_layer_norm_backward(const LayerNormRows& rows, const LayerNormGrads& grads, cudaStream_t stream);

}  // namespace airank_fast
