// The launcher of adagrad: with decay of weights and of the rate, and without.
#include "adaptive_test.h"
#include "cuda/adagrad.h"

namespace airank_fast {
namespace {

double reference(const AdagradOptions& o, double step, double param, double grad, double& sum, double&) {
  const double g = (o.maximize ? -grad : grad) + o.weight_decay * param;
  sum += g * g;
  return param - kAdaptiveLr / (1 + (step - 1) * o.lr_decay) * g / (std::sqrt(sum) + o.eps);
}

void cases() {
  AdaptiveTest<Adagrad>{"adagrad", launch_adagrad, reference}.cases(
      {{0.5, 0.125, 1e-3, false}, {0, 0, 1e-3, true}});
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
