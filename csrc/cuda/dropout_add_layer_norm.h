// The launchers of dropout_add_layer_norm as plain C++, for the torch registration and the tests. The rows are those of
// the sum, which the forward launcher writes.
#pragma once

#include "layer_norm.h"

namespace airank_fast {

// In LayerNormRows here: x is not read forward and is the sum backward; x_dtype is the dtype of sum, residual and their
// gradients; y_dtype that of x, of y and of theirs; weight_dtype is y_dtype, or float32.
struct DropoutAdd {
  double p = 0;
  const int64_t* seed = nullptr;  // two numbers in device memory; null with p = 0
  // Forward.
  const void* x = nullptr;
  const void* residual = nullptr;
  void* sum = nullptr;
  void* y = nullptr;
  // Backward.
  const void* grad_sum = nullptr;  // may be null
  void* grad_residual = nullptr;
};

// Enqueue on `stream` of the current device, without waiting.
cudaError_t launch_dropout_add_layer_norm(const LayerNormRows& rows, const DropoutAdd& add, double eps,
                                          cudaStream_t stream);
cudaError_t launch_dropout_add_layer_norm_backward(const LayerNormRows& rows, const LayerNormGrads& grads,
                                                   const DropoutAdd& add, cudaStream_t stream);

}  // namespace airank_fast
