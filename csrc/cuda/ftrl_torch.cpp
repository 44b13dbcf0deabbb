// airank_fast::ftrl_ for CUDA tensors; the work is in ftrl.cu.
#include "adaptive_torch.h"
#include "ftrl.h"

namespace airank_fast {
namespace {

void ftrl_cuda(TensorList params, TensorList grads, TensorList accumulators, TensorList linears, TensorList steps,
               TensorList copies, Tensor lr, double lr_power, double l1, double l2, double l2_shrinkage, double beta,
               bool maximize, std::optional<Tensor> grad_scale, std::optional<Tensor> found_inf) {
  run_adaptive_cuda<Ftrl>("ftrl", {"accumulators", "linears"},
                          {std::move(params), std::move(grads), {std::move(accumulators), std::move(linears)},
                           std::move(steps), std::move(copies)},
                          {lr, grad_scale, found_inf}, {lr_power, l1, l2, l2_shrinkage, beta, maximize}, launch_ftrl);
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("ftrl_", TORCH_BOX(&airank_fast::ftrl_cuda));
}
