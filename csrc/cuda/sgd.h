// The SGD launcher as plain C++: what sgd.cu offers to the torch registration and to the tests.
#pragma once

#include "arguments.h"

namespace airank_fast {

struct SgdLaunch {
  int64_t num_tensors = 0;
  const int64_t* sizes = nullptr;  // elements per tensor
  // num_tensors addresses each; buffers and copies may be null.
  void* const* params = nullptr;
  void* const* grads = nullptr;
  void* const* buffers = nullptr;
  void* const* copies = nullptr;
  Dtype param_dtype = Dtype::kFloat32;  // of the buffers too
  Dtype grad_dtype = Dtype::kFloat32;
  Dtype copy_dtype = Dtype::kNone;
  ScalarAddress lr, grad_scale, found_inf;
  double momentum = 0;
  double dampening = 0;
  double weight_decay = 0;
  bool nesterov = false;
  bool maximize = false;
};

// Enqueues the step on `stream` of the current device; nothing is waited for.
cudaError_t launch_sgd(const SgdLaunch& step, cudaStream_t stream);

}  // namespace airank_fast
