// Stochastic gradient descent with momentum, for one element; one source for the CPU and the GPU.
//
//   g   = factor * grad + weight_decay * param         factor = 1 / grad_scale, negative to maximise
//   buf = momentum * buf + (1 - dampening) * g         only with momentum
//   u   = g, or buf, or g + momentum * buf             no momentum, momentum, Nesterov
//   param = param - lr * u
//
// A buffer of zeros and no dampening give PyTorch's first step (buf = g) without a special case.
// Source: torch.optim.SGD (Sutskever et al. 2013, with the learning rate outside the buffer).
#pragma once

#include "host_device.h"

namespace airank_fast {

// T is the type of the arithmetic: float, or double for double parameters.
template <typename T>
struct SgdScalars {
  T lr;
  T factor;
  T momentum;
  T undampened;  // 1 - dampening
  T weight_decay;
  bool nesterov;
};

// Returns the new parameter and updates `buffer`, which is neither read nor written without momentum.
template <bool kMomentum, typename T>
HOST_DEVICE T sgd_step(T param, T grad, T& buffer, const SgdScalars<T>& s) {
  T g = s.factor * grad;
  // Not only to save work: 0 * inf would turn an infinite parameter into NaN.
  g = s.weight_decay != T(0) ? g + s.weight_decay * param : g;
  if constexpr (kMomentum) {
    buffer = s.momentum * buffer + s.undampened * g;
    g = s.nesterov ? g + s.momentum * buffer : buffer;
  }
  return param - s.lr * g;
}

}  // namespace airank_fast
