// airank_fast::adam_ for CUDA tensors; the work is in adam.cu.
#include "adam.h"
#include "adaptive_torch.h"

namespace airank_fast {
namespace {

void adam_cuda(TensorList params, TensorList grads, TensorList exp_avgs, TensorList exp_avg_sqs, TensorList steps,
               TensorList copies, Tensor lr, double beta1, double beta2, double eps, double weight_decay,
               bool decoupled_weight_decay, bool bias_correction, bool maximize, std::optional<Tensor> grad_scale,
               std::optional<Tensor> found_inf) {
  run_adaptive_cuda<Adam>("adam", {"exp_avgs", "exp_avg_sqs"},
                          {std::move(params), std::move(grads), {std::move(exp_avgs), std::move(exp_avg_sqs)},
                           std::move(steps), std::move(copies)},
                          {lr, grad_scale, found_inf},
                          {beta1, beta2, eps, weight_decay, decoupled_weight_decay, bias_correction, maximize},
                          launch_adam);
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("adam_", TORCH_BOX(&airank_fast::adam_cuda));
}
