// Sums over whole tensors in two launches, the same in every run: each block of the first stores the sums of its
// chunk, one block per tensor of the second adds them up. No atomics, so that the order of blocks has no effect.
#pragma once

#include "multi_tensor.cuh"
#include "vec.cuh"

namespace airank_fast {

struct Sums {
  double first;
  double second;
};

// The sums over a block of kThreads threads, in thread 0. Once per kernel: the shared memory is not reused.
template <int kThreads>
__device__ __forceinline__ Sums block_sums(Sums sums) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024, "whole warps");
  SHARED(double, of_warps, [2 * (kThreads / 32)]);
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    sums.first += __shfl_xor_sync(0xffffffffu, sums.first, lanes);
    sums.second += __shfl_xor_sync(0xffffffffu, sums.second, lanes);
  }
  if (threadIdx.x % 32 == 0) {
    of_warps[threadIdx.x / 32 * 2] = sums.first;
    of_warps[threadIdx.x / 32 * 2 + 1] = sums.second;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < kThreads / 32; ++warp) {
      sums.first += of_warps[2 * warp];
      sums.second += of_warps[2 * warp + 1];
    }
  }
  return sums;
}

// Adds up the sums that the blocks of a tensor stored; in thread 0.
template <int kThreads, typename Table>
__device__ __forceinline__ Sums tensor_sums(const Table& table, int tensor, const Sums* of_blocks) {
  const unsigned end = tensor + 1 < table.num_tensors ? table.first_block[tensor + 1] : table.num_blocks;
  Sums sums = {0, 0};
  for (unsigned block = table.first_block[tensor] + threadIdx.x; block < end; block += kThreads) {
    sums.first += of_blocks[block].first;
    sums.second += of_blocks[block].second;
  }
  return block_sums<kThreads>(sums);
}

#ifndef __CUDACC_RTC__
// Blocks of the largest table: never more than these of all tensors.
inline int64_t num_chunks(int64_t num_tensors, const int64_t* sizes, int chunk_size) {
  int64_t total = 0;
  for (int64_t i = 0; i < num_tensors; ++i) total += (sizes[i] + chunk_size - 1) / chunk_size;
  return total;
}
#endif

}  // namespace airank_fast
