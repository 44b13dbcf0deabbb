// The second-order term of a factorization machine on the GPU; formula in fm_math.h.
//
// Mapping: a warp takes a sample, 32 dimensions at a time. Where that leaves threads over, as with embeddings of 10
// numbers, they take further fields: each reads one dimension of every third field, and the warp 30 numbers in a row.
// Their sums are added by shuffles, in a fixed order. Backward takes the sums again and reads the sample, a few KB, once
// more from the first cache. Bytes per element from memory: e forward, 2e backward.
#pragma once

#include "vec.cuh"

#include "../fm_math.h"

namespace airank_fast {

constexpr int kFmThreads = 256;
constexpr int kFmWarps = kFmThreads / 32;
// Numbers after which a thread begins a new partial sum, so that sums over many fields are as accurate as over few.
constexpr int kFmPartial = 16;

// math_t<T> numbers behind the pointers to void, but for x and its gradient.
struct FmTask {
  const void* x;
  const void* grad;  // backward only
  void* result;
  int64_t samples;
  int64_t fields;
  int64_t dim;
};

// A thread's place among the dimensions from `first` on.
struct FmPlace {
  int width;   // dimensions that the warp takes
  int groups;  // fields that it takes at a time
  int group;   // this thread's, and with `groups` or above it has none
  int lane;    // dimension first + lane
};

HOST_DEVICE FmPlace fm_place(int thread, int64_t first, int64_t dim) {
  const int width = dim - first < 32 ? int(dim - first) : 32;
  return {width, 32 / width, thread / width, thread % width};
}

// sum[first + lane] of the sample at `x`, in every thread; adds the squares that this thread reads to `squares`.
template <typename T>
__device__ __forceinline__ math_t<T> fm_sum(const T* x, const FmTask& task, int64_t first, const FmPlace& place,
                                            math_t<T>& squares) {
  using M = math_t<T>;
  M of_thread = 0;
  for (int64_t f = place.group < place.groups ? place.group : task.fields; f < task.fields;) {
    M partial = 0, partial_squares = 0;
#pragma unroll 4
    for (int n = 0; n < kFmPartial && f < task.fields; ++n, f += place.groups) {
      const M v = load(x[f * task.dim + first + place.lane]);
      partial += v;
      partial_squares += v * v;
    }
    of_thread += partial;
    squares += partial_squares;
  }
  M sum = 0;
  for (int g = 0; g < place.groups; ++g) sum += __shfl_sync(0xffffffffu, of_thread, g * place.width + place.lane);
  return sum;
}

template <typename T>
__global__ void __launch_bounds__(kFmThreads) fm_kernel(const FmTask task) {
  using M = math_t<T>;
  const int64_t i = int64_t(blockIdx.x) * kFmWarps + threadIdx.x / 32;
  if (i >= task.samples) return;  // the whole warp
  const T* x = static_cast<const T*>(task.x) + i * task.fields * task.dim;
  const int thread = int(threadIdx.x % 32);
  M total = 0;
  for (int64_t first = 0; first < task.dim; first += 32) {
    const FmPlace place = fm_place(thread, first, task.dim);
    M squares = 0;
    const M sum = fm_sum(x, task, first, place, squares);
    total += fm_term(place.group == 0 ? sum : M(0), squares);
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) total += __shfl_xor_sync(0xffffffffu, total, distance);
  if (thread == 0) static_cast<M*>(task.result)[i] = M(0.5) * total;
}

template <typename T>
__global__ void __launch_bounds__(kFmThreads) fm_backward_kernel(const FmTask task) {
  using M = math_t<T>;
  const int64_t i = int64_t(blockIdx.x) * kFmWarps + threadIdx.x / 32;
  if (i >= task.samples) return;  // the whole warp
  const T* x = static_cast<const T*>(task.x) + i * task.fields * task.dim;
  T* dx = static_cast<T*>(task.result) + i * task.fields * task.dim;
  const M grad = static_cast<const M*>(task.grad)[i];
  for (int64_t first = 0; first < task.dim; first += 32) {
    const FmPlace place = fm_place(int(threadIdx.x % 32), first, task.dim);
    M squares = 0;
    const M sum = fm_sum(x, task, first, place, squares);
    if (place.group >= place.groups) continue;
#pragma unroll 4
    for (int64_t f = place.group; f < task.fields; f += place.groups) {
      const int64_t at = f * task.dim + first + place.lane;
      store(&dx[at], fm_gradient(grad, sum, M(load(x[at]))));
    }
  }
}

}  // namespace airank_fast
