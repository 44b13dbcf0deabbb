// airank_fast::adagrad_ for CUDA tensors; the work is in adagrad.cu.
#include "adagrad.h"
#include "adaptive_torch.h"

namespace airank_fast {
namespace {

void adagrad_cuda(TensorList params, TensorList grads, TensorList sums, TensorList steps, TensorList copies, Tensor lr,
                  double lr_decay, double weight_decay, double eps, bool maximize, std::optional<Tensor> grad_scale,
                  std::optional<Tensor> found_inf) {
  run_adaptive_cuda<Adagrad>(
      "adagrad", {"sums"},
      {std::move(params), std::move(grads), {std::move(sums)}, std::move(steps), std::move(copies)},
      {lr, grad_scale, found_inf}, {lr_decay, weight_decay, eps, maximize}, launch_adagrad);
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("adagrad_", TORCH_BOX(&airank_fast::adagrad_cuda));
}
