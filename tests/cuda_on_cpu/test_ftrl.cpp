// The launcher of ftrl: the root and another power, with penalties and without.
#include "adaptive_test.h"
#include "cuda/ftrl.h"

namespace airank_fast {
namespace {

double reference(const FtrlOptions& o, double, double param, double grad, double& sum, double& linear) {
  const double g = o.maximize ? -grad : grad, total = sum + g * g, power = -o.lr_power;
  const double growth = std::pow(total, power) - std::pow(sum, power);
  sum = total;
  linear += g + 2 * o.l2_shrinkage * param - growth / kAdaptiveLr * param;
  const double clipped = std::fmin(std::fmax(linear, -o.l1), o.l1);
  return (clipped - linear) / ((std::pow(total, power) + o.beta) / kAdaptiveLr + 2 * o.l2);
}

// Penalties that keep the divisor away from 0, where rounding errors would be magnified.
void cases() {
  AdaptiveTest<Ftrl>{"ftrl", launch_ftrl, reference}.cases({{-0.5, 0.125, 0.25, 0.0625, 0.5, false},
                                                            {-0.5, 0, 0, 0, 1, true},
                                                            {-0.75, 0.125, 0, 0, 1, false}});
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
