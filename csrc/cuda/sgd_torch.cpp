// airank_fast::sgd_ for CUDA tensors: checks, addresses, the current stream; the work is in sgd.cu.
#include <optional>

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

  LauncherLists lists;
  SgdLaunch step;
  lists.describe(args, step);
  step.buffers = lists.addresses(args.buffers);
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
