// Batch norm + residual + activation for one element of NHWC memory, and its channel's statistics; for both devices.
//
//   z  = (x - mean) * scale + bias + residual         scale = rstd * weight, rstd = 1 / sqrt(var + eps)
//   y  = z where not z <= 0, else s * z               s is the activation's slope: 0 for a ReLU, also of infinity
//   dz = dy where not z <= 0, else s * dy             by a mask of z; also the gradient of the residual
//   dx = scale * (dz - sum(dz) / n - (x - mean) * sum(dz * xhat) * rstd / n),   xhat = (x - mean) * rstd
//   dx = scale * dz                                   where the statistics are fixed, no functions of x
//
// The mean is subtracted first, not folded into the bias, so that digits do not cancel where |mean| >> std.
// Moments of parts are combined by their means, after Chan, Golub and LeVeque, 1983:
//
//   n = sum n_i,   mean = sum n_i mean_i / n,   M2 = sum (M2_i + n_i (mean_i - mean)^2)
//
// Source: Ioffe and Szegedy 2015; running statistics and unbiased variance as in torch.nn.BatchNorm2d.
#pragma once

#include "host_device.h"

namespace airank_fast {

// T is the type of the arithmetic: float, or double for double inputs.
template <typename T>
HOST_DEVICE T normalise(T x, T mean, T scale, T bias) {
  return (x - mean) * scale + bias;
}

// slope = sum(dz * xhat) * rstd / n.
template <typename T>
HOST_DEVICE T input_gradient(T dz, T x, T mean, T scale, T mean_dz, T slope) {
  return scale * (dz - mean_dz - (x - mean) * slope);
}

// The moments of `count` numbers from the sums of their distances from a pivot, and of the squares of these.
template <typename T>
HOST_DEVICE void moments_from_sums(T count, T pivot, T sum, T squares, T* mean, T* deviations) {
  const T offset = sum / count;
  *mean = pivot + offset;
  *deviations = squares - sum * offset;
}

// An updated running statistic; `factor` is the weight of the new value.
template <typename T>
HOST_DEVICE T running_average(T old_value, double new_value, double factor) {
  return T(old_value + factor * (new_value - old_value));
}

HOST_DEVICE double unbiased_variance(double deviations, double count) {
  return deviations / (count > 2 ? count - 1 : 1);
}

}  // namespace airank_fast
