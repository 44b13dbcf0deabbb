// The cross entropy launchers as plain C++, for the torch registration and the tests.
#pragma once

#include "arguments.h"

namespace airank_fast {

// Losses, statistics, loss, grad and scale are float32, or float64 of float64 logits. Strides in elements.
struct CrossEntropyLaunch {
  Dtype dtype = Dtype::kFloat32;  // of logits and gradient
  int64_t num_rows = 0;
  int64_t num_classes = 0;
  const void* logits = nullptr;
  int64_t logits_stride = 0;
  const int64_t* target = nullptr;
  int64_t ignore_index = -100;
  double label_smoothing = 0;
  bool mean = false;
  void* statistics = nullptr;  // [num_rows, 2]
  void* scale = nullptr;
  // Forward:
  void* losses = nullptr;  // [num_rows]
  void* loss = nullptr;    // the mean or sum; null if `losses` are the result
  // Backward:
  const void* grad = nullptr;  // one number, or with stride 1 one per row
  int64_t grad_stride = 0;
  void* gradient = nullptr;  // may be the logits
  int64_t gradient_stride = 0;
};

// Enqueue on `stream` of the current device, without waiting.
cudaError_t launch_cross_entropy(const CrossEntropyLaunch& work, cudaStream_t stream);
cudaError_t launch_cross_entropy_backward(const CrossEntropyLaunch& work, cudaStream_t stream);

}  // namespace airank_fast
