// FTRL-Proximal on the CPU; formula in ftrl_math.h.
#include <torch/csrc/stable/library.h>

#include "../ftrl_math.h"
#include "adaptive.h"

namespace airank_fast {
namespace {

void ftrl_cpu(TensorList params, TensorList grads, TensorList accumulators, TensorList linears, TensorList steps,
              TensorList copies, Tensor lr, double lr_power, double l1, double l2, double l2_shrinkage, double beta,
              bool maximize, std::optional<Tensor> grad_scale, std::optional<Tensor> found_inf) {
  const FtrlOptions options{lr_power, l1, l2, l2_shrinkage, beta, maximize};
  const auto run = [&]<bool kIsRoot>() {
    run_adaptive<FtrlOf<kIsRoot>>("ftrl", {"accumulators", "linears"},
                                  {std::move(params), std::move(grads), {std::move(accumulators), std::move(linears)},
                                   std::move(steps), std::move(copies)},
                                  {lr, grad_scale, found_inf}, options);
  };
  // Of another lr the checks in run_adaptive() name the reason.
  const bool is_rate = lr.is_cpu() && lr.numel() == 1 &&
                       (lr.scalar_type() == ScalarType::Float || lr.scalar_type() == ScalarType::Double);
  if (lr_power == -0.5 && is_rate && value_of(lr) != 0) run.operator()<true>();
  else run.operator()<false>();
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("ftrl_", TORCH_BOX(&airank_fast::ftrl_cpu));
}
