// The launcher of adam: both kinds of decay, and none.
#include "adaptive_test.h"
#include "cuda/adam.h"

namespace airank_fast {
namespace {

double reference(const AdamOptions& o, double step, double param, double grad, double& m, double& v) {
  const double g = (o.maximize ? -grad : grad) + (o.decoupled_weight_decay ? 0 : o.weight_decay * param);
  m = o.beta1 * m + (1 - o.beta1) * g;
  v = o.beta2 * v + (1 - o.beta2) * g * g;
  const double corrected_m = o.bias_correction ? m / (1 - std::pow(o.beta1, step)) : m;
  const double corrected_v = o.bias_correction ? v / (1 - std::pow(o.beta2, step)) : v;
  const double kept = o.decoupled_weight_decay ? (1 - kAdaptiveLr * o.weight_decay) * param : param;
  return kept - kAdaptiveLr * corrected_m / (std::sqrt(corrected_v) + o.eps);
}

void cases() {
  AdaptiveTest<Adam>{"adam", launch_adam, reference}.cases({{0.5, 0.75, 1e-3, 0.125, true, true, false},
                                                            {0.5, 0.75, 1e-3, 0.125, false, true, true},
                                                            {0.5, 0.75, 1e-3, 0, false, false, false}});
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
