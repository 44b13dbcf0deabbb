// How many blocks, and so rows of partial sums, the backward pass of a layer norm has.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>

namespace airank_fast {

constexpr int kResidentBackwardBlocks = 2;  // of 256 threads per multiprocessor, see layer_norm.cuh

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// As many as the current device holds at once; a block has up to 8 rows at a time.
inline int64_t backward_blocks(int64_t rows) {
  int device = 0, multiprocessors = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
    multiprocessors = 1;
  return std::clamp<int64_t>(ceil_div(rows, 8), 1, kResidentBackwardBlocks * int64_t(multiprocessors));
}

}  // namespace airank_fast
