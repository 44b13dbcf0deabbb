// airank_fast::lamb_ for CUDA tensors: checks, addresses, the current stream; the work is in lamb.cu.
#include <optional>

#include "../lamb_args.h"
#include "binding.h"
#include "lamb.h"

namespace airank_fast {
namespace {

void lamb_cuda(TensorList params, TensorList grads, TensorList exp_avgs, TensorList exp_avg_sqs, TensorList copies,
               Tensor lr, Tensor step, double beta1, double beta2, double eps, double weight_decay,
               bool bias_correction, bool grad_averaging, bool adam_w_mode, bool use_nvlamb, double max_grad_norm,
               std::optional<Tensor> grad_norm, std::optional<Tensor> grad_scale, std::optional<Tensor> found_inf) {
  LambArgs args{std::move(params), std::move(grads), std::move(exp_avgs), std::move(exp_avg_sqs), std::move(copies)};
  check_lamb(args, {lr, step, grad_norm, grad_scale, found_inf});
  if (args.params.empty()) return;
  const OnDevice device(args.params[0]);
  FlatViews views = flatten(args);

  LauncherLists lists;
  LambLaunch launch;
  lists.describe(args, launch);
  launch.exp_avgs = lists.addresses(args.exp_avgs);
  launch.exp_avg_sqs = lists.addresses(args.exp_avg_sqs);
  launch.lr = address_of(lr);
  launch.step = address_of(step);
  launch.grad_norm = address_of(grad_norm);
  launch.grad_scale = address_of(grad_scale);
  launch.found_inf = address_of(found_inf);
  launch.options = {beta1,           beta2,          eps,         weight_decay, max_grad_norm,
                    bias_correction, grad_averaging, adam_w_mode, use_nvlamb};
  Tensor workspace = empty_beside(
      args.params[0], {lamb_workspace(launch.num_tensors, launch.sizes)}, ScalarType::Double);
  launch.workspace = static_cast<double*>(workspace.data_ptr());

  check_launch("lamb", launch_lamb(launch, device.stream()));
  views.copy_back();
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("lamb_", TORCH_BOX(&airank_fast::lamb_cuda));
}
