// Arguments of the plain C++ launchers: tensors as dtypes and addresses, without torch; and integer helpers for grids.
// <op>.h builds on this.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace airank_fast {

enum class Dtype { kNone, kFloat32, kFloat64, kBFloat16, kFloat16 };

// Bytes of a number.
inline int64_t dtype_bytes(Dtype dtype) { return dtype == Dtype::kFloat64 ? 8 : dtype == Dtype::kFloat32 ? 4 : 2; }

// A number in device memory, float32 or float64; a null pointer: not given.
struct ScalarAddress {
  const void* pointer = nullptr;
  bool is_double = false;
};

// Arguments of every optimizer's launcher: lists of num_tensors sizes and addresses, and the addresses of its numbers.
struct ListLaunch {
  int64_t num_tensors = 0;
  const int64_t* sizes = nullptr;  // elements per tensor
  void* const* params = nullptr;
  void* const* grads = nullptr;
  void* const* copies = nullptr;  // may be null, as may lists of state
  Dtype param_dtype = Dtype::kFloat32;
  Dtype grad_dtype = Dtype::kFloat32;
  Dtype copy_dtype = Dtype::kNone;
  ScalarAddress lr, grad_scale, found_inf;
};

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace airank_fast
