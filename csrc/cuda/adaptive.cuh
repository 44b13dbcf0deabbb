// The adaptive optimizers on the GPU, for a list of parameters and any formula (see adaptive_args.h).
//
// Two launches for up to AdaptiveTable::kCapacity tensors (ResNet-50, BERT-large):
//   scalars   a thread per tensor: counts the step, takes bias corrections and the like in double
//   update    a block takes one chunk of one tensor, as elementwise.cuh describes
// Bytes per element with float32 gradients: 12 for gradient and parameter, 8 for each array of state, and 4 for a 16-bit
// copy, read and written.
//
// Learning rate, gradient scale and found_inf are read from device memory; where found_inf is set a block stops at once,
// and no step is counted.
#pragma once

#include "elementwise.cuh"

namespace airank_fast {

constexpr int kAdaptiveThreads = 256;
constexpr int kAdaptiveUnroll = 2;
constexpr int kAdaptiveChunk = 4 * kAdaptiveThreads * kUpdatePack * kAdaptiveUnroll;
constexpr int kAdaptiveCountThreads = 128;
// Blocks per multiprocessor, which bounds the registers: by 128, and for float64 by 255.
template <typename P>
constexpr int kAdaptiveBlocks = sizeof(P) == 8 ? 1 : 2;

enum AdaptiveSlot {
  kAdaptiveParam,
  kAdaptiveGrad,
  kAdaptiveFirst,
  kAdaptiveSecond,
  kAdaptiveCopy,
  kAdaptiveScalars,
  kAdaptiveDepth
};
using AdaptiveTable = LargeTable<kAdaptiveDepth>;
using AdaptiveCounts = LargeTable<1>;  // the step counts, each a tensor of one element

struct AdaptiveDeviceScalars {
  DeviceScalar lr, grad_scale, found_inf;
};

template <typename Formula, typename T>
__global__ void __launch_bounds__(kAdaptiveCountThreads)
    adaptive_scalars_kernel(const AdaptiveCounts table, const typename Formula::Options options,
                            const AdaptiveDeviceScalars device, typename Formula::template Scalars<T>* to) {
  static_assert(sizeof(table) + sizeof(options) + 64 <= kMostArgumentBytes, "kernel arguments");
  const int i = int(blockIdx.x) * kAdaptiveCountThreads + int(threadIdx.x);
  if (i >= table.num_tensors || device.found_inf.is_set()) return;
  float* count = static_cast<float*>(table.data[0][i]);
  const float step = *count + 1;
  *count = step;
  to[i] = Formula::template scalars<T>(options, device.lr.read<double>(), step, device.grad_scale.read<double>());
}

template <typename Formula, typename T>
struct AdaptiveStep {
  typename Formula::template Scalars<T> scalars;

  HOST_DEVICE T operator()(T param, T grad, T& first, T& second) const {
    return Formula::step(param, grad, first, second, scalars);
  }
};

template <typename Formula, typename P, typename G, typename C>
__global__ void __launch_bounds__(kAdaptiveThreads, kAdaptiveBlocks<P>)
    adaptive_update_kernel(const AdaptiveTable table, const DeviceScalar found_inf) {
  static_assert(sizeof(table) + 64 <= kMostArgumentBytes, "kernel arguments");
  using T = math_t<P>;
  if (found_inf.is_set()) return;
  const Chunk chunk = find_chunk(table, blockIdx.x, kAdaptiveChunk);
  const AdaptiveStep<Formula, T> step{
      *static_cast<const typename Formula::template Scalars<T>*>(table.data[kAdaptiveScalars][chunk.tensor])};
  UpdateArrays<Formula::kStates, P, G, T, C> arrays{};
  arrays.param = static_cast<P*>(table.data[kAdaptiveParam][chunk.tensor]) + chunk.begin;
  arrays.grad = static_cast<const G*>(table.data[kAdaptiveGrad][chunk.tensor]) + chunk.begin;
  arrays.first = static_cast<T*>(table.data[kAdaptiveFirst][chunk.tensor]) + chunk.begin;
  if constexpr (Formula::kStates > 1)
    arrays.second = static_cast<T*>(table.data[kAdaptiveSecond][chunk.tensor]) + chunk.begin;
  if constexpr (sizeof(C) == 2) arrays.copy = static_cast<C*>(table.data[kAdaptiveCopy][chunk.tensor]) + chunk.begin;
  update_chunk<kAdaptiveThreads, kAdaptiveUnroll>(arrays, chunk.end - chunk.begin, step);
}

}  // namespace airank_fast
