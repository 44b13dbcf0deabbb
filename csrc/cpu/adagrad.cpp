// Adagrad on the CPU; formula in adagrad_math.h.
#include <torch/csrc/stable/library.h>

#include "../adagrad_math.h"
#include "adaptive.h"

namespace airank_fast {
namespace {

void adagrad_cpu(TensorList params, TensorList grads, TensorList sums, TensorList steps, TensorList copies, Tensor lr,
                 double lr_decay, double weight_decay, double eps, bool maximize, std::optional<Tensor> grad_scale,
                 std::optional<Tensor> found_inf) {
  run_adaptive<Adagrad>("adagrad", {"sums"},
                        {std::move(params), std::move(grads), {std::move(sums)}, std::move(steps), std::move(copies)},
                        {lr, grad_scale, found_inf}, {lr_decay, weight_decay, eps, maximize});
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("adagrad_", TORCH_BOX(&airank_fast::adagrad_cpu));
}
