// LARS on the GPU, for a list of parameters; formula in lars_math.h.
//
// Three launches for any number of tensors up to LarsTable::kCapacity:
//   norms     a block takes one chunk of one tensor: sums of the squares of parameter and gradient
//   rates     a block per tensor: adds up the sums of its chunks, takes lr times the trust ratio
//   update    chunks again, last first, as those are still in L2
// Tensors that are not adapted need the last one alone. Threads read chunks in packs of 4, kLarsUnroll packs in flight
// each: 4 makes every float32 access one of 16 bytes. Tensors that are not aligned, and the last size % 4 elements, go
// one by one. Bytes per element with float32 gradients: 8 in norms, 20 in update, + 2 and 4 for a 16-bit copy.
//
// Learning rate, gradient scale and found_inf are read from device memory; a block stops at once where found_inf is set.
#pragma once

#include "../lars_math.h"
#include "tensor_sums.cuh"

namespace airank_fast {

constexpr int kLarsThreads = 256;
constexpr int kLarsPack = 4;
constexpr int kLarsUnroll = 2;
constexpr int kLarsChunk = 4 * kLarsThreads * kLarsPack * kLarsUnroll;
// Blocks per multiprocessor: at most 80 registers per thread.
template <typename P>
constexpr int kLarsBlocks = sizeof(P) == 8 ? 1 : 3;
constexpr int kLarsRateThreads = 128;

enum LarsSlot { kLarsParam, kLarsGrad, kLarsVelocity, kLarsCopy, kLarsDepth };
using LarsTable = LargeTable<kLarsDepth>;

struct LarsSettings {
  DeviceScalar lr;
  DeviceScalar grad_scale;
  DeviceScalar found_inf;
  double momentum;
  double weight_decay;
  double trust_coefficient;
  double eps;
  bool nesterov;
};

template <int kPack, int kUnroll, typename P, typename G, typename C, typename T>
HOST_DEVICE void lars_norm_packs(const P* param, const G* grad, const C* copy, int64_t i, int64_t stride, int64_t end,
                                 T& param_squares, T& grad_squares) {
  Pack<P, kPack> params[kUnroll];
  Pack<C, kPack> copies[kUnroll];
  Pack<G, kPack> grads[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t at = i + u * stride;
    if (at < end) {
      params[u] = load_pack<kPack>(param + at);
      grads[u] = load_pack<kPack>(grad + at);
      if constexpr (sizeof(C) == 2) copies[u] = load_pack<kPack>(copy + at);
    }
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    if (i + u * stride >= end) break;
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const T w = newest_of(params[u], copies[u], k), g = T(grads[u].get(k));
      param_squares += w * w;
      grad_squares += g * g;
    }
  }
}

template <typename P, typename G, typename C>
__global__ void __launch_bounds__(kLarsThreads)
    lars_norms_kernel(const LarsTable table, const DeviceScalar found_inf, Sums* sums) {
  static_assert(sizeof(table) + 64 <= kMostArgumentBytes, "kernel arguments");
  if (found_inf.is_set()) return;
  const Chunk chunk = find_chunk(table, blockIdx.x, kLarsChunk);
  const int64_t size = chunk.end - chunk.begin;
  const P* param = static_cast<const P*>(table.data[kLarsParam][chunk.tensor]) + chunk.begin;
  const G* grad = static_cast<const G*>(table.data[kLarsGrad][chunk.tensor]) + chunk.begin;
  const C* copy = nullptr;
  if constexpr (sizeof(C) == 2) copy = static_cast<const C*>(table.data[kLarsCopy][chunk.tensor]) + chunk.begin;
  const bool aligned = is_aligned<kLarsPack>(param) && is_aligned<kLarsPack>(grad) && is_aligned<kLarsPack>(copy);
  const int64_t in_packs = aligned ? size / kLarsPack * kLarsPack : 0;
  constexpr int kStride = kLarsThreads * kLarsPack, kUnroll = 2 * kLarsUnroll;
  math_t<P> of_params = 0, of_grads = 0;
  for (int64_t i = int64_t(threadIdx.x) * kLarsPack; i < in_packs; i += kStride * kUnroll)
    lars_norm_packs<kLarsPack, kUnroll>(param, grad, copy, i, kStride, in_packs, of_params, of_grads);
#pragma unroll 1
  for (int64_t i = in_packs + threadIdx.x; i < size; i += kLarsThreads)
    lars_norm_packs<1, 1>(param, grad, copy, i, 0, size, of_params, of_grads);
  const Sums total = block_sums<kLarsThreads>({double(of_params), double(of_grads)});
  if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

// Block number = tensor number.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    lars_rates_kernel(const LarsTable table, const LarsSettings s, const Sums* sums, double* rates) {
  static_assert(sizeof(table) + sizeof(s) + 16 <= kMostArgumentBytes, "kernel arguments");
  const Sums total = tensor_sums<kThreads>(table, blockIdx.x, sums);
  if (threadIdx.x == 0)
    rates[blockIdx.x] = s.lr.read<double>() * lars_trust(total.first, total.second, s.grad_scale.read<double>(),
                                                         s.weight_decay, s.trust_coefficient, s.eps);
}

