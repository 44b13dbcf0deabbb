// The norm over all elements of a list of tensors on the GPU.
//
// Mapping: a block takes one chunk of one tensor, its threads read it in packs of 16 bytes, kNormUnroll in flight each;
// the block's sum goes to memory. One block then adds up the sums and takes the root. It reads every element once.
#pragma once

#include "../lamb_math.h"
#include "tensor_sums.cuh"

namespace airank_fast {

constexpr int kNormThreads = 256;
constexpr int kNormUnroll = 4;
constexpr int kNormChunk = 16384;

using NormTable = LargeTable<1>;

template <int kPack, int kUnroll, typename P>
HOST_DEVICE void add_squares(const P* x, int64_t i, int64_t stride, int64_t end, math_t<P>& sum) {
  Pack<P, kPack> packs[kUnroll];
#pragma unroll
  for (int u = 0; u < kUnroll; ++u)
    if (i + u * stride < end) packs[u] = load_pack<kPack>(x + i + u * stride);
#pragma unroll
  for (int u = 0; u < kUnroll; ++u) {
    if (i + u * stride >= end) break;
#pragma unroll
    for (int k = 0; k < kPack; ++k) sum += packs[u].get(k) * packs[u].get(k);
  }
}

template <typename P>
__global__ void __launch_bounds__(kNormThreads) norm_kernel(const NormTable table, double* sums) {
  static_assert(sizeof(table) + sizeof(sums) <= kMostArgumentBytes, "kernel arguments");
  constexpr int kPack = 16 / sizeof(P);
  const Chunk chunk = find_chunk(table, blockIdx.x, kNormChunk);
  const int64_t size = chunk.end - chunk.begin;
  const P* x = static_cast<const P*>(table.data[0][chunk.tensor]) + chunk.begin;
  const int64_t in_packs = is_aligned<kPack>(x) ? size / kPack * kPack : 0;
  constexpr int kStride = kNormThreads * kPack;
  math_t<P> sum = 0;
  for (int64_t i = int64_t(threadIdx.x) * kPack; i < in_packs; i += kStride * kNormUnroll)
    add_squares<kPack, kNormUnroll>(x, i, kStride, in_packs, sum);
#pragma unroll 1
  for (int64_t i = in_packs + threadIdx.x; i < size; i += kNormThreads) add_squares<1, 1>(x, i, 0, size, sum);
  const Sums total = block_sums<kNormThreads>({double(sum), 0});
  if (threadIdx.x == 0) sums[blockIdx.x] = total.first;
}

// One block: the root of the sum of `num_sums` sums.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) norm_of_sums_kernel(const double* sums, int64_t num_sums, double* norm) {
  double sum = 0;
#pragma unroll 8
  for (int64_t i = threadIdx.x; i < num_sums; i += kThreads) sum += sums[i];
  const Sums total = block_sums<kThreads>({sum, 0});
  if (threadIdx.x == 0) *norm = square_root(total.first);
}

}  // namespace airank_fast
