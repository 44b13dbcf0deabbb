// LAMB for one element, and the scalars of a step; one source for the CPU and the GPU.
//
//   g = grad / (grad_scale * clip)                clip = norm / max_grad_norm where the norm over all gradients,
//                                                 unscaled, is larger than max_grad_norm, else 1
//   g = g + weight_decay * param                  only with adam_w_mode off (decay as L2 term)
//   m = beta1 * m + beta3 * g                     beta3 = 1 - beta1, or 1 without grad_averaging
//   v = beta2 * v + (1 - beta2) * g * g
//   u = (m / c1) / (sqrt(v / c2) + eps)           c = 1 - beta^step, or 1 without bias correction
//   u = u + weight_decay * param                  only with adam_w_mode
//   param = param - lr * trust * u                trust = |param| / |u| over the tensor where neither is 0, else 1;
//                                                 without weight decay 1, unless use_nvlamb
//
// Source: You et al. 2020, "Large batch optimization for deep learning: training BERT in 76 minutes", as in
// apex.optimizers.FusedLAMB; with use_nvlamb NVIDIA's variant of it, where every tensor is scaled.
#pragma once

#include "vector_math.h"

namespace airank_fast {

// The options of a step that are on the host.
struct LambOptions {
  double beta1;
  double beta2;
  double eps;
  double weight_decay;
  double max_grad_norm;
  bool bias_correction;
  bool grad_averaging;
  bool adam_w_mode;
  bool use_nvlamb;
};

enum class LambDecay { kNone, kGradient, kUpdate };

HOST_DEVICE LambDecay lamb_decay(const LambOptions& o) {
  if (o.weight_decay == 0) return LambDecay::kNone;
  return o.adam_w_mode ? LambDecay::kUpdate : LambDecay::kGradient;
}

HOST_DEVICE bool lamb_scales_tensors(const LambOptions& o) {
  return o.use_nvlamb || o.weight_decay != 0;
}

// T is the type of the arithmetic: float, or double for double parameters.
template <typename T>
struct LambScalars {
  T factor;  // 1 / (grad_scale * clip)
  T beta1;
  T beta3;
  T beta2;
  T rest2;    // 1 - beta2
  T scale_m;  // 1 / c1
  T scale_v;  // 1 / c2
  T eps;
  T weight_decay;
};

// `step` counts from 1. `norm` is that of the gradients before the division by grad_scale; 0: no clipping.
template <typename T>
HOST_DEVICE LambScalars<T> lamb_scalars(const LambOptions& o, double step, double grad_scale, double norm) {
  const double unscaled = norm / grad_scale;
  const double clip = unscaled > o.max_grad_norm ? unscaled / o.max_grad_norm : 1.0;
  const double c1 = o.bias_correction ? 1.0 - pow(o.beta1, step) : 1.0;
  const double c2 = o.bias_correction ? 1.0 - pow(o.beta2, step) : 1.0;
  return {T(1.0 / (grad_scale * clip)),
          T(o.beta1),
          T(o.grad_averaging ? 1.0 - o.beta1 : 1.0),
          T(o.beta2),
          T(1.0 - o.beta2),
          T(1.0 / c1),
          T(1.0 / c2),
          T(o.eps),
          T(o.weight_decay)};
}

template <typename T>
HOST_DEVICE void lamb_moments(T param, T grad, T& m, T& v, LambDecay decay, const LambScalars<T>& s) {
  T g = s.factor * grad;
  if (decay == LambDecay::kGradient) g += s.weight_decay * param;
  m = s.beta1 * m + s.beta3 * g;
  v = s.beta2 * v + s.rest2 * g * g;
}

// u of the new moments and the parameter before the step.
template <typename T>
HOST_DEVICE T lamb_update(T param, T m, T v, LambDecay decay, const LambScalars<T>& s) {
  const T u = s.scale_m * m / (square_root(s.scale_v * v) + s.eps);
  return decay == LambDecay::kUpdate ? u + s.weight_decay * param : u;
}

// From the sums of squares of a tensor and of its update. A NaN in one element makes the whole tensor NaN.
HOST_DEVICE double lamb_trust(double param_squares, double update_squares) {
  return param_squares != 0 && update_squares != 0 ? sqrt(param_squares) / sqrt(update_squares) : 1.0;
}

}  // namespace airank_fast
