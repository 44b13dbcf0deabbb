// The launcher of an adaptive optimizer as plain C++, for the torch registrations and the tests.
#pragma once

#include "arguments.h"

namespace airank_fast {

template <typename Formula>
struct AdaptiveLaunch : ListLaunch {
  void* const* states[Formula::kStates] = {};  // float32, or float64 of float64 parameters
  void* const* steps = nullptr;                // a float32 number for each tensor
  typename Formula::Options options;
  double* workspace = nullptr;  // adaptive_workspace() numbers of 8 bytes
};

// The size of the workspace in device memory: the scalars of each tensor.
template <typename Formula>
int64_t adaptive_workspace(int64_t num_tensors) {
  using Scalars = typename Formula::template Scalars<double>;
  return num_tensors * int64_t(sizeof(Scalars) / sizeof(double));
}

}  // namespace airank_fast
