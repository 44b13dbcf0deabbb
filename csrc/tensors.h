// Makes tensors without a call through the dispatcher, which looks an operator up by its name and takes longer than a
// small op's arithmetic.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <optional>

#include "checks.h"

namespace airank_fast {

using OptionalTensor = std::optional<Tensor>;

// For calls of torch's C functions, which return 0 on success.
inline void check_torch(AOTITorchError error) {
  if (error != 0) throw std::runtime_error("torch could not make a tensor");
}

// An uninitialised tensor on the device of `like`, of that one's dtype unless another is given.
inline Tensor empty_strided(const Tensor& like, Sizes sizes, Sizes strides,
                            std::optional<ScalarType> dtype = std::nullopt) {
  const auto dtype_code = torch::stable::detail::to<int32_t>(
      torch::stable::detail::from(dtype.value_or(like.scalar_type())));
  int32_t device_type = 0;
  check_torch(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle made = nullptr;
  check_torch(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), dtype_code,
                                       device_type, like.get_device_index(), &made));
  return Tensor(made);
}

// The same, contiguous.
inline Tensor empty_beside(const Tensor& like, Sizes sizes, std::optional<ScalarType> dtype = std::nullopt) {
  constexpr size_t kMaxDims = 64;  // torch's
  CHECK_ARGUMENT(sizes.size() <= kMaxDims, "tensors must have at most 64 dimensions, got ", sizes.size());
  std::array<int64_t, kMaxDims> strides;
  int64_t stride = 1;
  for (size_t d = sizes.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= std::max<int64_t>(sizes[d], 1);
  }
  return empty_strided(like, sizes, Sizes(strides.data(), sizes.size()), dtype);
}

// The same, with the sizes, strides and dtype of a tensor that has no gaps.
inline Tensor empty_as(const Tensor& tensor) { return empty_strided(tensor, tensor.sizes(), tensor.strides()); }

// The tensor if it is contiguous, else a copy that is.
inline Tensor as_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline OptionalTensor as_contiguous(const OptionalTensor& tensor) {
  return tensor ? OptionalTensor(as_contiguous(*tensor)) : std::nullopt;
}

}  // namespace airank_fast
