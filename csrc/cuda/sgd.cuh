// SGD on the GPU, for a list of parameters; formula in sgd_math.h.
//
// Mapping: a block takes one chunk of one tensor, as elementwise.cuh describes. Bytes per element: 16 for parameter and
// buffer, read and written, + gradient + 4 for a 16-bit copy, read and written.
//
// Learning rate, gradient scale and found_inf are read from device memory; a block stops at once where
// found_inf is set.
#pragma once

#include "../sgd_math.h"
#include "elementwise.cuh"

namespace airank_fast {

constexpr int kSgdThreads = 256;
constexpr int kSgdUnroll = 4;
constexpr int kSgdChunk = 2 * kSgdThreads * kUpdatePack * kSgdUnroll;

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

template <bool kMomentum, typename T>
struct SgdStep {
  SgdScalars<T> scalars;

  HOST_DEVICE T operator()(T param, T grad, T& momentum, T&) const {
    return sgd_step<kMomentum>(param, grad, momentum, scalars);
  }
};

template <bool kMomentum, typename P, typename G, typename C>
__global__ void __launch_bounds__(kSgdThreads) sgd_kernel(const TensorTable<kSgdDepth> table, const SgdSettings s) {
  static_assert(sizeof(table) + sizeof(s) <= 4096, "kernel arguments must fit into 4 KB");
  using T = math_t<P>;
  if (s.found_inf.pointer != nullptr && s.found_inf.read<float>() != 0) return;
  const T factor = (s.maximize ? T(-1) : T(1)) / s.grad_scale.read<T>();
  const SgdStep<kMomentum, T> step{
      {s.lr.read<T>(), factor, T(s.momentum), T(s.undampened), T(s.weight_decay), s.nesterov}};

  const Chunk chunk = find_chunk(table, blockIdx.x, kSgdChunk);
  UpdateArrays<kMomentum ? 1 : 0, P, G, P, C> arrays{};
  arrays.param = static_cast<P*>(table.data[kParam][chunk.tensor]) + chunk.begin;
  arrays.grad = static_cast<const G*>(table.data[kGrad][chunk.tensor]) + chunk.begin;
  if constexpr (kMomentum) arrays.first = static_cast<P*>(table.data[kBuffer][chunk.tensor]) + chunk.begin;
  if constexpr (sizeof(C) == 2) arrays.copy = static_cast<C*>(table.data[kCopy][chunk.tensor]) + chunk.begin;
  update_chunk<kSgdThreads, kSgdUnroll>(arrays, chunk.end - chunk.begin, step);
}

}  // namespace airank_fast
