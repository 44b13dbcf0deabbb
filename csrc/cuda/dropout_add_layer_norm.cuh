// layer_norm(dropout(x) + residual) on the GPU: the kernels of layer_norm.cuh with rows that are a sum, and gradients that
// go two ways; formulas in dropout_math.h and layer_norm_math.h. This file has not run on a GPU yet.
//
// Bytes per 16-bit element: forward 8 (x and residual read, sum and y written), backward 8 (grad and sum read, grad_x
// and grad_residual written). The mask costs 10 Philox rounds per 4 elements, and no memory; the seed is read from
// device memory, so that a captured graph can draw a new one.
#pragma once

#include "layer_norm.cuh"

#include "../dropout_math.h"

namespace airank_fast {

template <typename T>
struct DropoutMask {
  Dropout<T> dropout;
  const int64_t* seed;  // two numbers, or null where nothing is dropped

  // Multiplies the elements from `at` on by 0 or by the scale. Packs of 4 and 8 begin at a multiple of 4.
  template <int kVec>
  HOST_DEVICE void apply(int64_t at, T (&values)[kVec]) const {
    if (!dropout.any()) return;
    const Philox philox{uint64_t(seed[0]), uint64_t(seed[1])};  // here, from L1: a register less for each while not needed
#pragma unroll
    for (int k = 0; k < kVec; k += kVec < 4 ? 1 : 4) {
      const Philox::Words random = philox(uint64_t(at + k) / 4);
      if constexpr (kVec < 4) {
        const int word = int((at + k) % 4);
        const uint64_t low = word == 0 ? random.at[0] : random.at[1], high = word == 2 ? random.at[2] : random.at[3];
        values[k] *= factor(word < 2 ? low : high);
      } else {
#pragma unroll
        for (int word = 0; word < 4; ++word) values[k + word] *= factor(random.at[word]);
      }
    }
  }

  HOST_DEVICE T factor(uint64_t word) const { return dropout.keeps(word) ? dropout.scale : T(0); }
};

// Rows of dropout(x) + residual; the sum is rounded to R and written as it is formed.
template <typename X, typename R>
struct SumRows {
  using T = math_t<X>;
  const X* x;
  const R* residual;
  R* sum;
  DropoutMask<T> mask;

  template <int kVec>
  HOST_DEVICE void fetch(int64_t at, T (&to)[kVec]) const {
    load_wide<kVec>(x + at, to);
    mask.template apply<kVec>(at, to);
    const Pack<R, kVec> residuals = load_pack<kVec>(residual + at);
    math_t<R> sums[kVec];
#pragma unroll
    for (int k = 0; k < kVec; ++k) sums[k] = math_t<R>(to[k] + T(residuals.get(k)));
    const Pack<R, kVec> rounded = pack_of<R>(sums);
#pragma unroll
    for (int k = 0; k < kVec; ++k) to[k] = T(rounded.get(k));
    store_pack(sum + at, rounded);
  }
  template <int kVec>
  HOST_DEVICE void again(int64_t at, T (&to)[kVec]) const { load_wide<kVec>(sum + at, to); }
};

// The gradient of the sum goes to the residual as it is and to x through the mask.
template <typename X, typename R>
struct SumGrads {
  using T = math_t<X>;
  const R* grad_sum;  // what reached the sum by another way, or null
  X* grad_x;
  R* grad_residual;
  DropoutMask<T> mask;

  template <int kVec>
  HOST_DEVICE void put(int64_t at, T (&grad)[kVec]) const {
    if (grad_sum != nullptr) {
      const Pack<R, kVec> more = load_pack<kVec>(grad_sum + at);
#pragma unroll
      for (int k = 0; k < kVec; ++k) grad[k] += T(more.get(k));
    }
    store_narrow<kVec>(grad_residual + at, grad);
    mask.template apply<kVec>(at, grad);
    store_narrow<kVec>(grad_x + at, grad);
  }
};

}  // namespace airank_fast
