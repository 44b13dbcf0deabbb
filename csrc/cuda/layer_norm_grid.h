// The number of threads of a layer norm's row, and of blocks, each with a row of partial sums, in its backward pass.
#pragma once

#include "arguments.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

namespace airank_fast {

// See layer_norm.cuh; layer_norm_launch.h asserts that they agree.
constexpr int kBlockThreads = 256;
constexpr int kResidentBackwardBlocks = 2;  // per multiprocessor
constexpr int kBackwardElements = 8;        // per thread, in registers

// The smallest power of two from 32 on with which a row fits into the threads' registers, or the whole block.
inline int threads_per_row(int64_t columns, int elements_per_thread) {
  int threads = 32;
  while (threads < kBlockThreads && int64_t(threads) * elements_per_thread < columns) threads *= 2;
  return threads;
}

// As many as the current device holds at once, but none without a row, which would not write its partial sums. Where
// rows go in packs of one, a block has fewer of them at a time, and this number is lower than it could be.
inline int64_t backward_blocks(int64_t rows, int64_t columns) {
  int device = 0, multiprocessors = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
    multiprocessors = 1;
  const int rows_per_block = kBlockThreads / threads_per_row(columns, kBackwardElements);
  return std::clamp<int64_t>(ceil_div(rows, rows_per_block), 1, kResidentBackwardBlocks * int64_t(multiprocessors));
}

}  // namespace airank_fast