template <int kPack, int kUnroll, typename P, typename G, typename C>
HOST_DEVICE void lars_packs(P* param, const G* grad, P* velocity, C* copy, int64_t i, int64_t stride, int64_t end,
                            const LarsScalars<math_t<P>>& scalars) {
  Pack<P, kPack> params[kUnroll], velocities[kUnroll];
  Pack<G, kPack> grads[kUnroll];
  Pack<C, kPack> copies[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t at = i + u * stride;
    if (at < end) {
      params[u] = load_pack<kPack>(param + at);
      grads[u] = load_pack<kPack>(grad + at);
      if constexpr (sizeof(C) == 2) copies[u] = load_pack<kPack>(copy + at);
      if (velocity) velocities[u] = load_pack<kPack>(velocity + at);
    }
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t at = i + u * stride;
    if (at >= end) break;
    using T = math_t<P>;
    T vs[kPack], updated[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const T w = newest_of(params[u], copies[u], k), g = T(grads[u].get(k));
      vs[k] = velocity ? velocities[u].get(k) : T(0);
      updated[k] = velocity ? lars_step<true>(w, g, vs[k], scalars) : lars_step<false>(w, g, vs[k], scalars);
    }
    store_pack(param + at, pack_of<P>(updated));
    if (velocity) store_pack(velocity + at, pack_of<P>(vs));
    if constexpr (sizeof(C) == 2) store_pack(copy + at, pack_of<C>(updated));
  }
}

// `rates` may be null: then every tensor's is the learning rate. Without momentum there are no velocities.
template <typename P, typename G, typename C>
__global__ void __launch_bounds__(kLarsThreads, kLarsBlocks<P>)
    lars_update_kernel(const LarsTable table, const LarsSettings s, const double* rates) {
  using T = math_t<P>;
  if (s.found_inf.is_set()) return;
  const Chunk chunk = find_chunk(table, table.num_blocks - 1 - blockIdx.x, kLarsChunk);
  const LarsScalars<T> scalars{rates ? T(rates[chunk.tensor]) : s.lr.read<T>(), T(1) / s.grad_scale.read<T>(),
                               T(s.momentum), T(s.weight_decay), s.nesterov};
  const int64_t size = chunk.end - chunk.begin;
  P* param = static_cast<P*>(table.data[kLarsParam][chunk.tensor]) + chunk.begin;
  const G* grad = static_cast<const G*>(table.data[kLarsGrad][chunk.tensor]) + chunk.begin;
  P* velocity = static_cast<P*>(table.data[kLarsVelocity][chunk.tensor]);
  if (velocity) velocity += chunk.begin;
  C* copy = nullptr;
  if constexpr (sizeof(C) == 2) copy = static_cast<C*>(table.data[kLarsCopy][chunk.tensor]) + chunk.begin;

  const bool aligned = is_aligned<kLarsPack>(param) && is_aligned<kLarsPack>(grad) &&
                       is_aligned<kLarsPack>(velocity) && is_aligned<kLarsPack>(copy);
  const int64_t in_packs = aligned ? size / kLarsPack * kLarsPack : 0;
  constexpr int kStride = kLarsThreads * kLarsPack;
  for (int64_t i = int64_t(threadIdx.x) * kLarsPack; i < in_packs; i += kStride * kLarsUnroll)
    lars_packs<kLarsPack, kLarsUnroll>(param, grad, velocity, copy, i, kStride, in_packs, scalars);
#pragma unroll 1
  for (int64_t i = in_packs + threadIdx.x; i < size; i += kLarsThreads)
    lars_packs<1, 1>(param, grad, velocity, copy, i, 0, size, scalars);
}

}  // namespace airank_fast
