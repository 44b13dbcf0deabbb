// Layer normalisation of one row of n elements; one source for the CPU and the GPU.
//
//   mean = sum(x) / n        rstd = 1 / sqrt(sum((x - mean)^2) / n + eps)
//   h    = (x - mean) * rstd                 y  = h * weight + bias
//   g    = dy * weight                       dx = rstd * (g - sum(g) / n - h * sum(g * h) / n)
//   dweight = sum over rows of dy * h        dbias = sum over rows of dy
//
// The variance is that of the centred row, a second pass over registers or cache: sum(x^2) - n mean^2 would
// cancel. Source: Ba et al. 2016; torch.nn.LayerNorm (biased variance, eps under the root).
#pragma once

#ifndef __CUDACC_RTC__
#include <math.h>
#endif

#include "host_device.h"

namespace airank_fast {

// T is the type of the arithmetic: float, or double for double tensors.
template <typename T>
struct Moments {
  T mean;
  T rstd;
};

// In double, once per row: an error here is in every element of the row, so it is rounded once instead of four times.
template <typename T>
HOST_DEVICE T rstd_of(T sum_of_squares, double num_elements, double eps) {
  return T(1.0 / sqrt(double(sum_of_squares) / num_elements + eps));
}

template <typename T>
HOST_DEVICE T normalized(T x, const Moments<T>& row) {
  return (x - row.mean) * row.rstd;
}

// mean_g and mean_gh are the row's sum(g) / n and sum(g * h) / n.
template <typename T>
HOST_DEVICE T layer_norm_grad(T g, T h, T mean_g, T mean_gh, T rstd) {
  return rstd * (g - mean_g - h * mean_gh);
}

}  // namespace airank_fast
