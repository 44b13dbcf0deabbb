// The second-order term of a factorization machine over the embeddings v of a sample's fields; one source for the CPU and
// the GPU.
//
//   sum[d] = sum over the fields of v[f, d]
//   fm = 1/2 * sum over d of (sum[d]^2 - sum over the fields of v[f, d]^2)
//      = sum over the pairs of fields of their embeddings' dot product
//   dv[f, d] = grad * (sum[d] - v[f, d])
//
// Source: Rendle 2010, "Factorization machines", lemma 3.1.
#pragma once

#include "host_device.h"

namespace airank_fast {

// What dimension d adds to fm, twice.
template <typename T>
HOST_DEVICE T fm_term(T sum, T squares) {
  return sum * sum - squares;
}

template <typename T>
HOST_DEVICE T fm_gradient(T grad, T sum, T v) {
  return grad * (sum - v);
}

}  // namespace airank_fast
