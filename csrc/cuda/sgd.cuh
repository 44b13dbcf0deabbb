// SGD on the GPU, for a list of parameters; formula in sgd_math.h.
//
// Mapping: a block takes one chunk of one tensor; its threads read it in packs of 4, kUnroll packs in flight
// each. 4 makes every float32 access one of 16 bytes; the 16-bit gradient and copy then move 8 bytes
// each, still whole sectors per warp. Tensors that are not aligned, and the last size % 4 elements, go one by
// one. Bytes per element: 16 for parameter and buffer, read and written, + gradient + 4 for a 16-bit copy, read and written.
//
// Learning rate, gradient scale and found_inf are read from device memory; a block stops at once where
// found_inf is set.
#pragma once

#include "../sgd_math.h"
#include "multi_tensor.cuh"
#include "vec.cuh"

namespace airank_fast {

constexpr int kSgdThreads = 256;
constexpr int kSgdPack = 4;
constexpr int kSgdUnroll = 4;
constexpr int kSgdChunk = 2 * kSgdThreads * kSgdPack * kSgdUnroll;

struct SgdSettings {
  DeviceScalar lr;
  DeviceScalar grad_scale;
  DeviceScalar found_inf;
  double momentum;
  double undampened;
  double weight_decay;
  bool nesterov;
  bool maximize;
};

enum SgdSlot { kParam, kGrad, kBuffer, kCopy, kSgdDepth };

// kPack elements from `i` on: all loads are issued before the arithmetic of the first element needs one.
template <bool kMomentum, int kPack, int kUnroll, typename P, typename G, typename C>
HOST_DEVICE void sgd_packs(P* param, const G* grad, P* buffer, C* copy, int64_t i, int64_t stride, int64_t end,
                           const SgdScalars<math_t<P>>& scalars) {
  Pack<P, kPack> params[kUnroll], buffers[kUnroll];
  Pack<G, kPack> grads[kUnroll];
  Pack<C, kPack> copies[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t at = i + u * stride;
    if (at < end) {
      params[u] = load_pack<kPack>(param + at);
      grads[u] = load_pack<kPack>(grad + at);
      if constexpr (kMomentum) buffers[u] = load_pack<kPack>(buffer + at);
      if constexpr (sizeof(C) == 2) copies[u] = load_pack<kPack>(copy + at);
    }
  }
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    const int64_t at = i + u * stride;
    if (at >= end) break;
    math_t<P> momentum[kPack] = {}, updated[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      if constexpr (kMomentum) momentum[k] = buffers[u].get(k);
      const math_t<P> param_k = newest_of(params[u], copies[u], k);
      updated[k] = sgd_step<kMomentum>(param_k, math_t<P>(grads[u].get(k)), momentum[k], scalars);
    }
    store_pack(param + at, pack_of<P>(updated));
    if constexpr (kMomentum) store_pack(buffer + at, pack_of<P>(momentum));
    if constexpr (sizeof(C) == 2) store_pack(copy + at, pack_of<C>(updated));
  }
}

template <bool kMomentum, typename P, typename G, typename C>
__global__ void __launch_bounds__(kSgdThreads) sgd_kernel(const TensorTable<kSgdDepth> table, const SgdSettings s) {
  static_assert(sizeof(table) + sizeof(s) <= 4096, "kernel arguments must fit into 4 KB");
  using T = math_t<P>;
  if (s.found_inf.pointer != nullptr && s.found_inf.read<float>() != 0) return;
  const T factor = (s.maximize ? T(-1) : T(1)) / s.grad_scale.read<T>();
  const SgdScalars<T> scalars{s.lr.read<T>(),  factor,      T(s.momentum), T(s.undampened),
                              T(s.weight_decay), s.nesterov};

  const Chunk chunk = find_chunk(table, blockIdx.x, kSgdChunk);
  const int64_t size = chunk.end - chunk.begin;
  P* param = static_cast<P*>(table.data[kParam][chunk.tensor]) + chunk.begin;
  const G* grad = static_cast<const G*>(table.data[kGrad][chunk.tensor]) + chunk.begin;
  P* buffer = nullptr;
  C* copy = nullptr;
  if constexpr (kMomentum) buffer = static_cast<P*>(table.data[kBuffer][chunk.tensor]) + chunk.begin;
  if constexpr (sizeof(C) == 2) copy = static_cast<C*>(table.data[kCopy][chunk.tensor]) + chunk.begin;

  const bool aligned = is_aligned<kSgdPack>(param) && is_aligned<kSgdPack>(grad) &&
                       is_aligned<kSgdPack>(buffer) && is_aligned<kSgdPack>(copy);
  const int64_t in_packs = aligned ? size / kSgdPack * kSgdPack : 0;
  constexpr int kStride = kSgdThreads * kSgdPack;
  for (int64_t i = int64_t(threadIdx.x) * kSgdPack; i < in_packs; i += kStride * kSgdUnroll)
    sgd_packs<kMomentum, kSgdPack, kSgdUnroll>(param, grad, buffer, copy, i, kStride, in_packs, scalars);
#pragma unroll 1
  for (int64_t i = in_packs + threadIdx.x; i < size; i += kSgdThreads)
    sgd_packs<kMomentum, 1, 1>(param, grad, buffer, copy, i, 0, size, scalars);
}

}  // namespace airank_fast
