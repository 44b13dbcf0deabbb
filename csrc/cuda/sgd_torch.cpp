// airank_fast::sgd_ for CUDA tensors: checks, addresses, the current stream; the work is in sgd.cu.
// It has not run on a GPU yet.
#include <optional>
#include <vector>

#include "../sgd_args.h"
#include "binding.h"
#include "sgd.h"

namespace airank_fast {
namespace {

void sgd_cuda(TensorList params, TensorList grads, TensorList buffers, TensorList copies, Tensor lr,
              double momentum, double dampening, double weight_decay, bool nesterov, bool maximize,
              std::optional<Tensor> grad_scale, std::optional<Tensor> found_inf) {
  SgdArgs args{std::move(params), std::move(grads), std::move(buffers), std::move(copies)};
  check_sgd(args, lr, momentum, grad_scale, found_inf);
  if (args.params.empty()) return;
  const OnDevice device(args.params[0]);
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

  check_launch("sgd", launch_sgd(step, device.stream()));
  views.copy_back();
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("sgd_", TORCH_BOX(&airank_fast::sgd_cuda));
}
