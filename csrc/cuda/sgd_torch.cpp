// airank_fast::sgd_ for CUDA tensors: checks, addresses, the current stream; the work is in sgd.cu.
// It has not run on a GPU yet.
#ifndef USE_CUDA  // shows the current CUDA stream in torch's stable headers
#define USE_CUDA
#endif
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>

#include <optional>
#include <vector>

#include "../sgd_args.h"
#include "sgd.h"

namespace airank_fast {
namespace {

Dtype dtype_of(const TensorList& list) {
  if (list.empty()) return Dtype::kNone;
  switch (list[0].scalar_type()) {
    case ScalarType::Float: return Dtype::kFloat32;
    case ScalarType::Double: return Dtype::kFloat64;
    case ScalarType::BFloat16: return Dtype::kBFloat16;
    case ScalarType::Half: return Dtype::kFloat16;
    default: return Dtype::kNone;
  }
}

std::vector<void*> addresses_of(const TensorList& list) {
  std::vector<void*> addresses;
  addresses.reserve(list.size());
  for (const Tensor& tensor : list) addresses.push_back(tensor.data_ptr());
  return addresses;
}

ScalarAddress address_of(const std::optional<Tensor>& scalar) {
  if (!scalar) return {};
  return {scalar->data_ptr(), scalar->scalar_type() == ScalarType::Double};
}

void sgd_cuda(TensorList params, TensorList grads, TensorList buffers, TensorList copies, Tensor lr,
              double momentum, double dampening, double weight_decay, bool nesterov, bool maximize,
              std::optional<Tensor> grad_scale, std::optional<Tensor> found_inf) {
  SgdArgs args{std::move(params), std::move(grads), std::move(buffers), std::move(copies)};
  check_sgd(args, lr, momentum, grad_scale, found_inf);
  if (args.params.empty()) return;
  const auto device = args.params[0].get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  FlatViews views = flatten(args);

  std::vector<int64_t> sizes;
  sizes.reserve(args.params.size());
  for (const Tensor& param : args.params) sizes.push_back(param.numel());
  const std::vector<void*> param_addresses = addresses_of(args.params), grad_addresses = addresses_of(args.grads),
                           buffer_addresses = addresses_of(args.buffers), copy_addresses = addresses_of(args.copies);
  SgdLaunch step;
  step.num_tensors = static_cast<int64_t>(sizes.size());
  step.sizes = sizes.data();
  step.params = param_addresses.data();
  step.grads = grad_addresses.data();
  step.buffers = args.buffers.empty() ? nullptr : buffer_addresses.data();
  step.copies = args.copies.empty() ? nullptr : copy_addresses.data();
  step.param_dtype = dtype_of(args.params);
  step.grad_dtype = dtype_of(args.grads);
  step.copy_dtype = dtype_of(args.copies);
  step.lr = address_of(lr);
  step.grad_scale = address_of(grad_scale);
  step.found_inf = address_of(found_inf);
  step.momentum = momentum;
  step.dampening = dampening;
  step.weight_decay = weight_decay;
  step.nesterov = nesterov;
  step.maximize = maximize;

  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  STD_CUDA_CHECK(launch_sgd(step, static_cast<cudaStream_t>(stream)));
  views.copy_back();
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CUDA, m) {
  m.impl("sgd_", TORCH_BOX(&airank_fast::sgd_cuda));
}
