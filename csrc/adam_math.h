// Adam and AdamW for one element, and the scalars of a step; one source for the CPU and the GPU.
//
//   g = factor * grad                          factor = 1 / grad_scale, negative to maximise
//   g = g + weight_decay * param               Adam: decay as L2 term
//   m = beta1 * m + (1 - beta1) * g
//   v = beta2 * v + (1 - beta2) * g * g
//   u = (lr / c1) * m / (sqrt(v) / sqrt(c2) + eps)      c = 1 - beta^step, or 1 without bias correction
//     = (lr sqrt(c2) / c1) * m / (sqrt(v) + eps sqrt(c2)), which is a rounding less
//   u = u + lr * weight_decay * param          AdamW: decay of the parameter itself
//   param = param - u
//
// Source: Kingma and Ba 2015, "Adam: a method for stochastic optimization"; Loshchilov and Hutter 2019, "Decoupled
// weight decay regularization"; as in torch.optim.Adam and AdamW.
#pragma once

#include "vector_math.h"

namespace airank_fast {

// The options of a step that are on the host.
struct AdamOptions {
  double beta1;
  double beta2;
  double eps;
  double weight_decay;
  bool decoupled_weight_decay;
  bool bias_correction;
  bool maximize;
};

// T is the type of the arithmetic: float, or double for double parameters.
template <typename T>
struct AdamScalars {
  T factor;
  T beta1;
  T rest1;  // 1 - beta1
  T beta2;
  T rest2;
  T rate;  // lr * sqrt(c2) / c1
  T eps;   // eps * sqrt(c2)
  T of_gradient;  // weight decay of Adam, else 0
  T of_param;     // lr * weight decay of AdamW, else 0
};

// See adaptive_args.h.
struct Adam {
  static constexpr int kStates = 2;
  using Options = AdamOptions;
  template <typename T>
  using Scalars = AdamScalars<T>;

  // `step` counts from 1.
  template <typename T>
  HOST_DEVICE static AdamScalars<T> scalars(const AdamOptions& o, double lr, double step, double grad_scale) {
    const double c1 = o.bias_correction ? 1.0 - pow(o.beta1, step) : 1.0;
    const double c2 = o.bias_correction ? 1.0 - pow(o.beta2, step) : 1.0;
    return {T((o.maximize ? -1.0 : 1.0) / grad_scale),
            T(o.beta1),
            T(1.0 - o.beta1),
            T(o.beta2),
            T(1.0 - o.beta2),
            T(lr * sqrt(c2) / c1),
            T(o.eps * sqrt(c2)),
            T(o.decoupled_weight_decay ? 0.0 : o.weight_decay),
            T(o.decoupled_weight_decay ? lr * o.weight_decay : 0.0)};
  }

  // Returns the new parameter and updates both moments.
  template <typename T>
  HOST_DEVICE static T step(T param, T grad, T& m, T& v, const AdamScalars<T>& s) {
    T g = s.factor * grad;
    // Not only to save work: 0 * inf would turn an infinite parameter into NaN.
    g = s.of_gradient != T(0) ? g + s.of_gradient * param : g;
    m = s.beta1 * m + s.rest1 * g;
    v = s.beta2 * v + s.rest2 * g * g;
    const T u = s.rate * (m / (square_root(v) + s.eps));
    return param - (s.of_param != T(0) ? u + s.of_param * param : u);
  }
};

}  // namespace airank_fast
