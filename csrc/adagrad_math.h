// Adagrad for one element, and the scalars of a step; one source for the CPU and the GPU.
//
//   g = factor * grad + weight_decay * param           factor = 1 / grad_scale, negative to maximise
//   sum = sum + g * g
//   param = param - rate * g / (sqrt(sum) + eps)       rate = lr / (1 + (step - 1) * lr_decay)
//
// Source: Duchi, Hazan and Singer 2011, "Adaptive subgradient methods for online learning and stochastic optimization",
// as in torch.optim.Adagrad.
#pragma once

#include "vector_math.h"

namespace airank_fast {

// The options of a step that are on the host.
struct AdagradOptions {
  double lr_decay;
  double weight_decay;
  double eps;
  bool maximize;
};

// T is the type of the arithmetic: float, or double for double parameters.
template <typename T>
struct AdagradScalars {
  T factor;
  T weight_decay;
  T rate;
  T eps;
};

// See adaptive_args.h.
struct Adagrad {
  static constexpr int kStates = 1;
  using Options = AdagradOptions;
  template <typename T>
  using Scalars = AdagradScalars<T>;

  // `step` counts from 1.
  template <typename T>
  HOST_DEVICE static AdagradScalars<T> scalars(const AdagradOptions& o, double lr, double step, double grad_scale) {
    return {T((o.maximize ? -1.0 : 1.0) / grad_scale), T(o.weight_decay), T(lr / (1.0 + (step - 1.0) * o.lr_decay)),
            T(o.eps)};
  }

  // Returns the new parameter and updates the sum of squares; the last state is not there.
  template <typename T>
  HOST_DEVICE static T step(T param, T grad, T& sum, T&, const AdagradScalars<T>& s) {
    T g = s.factor * grad;
    // Not only to save work: 0 * inf would turn an infinite parameter into NaN.
    g = s.weight_decay != T(0) ? g + s.weight_decay * param : g;
    sum = sum + g * g;
    return param - s.rate * (g / (square_root(sum) + s.eps));
  }
};

}  // namespace airank_fast
