// LARS for one element, and its trust ratio; one source for the CPU and the GPU.
//
//   trust = trust_coefficient * |w| / (|g| + weight_decay * |w| + eps)    over the tensor, where |w| and |g| are > 0;
//                                                                         1 elsewhere, and for tensors not adapted
//   d = lr * trust * (g + weight_decay * w)                               g = grad / grad_scale
//   velocity = momentum * velocity - d                                    or just -d without momentum
//   w = w + velocity                                                      with Nesterov w + momentum * velocity - d
//
// The velocity includes the learning rate, so that a lower one does not scale down the velocity of earlier steps: the
// equation of MLPerf's closed division and of apex.optimizers.FusedLARS, unlike that of torch.optim.SGD.
// Source: You et al. 2017, "Large batch training of convolutional networks".
#pragma once

#ifndef __CUDACC_RTC__
#include <math.h>
#endif

#include "host_device.h"

namespace airank_fast {

// T is the type of the arithmetic: float, or double for double parameters.
template <typename T>
struct LarsScalars {
  T rate;    // lr * trust
  T factor;  // 1 / grad_scale
  T momentum;
  T weight_decay;
  bool nesterov;
};

// From the sums of squares of a tensor and of its gradient before the division by grad_scale.
HOST_DEVICE double lars_trust(double param_squares, double grad_squares, double grad_scale, double weight_decay,
                              double trust_coefficient, double eps) {
  if (!(param_squares > 0 && grad_squares > 0)) return 1.0;
  const double w = sqrt(param_squares), g = sqrt(grad_squares) / grad_scale;
  return trust_coefficient * w / (g + weight_decay * w + eps);
}

// Returns the new parameter and updates `velocity`, which is neither read nor written without momentum.
template <bool kMomentum, typename T>
HOST_DEVICE T lars_step(T param, T grad, T& velocity, const LarsScalars<T>& s) {
  T g = s.factor * grad;
  // Not only to save work: 0 * inf would turn an infinite parameter into NaN.
  g = s.weight_decay != T(0) ? g + s.weight_decay * param : g;
  const T d = s.rate * g;
  if constexpr (kMomentum) {
    velocity = s.momentum * velocity - d;
    return s.nesterov ? param + (s.momentum * velocity - d) : param + velocity;
  }
  return param - d;
}

}  // namespace airank_fast
