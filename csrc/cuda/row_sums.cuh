// Sums over the blockDim.x threads that take a row, of which a block has blockDim.y.
#pragma once

#include "compat.cuh"

namespace airank_fast {

constexpr unsigned kFullWarp = 0xffffffffu;

// Sums over the threads of a row, for all of them; N at a time wait for each other only once. `slots` has one element
// per warp of the block; all threads of the block must come here, and `slots` must not be used again before another
// barrier.
template <int N, int kWarps, typename T>
__device__ __forceinline__ void row_sums(T (&values)[N], T (&slots)[N][kWarps]) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
#pragma unroll
    for (int n = 0; n < N; ++n) values[n] += __shfl_xor_sync(kFullWarp, values[n], offset);
  if (blockDim.x == 32) return;
  const int warps_per_row = int(blockDim.x) / 32, first = int(threadIdx.y) * warps_per_row;
  if (threadIdx.x % 32 == 0) {
#pragma unroll
    for (int n = 0; n < N; ++n) slots[n][first + threadIdx.x / 32] = values[n];
  }
  __syncthreads();
#pragma unroll
  for (int n = 0; n < N; ++n) values[n] = slots[n][first];
#pragma unroll 1
  for (int w = 1; w < warps_per_row; ++w) {
#pragma unroll
    for (int n = 0; n < N; ++n) values[n] += slots[n][first + w];
  }
}

}  // namespace airank_fast
