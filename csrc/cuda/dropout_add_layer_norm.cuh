// layer_norm(dropout(x) + residual) on the GPU: the kernels of layer_norm.cuh with rows that are a sum, and gradients
// of both its terms; formulas in dropout_math.h and layer_norm_math.h.
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

  // One bit for each element from `at` on: whether it is kept. Packs of 4 and 8 begin at a multiple of 4.
  template <int kVec>
  HOST_DEVICE unsigned kept(int64_t at) const {
    if (!dropout.any()) return ~0u;
    const Philox philox{uint64_t(seed[0]), uint64_t(seed[1])};  // from L1, to save registers
    unsigned bits = 0;
#pragma unroll
    for (int k = 0; k < kVec; k += kVec < 4 ? 1 : 4) {
      const Philox::Words random = philox(uint64_t(at + k) / 4);
      if constexpr (kVec < 4) {
        const int word = int((at + k) % 4);
        const uint64_t low = word == 0 ? random.at[0] : random.at[1], high = word == 2 ? random.at[2] : random.at[3];
        bits |= unsigned(dropout.keeps(word < 2 ? low : high)) << k;
      } else {
#pragma unroll
        for (int word = 0; word < 4; ++word) bits |= unsigned(dropout.keeps(random.at[word])) << (k + word);
      }
    }
    return bits;
  }

  HOST_DEVICE T factor(unsigned bits, int k) const {
    const T scale = dropout.any() ? dropout.scale : T(1);
    return bits >> k & 1 ? scale : T(0);
  }
};

// Rows of dropout(x) + residual; the sum is rounded to R and written as it is formed.
template <typename X, typename R>
struct SumRows {
  using T = math_t<X>;
  template <int kVec> struct Read {
    Pack<X, kVec> x;
    Pack<R, kVec> residual;
  };
  template <int kVec> using Row = Pack<R, kVec>;
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ < 800 || __CUDA_ARCH__ >= 1200)
  static constexpr int kBlocks = 2;  // needs a few registers more there
#else
  // Of 64 registers per thread, 32 for what is read; of 128 where the residual is float32, 48 or 64.
  static constexpr int kBlocks = sizeof(R) == 4 ? 2 : 4;
#endif
  const X* x;
  const R* residual;
  R* sum;
  DropoutMask<T> mask;

  template <int kVec>
  HOST_DEVICE Read<kVec> read(int64_t at) const { return {load_pack<kVec>(x + at), load_pack<kVec>(residual + at)}; }
  template <int kVec>
  HOST_DEVICE Row<kVec> take(int64_t at, const Read<kVec>& terms) const {
    const unsigned kept = mask.template kept<kVec>(at);  // first, while the terms are being loaded
    math_t<R> sums[kVec];
#pragma unroll
    for (int k = 0; k < kVec; ++k)
      sums[k] = math_t<R>(T(terms.x.get(k)) * mask.factor(kept, k) + T(terms.residual.get(k)));
    const Row<kVec> rounded = pack_of<R>(sums);
    store_pack(sum + at, rounded);
    return rounded;
  }
  template <int kVec>
  HOST_DEVICE Row<kVec> again(int64_t at) const { return load_pack<kVec>(sum + at); }
};

// The gradient of the sum is the residual's, and through the mask x's.
template <typename X, typename R>
struct SumGrads {
  using T = math_t<X>;
  template <int kVec> using Read = Pack<R, kVec>;
  const R* grad_sum;  // the gradient of the returned sum, or null
  X* grad_x;
  R* grad_residual;
  DropoutMask<T> mask;

  template <int kVec>
  HOST_DEVICE Read<kVec> read(int64_t at) const {
    if (grad_sum != nullptr) return load_pack<kVec>(grad_sum + at);
    return {};
  }
  template <int kVec>
  HOST_DEVICE void put(int64_t at, T (&grad)[kVec], const Read<kVec>& more) const {
    if (grad_sum != nullptr) {
#pragma unroll
      for (int k = 0; k < kVec; ++k) grad[k] += T(more.get(k));
    }
    store_narrow<kVec>(grad_residual + at, grad);
    const unsigned kept = mask.template kept<kVec>(at);
#pragma unroll
    for (int k = 0; k < kVec; ++k) grad[k] *= mask.factor(kept, k);
    store_narrow<kVec>(grad_x + at, grad);
  }
};

}  // namespace airank_fast
