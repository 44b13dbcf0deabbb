// Shared by the torch registrations of the CUDA kernels: dtypes, addresses, the device and its current stream.
//
// With AIRANK_FAST_CUDA_ON_CPU the same sources, compiled by a host compiler together with the tests' emulator,
// register the kernels for CPU tensors, so that the tests of the ops also run on the CUDA kernels.
#pragma once

#ifndef AIRANK_FAST_CUDA_ON_CPU
#ifndef USE_CUDA
#error "torch's stable headers show the current CUDA stream where USE_CUDA is defined, before the first of them"
#endif
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#endif
#include <torch/csrc/stable/library.h>

#include <optional>
#include <string>
#include <vector>

#include "../tensor_lists.h"
#include "arguments.h"

#ifdef AIRANK_FAST_CUDA_ON_CPU
#define CUDA_KERNELS(m) STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m)
#else
#define CUDA_KERNELS(m) STABLE_TORCH_LIBRARY_IMPL(airank_fast, CUDA, m)
#endif

namespace airank_fast {

#ifdef AIRANK_FAST_CUDA_ON_CPU
class OnDevice {
 public:
  explicit OnDevice(const Tensor&) {}
  cudaStream_t stream() const { return nullptr; }
};
#else
// Makes the device of `tensor` the current one while this lives.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& tensor) : index_(tensor.get_device_index()), guard_(index_) {}

  cudaStream_t stream() const {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream));
    return static_cast<cudaStream_t>(stream);
  }

 private:
  int32_t index_;
  torch::stable::accelerator::DeviceGuard guard_;
};
#endif

inline void check_launch(const char* op, cudaError_t error) {
  CHECK_ARGUMENT(error == cudaSuccess, op, ": the launch of a kernel must succeed, got ", cudaGetErrorString(error));
}

inline Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Dtype::kFloat32;
    case ScalarType::Double: return Dtype::kFloat64;
    case ScalarType::BFloat16: return Dtype::kBFloat16;
    case ScalarType::Half: return Dtype::kFloat16;
    default: return Dtype::kNone;
  }
}

inline Dtype dtype_of(const TensorList& list) {
  return list.empty() ? Dtype::kNone : dtype_of(list[0]);
}

inline std::vector<void*> addresses_of(const TensorList& list) {
  std::vector<void*> addresses;
  addresses.reserve(list.size());
  for (const Tensor& tensor : list) addresses.push_back(tensor.data_ptr());
  return addresses;
}

inline ScalarAddress address_of(const std::optional<Tensor>& scalar) {
  if (!scalar) return {};
  return {scalar->data_ptr(), scalar->scalar_type() == ScalarType::Double};
}

// An optimizer's lists as its launcher takes them; a launch's pointers are valid as long as this object.
class LauncherLists {
 public:
  template <typename Args>
  void describe(const Args& args, ListLaunch& launch) {
    sizes_.reserve(args.params.size());
    for (const Tensor& param : args.params) sizes_.push_back(param.numel());
    launch.num_tensors = static_cast<int64_t>(sizes_.size());
    launch.sizes = sizes_.data();
    launch.params = addresses(args.params);
    launch.grads = addresses(args.grads);
    launch.copies = addresses(args.copies);
    launch.param_dtype = dtype_of(args.params);
    launch.grad_dtype = dtype_of(args.grads);
    launch.copy_dtype = dtype_of(args.copies);
  }

  // The addresses of a list's tensors; null for an empty list.
  void* const* addresses(const TensorList& list) {
    return list.empty() ? nullptr : addresses_.emplace_back(addresses_of(list)).data();
  }

 private:
  std::vector<int64_t> sizes_;
  std::vector<std::vector<void*>> addresses_;
};

}  // namespace airank_fast
