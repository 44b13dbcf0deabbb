// Batch norm + residual + activation on the GPU, over NHWC memory seen as [rows, channels]; formulas in
// batch_norm_act_math.h.
//
// Mapping: a thread takes kPack neighbouring channels (16 bytes; one where C or an address does not allow that) and
// loops over groups of 8 rows, whose signs are one byte of the mask for each channel, which one thread alone reads or
// writes. threadIdx.x and blockIdx.x count packs of channels, threadIdx.y and blockIdx.y groups. A channel's numbers
// stay in registers. 8 packs are in flight in each thread, 4 in the forward pass without a residual.
//
// Reductions have two stages and no atomics, so results are the same in every run: blocks write one row of partial
// results each, and a second kernel adds these up in double. Moments are taken about a pivot, the mean of a block's
// first rows, and combined by their means, so that digits do not cancel where |mean| >> std.
//
// Bytes per element of size e: forward 3 e + 1/8, backward 5 e + 1/4; with fixed statistics 2 e + 1/8 each. With a
// residual e more each. The elementwise kernels go from the last row to the first: the rows that the reduction before
// them read last are still in the L2.
#pragma once

#include "batch_norm_act_rows.cuh"

namespace airank_fast {

__global__ void batch_norm_count_kernel(int64_t* num_batches) { *num_batches += 1; }

// Shifts row n's bits to the lowest places. Whole words shift, so that bits beyond row 7's have no meaning.
template <int kPack>
HOST_DEVICE void skip_rows(Pack<Byte, kPack>& mask, int n) {
#pragma unroll
  for (auto& word : mask.words) word >>= n;
}

// The bits of a thread's channels in a group; all ones without an activation.
template <int kPack>
HOST_DEVICE Pack<Byte, kPack> load_mask(const Byte* mask, int64_t at) {
  if (mask != nullptr) return load_pack<kPack>(mask + at);
  unsigned ones[kPack];
#pragma unroll
  for (int k = 0; k < kPack; ++k) ones[k] = 0xff;
  return pack_of<Byte>(ones);
}

// Row blockIdx.y of `parts` (sum dz [C], sum dz * (x - mean) [C]).
template <typename E, int kPack>
__global__ void __launch_bounds__(kBatchNormThreads, kBatchNormBlocks<E>)
    batch_norm_sums_kernel(const E* dy, const E* x, const Byte* mask, BatchNormShape shape,
                           const math_t<E>* statistics, math_t<E> negative_slope, math_t<E>* parts) {
  using T = math_t<E>;
  SHARED(T, scratch, [2 * kBatchNormThreads * kPack]);
  const int64_t channels = shape.channels, channel = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kPack;
  const bool inside = channel < channels;
  T mean[kPack], sum[kPack], products[kPack];
#pragma unroll
  for (int k = 0; k < kPack; ++k) sum[k] = products[k] = 0;
  if (inside) {
    read_channels(statistics, channel, T(0), mean);
    for_groups<true>(shape.rows, [&](int64_t group, int64_t row, int num_rows) {
      Pack<Byte, kPack> bits = load_mask<kPack>(mask, group * channels + channel);
      for_rows<kBatchNormUnroll>(num_rows, [&](int r, int n) {
        Pack<E, kPack> dys[kBatchNormUnroll], xs[kBatchNormUnroll];
        const int64_t at = (row + r) * channels + channel;
#pragma unroll
        for (int u = 0; u < n; ++u) {
          dys[u] = load_pack<kPack>(dy + at + u * channels);
          xs[u] = load_pack<kPack>(x + at + u * channels);
        }
#pragma unroll
        for (int u = 0; u < n; ++u) {
#pragma unroll
          for (int k = 0; k < kPack; ++k) {
            const T dz = activated(T(dys[u].get(k)), bits.get(k) >> u & 1, negative_slope);
            sum[k] += dz;
            products[k] += dz * (T(xs[u].get(k)) - mean[k]);
          }
        }
        skip_rows(bits, n);
      });
    });
  }
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  sum_over_rows<kPack>(sum, products, scratch);
  if (threadIdx.y != 0 || !inside) return;
  T* part = parts + int64_t(blockIdx.y) * 2 * channels + channel;
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    part[k] = scratch[scratch_at(k, thread)];
    part[channels + k] = scratch[scratch_at(kPack + k, thread)];
  }
}

template <typename E, int kPack, bool kResidual>
__global__ void __launch_bounds__(kBatchNormThreads, kBatchNormBlocks<E, true>)
    batch_norm_backward_kernel(const E* dy, const E* x, const Byte* mask, E* dx, E* dresidual, BatchNormShape shape,
                               const math_t<E>* statistics, const math_t<E>* weight, const math_t<E>* sums,
                               math_t<E> negative_slope) {
  using T = math_t<E>;
  const int64_t channels = shape.channels, channel = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kPack;
  if (channel >= channels) return;
  T mean[kPack], scale[kPack], mean_dz[kPack], slope[kPack];
  read_scale(statistics, weight, channels, channel, mean, scale);
  const bool fixed = sums == nullptr;
  if (fixed) x = dy;  // loaded from the L1, and not used
  const T inverse = fixed ? T(0) : T(1) / statistics[2 * channels];
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    mean_dz[k] = fixed ? T(0) : sums[channel + k] * inverse;
    slope[k] = fixed ? T(0) : sums[channels + channel + k] * statistics[channels + channel + k] * inverse;
  }
  for_groups<true>(shape.rows, [&](int64_t group, int64_t row, int num_rows) {
    Pack<Byte, kPack> bits = load_mask<kPack>(mask, group * channels + channel);
    for_rows<kBatchNormUnroll>(num_rows, [&](int r, int n) {
      Pack<E, kPack> dys[kBatchNormUnroll], xs[kBatchNormUnroll];
      const int64_t at = (row + r) * channels + channel;
#pragma unroll
      for (int u = 0; u < n; ++u) {
        dys[u] = load_pack<kPack>(dy + at + u * channels);
        xs[u] = load_pack<kPack>(x + at + u * channels);
      }
#pragma unroll
      for (int u = 0; u < n; ++u) {
        T dz[kPack], result[kPack];
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          dz[k] = activated(T(dys[u].get(k)), bits.get(k) >> u & 1, negative_slope);
          result[k] = fixed ? scale[k] * dz[k]
                            : input_gradient(dz[k], T(xs[u].get(k)), mean[k], scale[k], mean_dz[k], slope[k]);
        }
        store_pack(dx + at + u * channels, pack_of<E>(result));
        if constexpr (kResidual) store_pack(dresidual + at + u * channels, pack_of<E>(dz));
      }
      skip_rows(bits, n);
    });
  });
}

}  // namespace airank_fast
