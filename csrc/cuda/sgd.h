// The SGD launcher as plain C++, for the torch registration and the tests.
#pragma once

#include "arguments.h"

namespace airank_fast {

struct SgdLaunch : ListLaunch {
  void* const* buffers = nullptr;  // of the parameters' dtype
  double momentum = 0;
  double dampening = 0;
  double weight_decay = 0;
  bool nesterov = false;
  bool maximize = false;
};

// Enqueues the step on `stream` of the current device, without waiting.
cudaError_t launch_sgd(const SgdLaunch& step, cudaStream_t stream);

}  // namespace airank_fast
