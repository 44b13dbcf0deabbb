// LAMB on the GPU, for a list of parameters; formula in lamb_math.h.
//
// Four launches for any number of tensors up to LambTable::kCapacity:
//   scalars   one thread: clip factor and bias corrections, in double, from numbers in device memory
//   moments   a block takes one chunk of one tensor: new moments, sums of the squares of parameter and update
//   rates     a block per tensor: adds up the sums of its chunks, takes the trust ratio
//   update    chunks again, last first, as those are still in L2: the update is recomputed from the moments instead of
//             stored, parameter and 16-bit copy are written
// Threads read chunks in packs of 4, kLambUnroll packs in flight each: 4 makes every float32 access one of 16 bytes.
// Tensors that are not aligned, and the last size % 4 elements, go one by one. Bytes per element with float32
// gradients: 24 in moments, 16 in update, + 2 and 4 for a 16-bit copy; the norm over all gradients (global_norm) is 4 more.
//
// found_inf is read from device memory; where it is set a block stops at once.
#pragma once

#include "../lamb_math.h"
#include "tensor_sums.cuh"

namespace airank_fast {

constexpr int kLambThreads = 256;
constexpr int kLambPack = 4;
constexpr int kLambUnroll = 2;
constexpr int kLambChunk = 4 * kLambThreads * kLambPack * kLambUnroll;
constexpr int kLambRateThreads = 128;
// Blocks per multiprocessor, which bounds the registers: by 128 and 80, and for float64 by 255.
template <typename P>
constexpr int kLambMomentBlocks = sizeof(P) == 8 ? 1 : 2;
template <typename P>
constexpr int kLambUpdateBlocks = sizeof(P) == 8 ? 1 : 3;

enum LambSlot { kLambParam, kLambGrad, kLambM, kLambV, kLambCopy, kLambDepth };
using LambTable = LargeTable<kLambDepth>;

struct LambDeviceScalars {
  DeviceScalar lr, step, grad_norm, grad_scale, found_inf;
};

template <typename T>
__global__ void lamb_scalars_kernel(const LambOptions options, const LambDeviceScalars device, LambScalars<T>* to) {
  if (threadIdx.x != 0) return;
  const double norm = device.grad_norm.pointer == nullptr ? 0.0 : device.grad_norm.read<double>();
  *to = lamb_scalars<T>(options, device.step.read<double>(), device.grad_scale.read<double>(), norm);
}

// The moments of kPack * kUnroll elements from `i` on: all loads are issued before the first arithmetic needs one.
template <int kPack, int kUnroll, typename P, typename G, typename C, typename T>
HOST_DEVICE void lamb_moment_packs(const P* param, const G* grad, const C* copy, T* m, T* v, int64_t i, int64_t stride,
                                   int64_t end, LambDecay decay, const LambScalars<T>& scalars, T& param_squares,
                                   T& update_squares) {
  Pack<P, kPack> params[kUnroll];
  Pack<C, kPack> copies[kUnroll];
  Pack<G, kPack> grads[kUnroll];
  Pack<T, kPack> ms[kUnroll], vs[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t at = i + u * stride;
    if (at < end) {
      grads[u] = load_pack<kPack>(grad + at);
      params[u] = load_pack<kPack>(param + at);
      if constexpr (sizeof(C) == 2) copies[u] = load_pack<kPack>(copy + at);
      ms[u] = load_pack<kPack>(m + at);
      vs[u] = load_pack<kPack>(v + at);
    }
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t at = i + u * stride;
    if (at >= end) break;
    T new_ms[kPack], new_vs[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const T w = newest_of(params[u], copies[u], k);
      new_ms[k] = ms[u].get(k);
      new_vs[k] = vs[u].get(k);
      lamb_moments(w, T(grads[u].get(k)), new_ms[k], new_vs[k], decay, scalars);
      const T change = lamb_update(w, new_ms[k], new_vs[k], decay, scalars);
      param_squares += w * w;
      update_squares += change * change;
    }
    store_pack(m + at, pack_of<T>(new_ms));
    store_pack(v + at, pack_of<T>(new_vs));
  }
}

template <typename P, typename G, typename C>
__global__ void __launch_bounds__(kLambThreads, kLambMomentBlocks<P>)
    lamb_moments_kernel(const LambTable table, const LambDecay decay, const DeviceScalar found_inf,
                        const LambScalars<math_t<P>>* scalars_at, Sums* sums) {
  static_assert(sizeof(table) + 64 <= kMostArgumentBytes, "kernel arguments");
  using T = math_t<P>;
  if (found_inf.is_set()) return;
  const LambScalars<T> scalars = *scalars_at;
  const Chunk chunk = find_chunk(table, blockIdx.x, kLambChunk);
  const int64_t size = chunk.end - chunk.begin;
  const P* param = static_cast<const P*>(table.data[kLambParam][chunk.tensor]) + chunk.begin;
  const G* grad = static_cast<const G*>(table.data[kLambGrad][chunk.tensor]) + chunk.begin;
  T* m = static_cast<T*>(table.data[kLambM][chunk.tensor]) + chunk.begin;
  T* v = static_cast<T*>(table.data[kLambV][chunk.tensor]) + chunk.begin;
  const C* copy = nullptr;
  if constexpr (sizeof(C) == 2) copy = static_cast<const C*>(table.data[kLambCopy][chunk.tensor]) + chunk.begin;

  const bool aligned = is_aligned<kLambPack>(param) && is_aligned<kLambPack>(grad) && is_aligned<kLambPack>(m) &&
                       is_aligned<kLambPack>(v) && is_aligned<kLambPack>(copy);
  const int64_t in_packs = aligned ? size / kLambPack * kLambPack : 0;
  constexpr int kStride = kLambThreads * kLambPack;
  T of_params = 0, of_updates = 0;
  for (int64_t i = int64_t(threadIdx.x) * kLambPack; i < in_packs; i += kStride * kLambUnroll)
    lamb_moment_packs<kLambPack, kLambUnroll>(param, grad, copy, m, v, i, kStride, in_packs, decay, scalars, of_params,
                                              of_updates);
#pragma unroll 1
  for (int64_t i = in_packs + threadIdx.x; i < size; i += kLambThreads)
    lamb_moment_packs<1, 1>(param, grad, copy, m, v, i, 0, size, decay, scalars, of_params, of_updates);
  const Sums total = block_sums<kLambThreads>({double(of_params), double(of_updates)});
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

// Block number = tensor number.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    lamb_rates_kernel(const LambTable table, const bool scale_tensors, const DeviceScalar lr, const Sums* sums,
                      double* rates) {
  const Sums total = tensor_sums<kThreads>(table, blockIdx.x, sums);
  if (threadIdx.x == 0)
    rates[blockIdx.x] = lr.read<double>() * (scale_tensors ? lamb_trust(total.first, total.second) : 1.0);
}

template <int kPack, int kUnroll, typename P, typename C, typename T>
HOST_DEVICE void lamb_update_packs(P* param, const T* m, const T* v, C* copy, int64_t i, int64_t stride, int64_t end,
                                   LambDecay decay, const LambScalars<T>& scalars, T rate) {
  Pack<P, kPack> params[kUnroll];
  Pack<C, kPack> copies[kUnroll];
  Pack<T, kPack> ms[kUnroll], vs[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t at = i + u * stride;
    if (at < end) {
      params[u] = load_pack<kPack>(param + at);
      if constexpr (sizeof(C) == 2) copies[u] = load_pack<kPack>(copy + at);
      ms[u] = load_pack<kPack>(m + at);
      vs[u] = load_pack<kPack>(v + at);
    }
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t at = i + u * stride;
    if (at >= end) break;
    T updated[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const T old = newest_of(params[u], copies[u], k);
      updated[k] = old - rate * lamb_update(old, ms[u].get(k), vs[u].get(k), decay, scalars);
    }
    store_pack(param + at, pack_of<P>(updated));
    if constexpr (sizeof(C) == 2) store_pack(copy + at, pack_of<C>(updated));
  }
}

template <typename P, typename C>
__global__ void __launch_bounds__(kLambThreads, kLambUpdateBlocks<P>)
    lamb_update_kernel(const LambTable table, const LambDecay decay, const DeviceScalar found_inf,
                       const LambScalars<math_t<P>>* scalars_at, const double* rates) {
  using T = math_t<P>;
  if (found_inf.is_set()) return;
  const LambScalars<T> scalars = *scalars_at;
  const Chunk chunk = find_chunk(table, table.num_blocks - 1 - blockIdx.x, kLambChunk);
  const T rate = T(rates[chunk.tensor]);
  const int64_t size = chunk.end - chunk.begin;
  P* param = static_cast<P*>(table.data[kLambParam][chunk.tensor]) + chunk.begin;
  const T* m = static_cast<const T*>(table.data[kLambM][chunk.tensor]) + chunk.begin;
  const T* v = static_cast<const T*>(table.data[kLambV][chunk.tensor]) + chunk.begin;
  C* copy = nullptr;
  if constexpr (sizeof(C) == 2) copy = static_cast<C*>(table.data[kLambCopy][chunk.tensor]) + chunk.begin;

  const bool aligned = is_aligned<kLambPack>(param) && is_aligned<kLambPack>(m) && is_aligned<kLambPack>(v) &&
                       is_aligned<kLambPack>(copy);
  const int64_t in_packs = aligned ? size / kLambPack * kLambPack : 0;
  constexpr int kStride = kLambThreads * kLambPack;
  for (int64_t i = int64_t(threadIdx.x) * kLambPack; i < in_packs; i += kStride * kLambUnroll)
    lamb_update_packs<kLambPack, kLambUnroll>(param, m, v, copy, i, kStride, in_packs, decay, scalars, rate);
#pragma unroll 1
  for (int64_t i = in_packs + threadIdx.x; i < size; i += kLambThreads)
    lamb_update_packs<1, 1>(param, m, v, copy, i, 0, size, decay, scalars, rate);
}

}  // namespace airank_fast
