// airank_fast::lars_ for CUDA tensors: checks, addresses, the current stream; the work is in lars.cu.
#include <optional>

#include "../lars_args.h"
#include "binding.h"
#include "lars.h"

namespace airank_fast {
namespace {

void lars_cuda(TensorList params, TensorList grads, TensorList velocities, TensorList copies, Tensor lr,
               double momentum, double weight_decay, double trust_coefficient, double eps, bool nesterov, bool adapt,
               std::optional<Tensor> grad_scale, std::optional<Tensor> found_inf) {
  LarsArgs args{std::move(params), std::move(grads), std::move(velocities), std::move(copies)};
  check_lars(args, lr, momentum, grad_scale, found_inf);
  if (args.params.empty()) return;
  const OnDevice device(args.params[0]);
  FlatViews views = flatten(args);

  LauncherLists lists;
  LarsLaunch launch;
  lists.describe(args, launch);
  launch.velocities = lists.addresses(args.velocities);
  launch.lr = address_of(lr);
  launch.grad_scale = address_of(grad_scale);
  launch.found_inf = address_of(found_inf);
  launch.momentum = momentum;
  launch.weight_decay = weight_decay;
  launch.trust_coefficient = trust_coefficient;
  launch.eps = eps;
  launch.nesterov = nesterov;
  launch.adapt = adapt;
  Tensor workspace = empty_beside(
      args.params[0], {lars_workspace(launch.num_tensors, launch.sizes)}, ScalarType::Double);
  launch.workspace = static_cast<double*>(workspace.data_ptr());

  check_launch("lars", launch_lars(launch, device.stream()));
  views.copy_back();
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("lars_", TORCH_BOX(&airank_fast::lars_cuda));
}
