// FTRL-Proximal for one element, and the scalars of a step; one source for the CPU and the GPU.
//
//   g = factor * grad                                 factor = 1 / grad_scale, negative to maximise
//   n' = n + g * g                                    n: the accumulator
//   linear = linear + g + 2 * l2_shrinkage * param - (n'^p - n^p) / lr * param            p = -lr_power
//   param = (clamp(linear, -l1, l1) - linear) / ((n'^p + beta) / lr + 2 * l2)
//
// The difference of the roots, p = 1/2, is g * g / (sqrt(n') + sqrt(n)), which does not cancel. A parameter whose
// divisor is 0 becomes 0. Where lr is 0 nothing changes: the formula has no limit there.
//
// Source: McMahan et al. 2013, "Ad click prediction: a view from the trenches", with the options of Keras's Ftrl and
// TensorFlow's ApplyFtrlV2.
#pragma once

#include "vector_math.h"

namespace airank_fast {

// The options of a step that are on the host.
struct FtrlOptions {
  double lr_power;
  double l1;
  double l2;
  double l2_shrinkage;
  double beta;
  bool maximize;
};

// T is the type of the arithmetic: float, or double for double parameters.
template <typename T>
struct FtrlScalars {
  T factor;
  T power;
  T inverse_lr;  // 0 where lr is 0
  T l1;
  T curvature;   // beta / lr + 2 * l2
  T shrinkage;   // 2 * l2_shrinkage
  T tiny;        // the smallest normal number, which turns 0 / 0 into 0
};

HOST_DEVICE float ftrl_power(float x, float power) { return powf(x, power); }
HOST_DEVICE double ftrl_power(double x, double power) { return pow(x, power); }

// See adaptive_args.h. kIsRoot: p is 1/2 and lr not 0, for loops of the CPU, which pow and a way out would keep from
// being vectorised.
template <bool kIsRoot>
struct FtrlOf {
  static constexpr int kStates = 2;
  using Options = FtrlOptions;
  template <typename T>
  using Scalars = FtrlScalars<T>;

  template <typename T>
  HOST_DEVICE static FtrlScalars<T> scalars(const FtrlOptions& o, double lr, double, double grad_scale) {
    const double inverse_lr = lr == 0 ? 0.0 : 1.0 / lr;
    return {T((o.maximize ? -1.0 : 1.0) / grad_scale),
            T(-o.lr_power),
            T(inverse_lr),
            T(o.l1),
            T(o.beta * inverse_lr + 2.0 * o.l2),
            T(2.0 * o.l2_shrinkage),
            sizeof(T) == 4 ? T(1.17549435082228751e-38) : T(2.2250738585072014e-308)};
  }

  // Returns the new parameter and updates the accumulator and the linear term.
  template <typename T>
  HOST_DEVICE static T step(T param, T grad, T& sum, T& linear, const FtrlScalars<T>& s) {
    if (!kIsRoot && s.inverse_lr == T(0)) return param;
    const T g = s.factor * grad;
    const T total = sum + g * g;
    T after, growth;
    if (kIsRoot || s.power == T(0.5)) {
      after = square_root(total);
      growth = g * g / (after + square_root(sum) + s.tiny);
    } else {
      after = ftrl_power(total, s.power);
      growth = after - ftrl_power(sum, s.power);
    }
    sum = total;
    // Not only to save work: 0 * inf would turn an infinite parameter into NaN.
    T added = s.shrinkage != T(0) ? g + s.shrinkage * param : g;
    added = added - growth * s.inverse_lr * param;
    linear = linear + added;
    T inside = linear < -s.l1 ? -s.l1 : linear;
    inside = inside > s.l1 ? s.l1 : inside;
    return (inside - linear) / (after * s.inverse_lr + s.curvature + s.tiny);
  }
};

using Ftrl = FtrlOf<false>;

}  // namespace airank_fast
