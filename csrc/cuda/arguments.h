// How a plain C++ launcher is told about tensors: dtypes and addresses, no torch; and what its grids are counted with.
// <op>.h builds on this.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace airank_fast {

enum class Dtype { kNone, kFloat32, kFloat64, kBFloat16, kFloat16 };

// A number in device memory, float32 or float64; a null pointer means that it is not given.
struct ScalarAddress {
  const void* pointer = nullptr;
  bool is_double = false;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace airank_fast
