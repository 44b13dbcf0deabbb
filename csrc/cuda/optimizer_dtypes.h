// What every optimizer's launcher needs: its numbers in device memory, and the types that tensor_lists.h accepts.
#pragma once

#include <type_traits>

#include "arguments.h"
#include "multi_tensor.cuh"

namespace airank_fast {

inline DeviceScalar device_scalar(const ScalarAddress& scalar) { return {scalar.pointer, scalar.is_double}; }

// Calls `run.operator()<P, G, C>()` with the types of parameters, gradients and 16-bit copies (NoCopy for none).
template <typename G, typename Run>
cudaError_t with_copy_type(Dtype copy, Run run) {
  if (copy == Dtype::kNone) return run.template operator()<float, G, NoCopy>();
  if constexpr (!std::is_same_v<G, float>) return run.template operator()<float, G, G>();
  else if (copy == Dtype::kBFloat16) return run.template operator()<float, G, __nv_bfloat16>();
  else return run.template operator()<float, G, Half>();
}

template <typename Run>
cudaError_t with_optimizer_types(Dtype param, Dtype grad, Dtype copy, Run run) {
  switch (param) {
    case Dtype::kFloat64: return run.template operator()<double, double, NoCopy>();
    case Dtype::kBFloat16: return run.template operator()<__nv_bfloat16, __nv_bfloat16, NoCopy>();
    case Dtype::kFloat16: return run.template operator()<Half, Half, NoCopy>();
    default: break;
  }
  switch (grad) {
    case Dtype::kFloat32: return with_copy_type<float>(copy, run);
    case Dtype::kBFloat16: return with_copy_type<__nv_bfloat16>(copy, run);
    case Dtype::kFloat16: return with_copy_type<Half>(copy, run);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace airank_fast
