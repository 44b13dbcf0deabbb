// A chunk of an optimizer that updates its tensors element by element, with up to two arrays of state.
//
// The threads of a block read a chunk in packs of 4, kUnroll packs in flight each. 4 makes every float32 access one of
// 16 bytes; a 16-bit gradient and copy then move 8 bytes each, still whole sectors per warp. Tensors that are not
// aligned, and the last size % 4 elements, go one by one.
#pragma once

#include "multi_tensor.cuh"
#include "vec.cuh"

namespace airank_fast {

constexpr int kUpdatePack = 4;

// Of one chunk: C is NoCopy without 16-bit copies, and state beyond kStates is not read.
template <int kStates, typename P, typename G, typename S, typename C>
struct UpdateArrays {
  P* param;
  const G* grad;
  S* first;
  S* second;
  C* copy;
};

// kPack elements from `i` on, kUnroll times: all loads are issued before the arithmetic of the first element needs one.
// `step(param, grad, first, second)` returns the new parameter and updates the state.
template <int kPack, int kUnroll, int kStates, typename P, typename G, typename S, typename C, typename Step>
HOST_DEVICE void update_packs(const UpdateArrays<kStates, P, G, S, C>& arrays, int64_t i, int64_t stride, int64_t end,
                              const Step& step) {
  Pack<P, kPack> params[kUnroll];
  Pack<S, kPack> firsts[kUnroll], seconds[kUnroll];
  Pack<G, kPack> grads[kUnroll];
  Pack<C, kPack> copies[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t at = i + u * stride;
    if (at < end) {
      params[u] = load_pack<kPack>(arrays.param + at);
      grads[u] = load_pack<kPack>(arrays.grad + at);
      if constexpr (kStates > 0) firsts[u] = load_pack<kPack>(arrays.first + at);
      if constexpr (kStates > 1) seconds[u] = load_pack<kPack>(arrays.second + at);
      if constexpr (sizeof(C) == 2) copies[u] = load_pack<kPack>(arrays.copy + at);
    }
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t at = i + u * stride;
    if (at >= end) break;
    math_t<P> first[kPack] = {}, second[kPack] = {}, updated[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      if constexpr (kStates > 0) first[k] = firsts[u].get(k);
      if constexpr (kStates > 1) second[k] = seconds[u].get(k);
      const math_t<P> param = newest_of(params[u], copies[u], k);
      updated[k] = step(param, math_t<P>(grads[u].get(k)), first[k], second[k]);
    }
    store_pack(arrays.param + at, pack_of<P>(updated));
    if constexpr (kStates > 0) store_pack(arrays.first + at, pack_of<S>(first));
    if constexpr (kStates > 1) store_pack(arrays.second + at, pack_of<S>(second));
    if constexpr (sizeof(C) == 2) store_pack(arrays.copy + at, pack_of<C>(updated));
  }
}

// `size` elements by a block of kThreads threads.
template <int kThreads, int kUnroll, int kStates, typename P, typename G, typename S, typename C, typename Step>
__device__ __forceinline__ void update_chunk(const UpdateArrays<kStates, P, G, S, C>& arrays, int64_t size,
                                             const Step& step) {
  const bool aligned = is_aligned<kUpdatePack>(arrays.param) && is_aligned<kUpdatePack>(arrays.grad) &&
                       is_aligned<kUpdatePack>(arrays.first) && is_aligned<kUpdatePack>(arrays.second) &&
                       is_aligned<kUpdatePack>(arrays.copy);
  const int64_t in_packs = aligned ? size / kUpdatePack * kUpdatePack : 0;
  constexpr int kStride = kThreads * kUpdatePack;
  for (int64_t i = int64_t(threadIdx.x) * kUpdatePack; i < in_packs; i += kStride * kUnroll)
    update_packs<kUpdatePack, kUnroll>(arrays, i, kStride, in_packs, step);
#pragma unroll 1
  for (int64_t i = in_packs + threadIdx.x; i < size; i += kThreads)
    update_packs<1, 1>(arrays, i, 0, size, step);
}

}  // namespace airank_fast
