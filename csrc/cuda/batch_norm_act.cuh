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

#include "../batch_norm_act_math.h"
#include "vec.cuh"

namespace airank_fast {

constexpr int kBatchNormThreads = 256;
constexpr int kBatchNormGroup = 8;   // rows, the bits of a byte; moments have all in flight
constexpr int kBatchNormUnroll = 4;  // rows in flight elsewhere
constexpr int kPivotRows = 4;        // whose mean is a block's pivot
constexpr int kCombineUnroll = 8;    // parts in flight
constexpr int kCombineChannels = 8, kCombineLanes = kBatchNormThreads / kCombineChannels;

// Blocks per multiprocessor, which leaves a thread 80 registers or 128; fewer of the kernels that keep most, backward
// and those with a residual. Grids are one wave of them, so that no multiprocessor waits for another's last blocks, and
// the elementwise kernels read what is in the L2 once.
template <typename E, bool kKeepsMost = false>
constexpr int kBatchNormBlocks = sizeof(E) == 8 || kKeepsMost ? 2 : 3;

using Byte = unsigned char;

struct BatchNormShape {
  int64_t rows;
  int64_t channels;
};

// The second stage's use of combined moments.
struct BatchNormFinish {
  bool statistics;  // write mean and rstd, not mean and sum of squared deviations
  void* running_mean;
  void* running_var;
  const int64_t* num_batches;  // counted up already
  bool cumulative;             // the weight of the new value is 1 / num_batches, not momentum
  double momentum;
  double eps;
};

template <int kPack, typename T>
HOST_DEVICE void read_channels(const T* from, int64_t channel, T otherwise, T (&to)[kPack]) {
#pragma unroll
  for (int k = 0; k < kPack; ++k) to[k] = from == nullptr ? otherwise : from[channel + k];
}

__global__ void batch_norm_count_kernel(int64_t* num_batches) { *num_batches += 1; }

// The position of a thread's number i in scratch memory: those of neighbouring threads side by side, in banks of their
// own.
HOST_DEVICE int scratch_at(int i, int thread) { return i * kBatchNormThreads + thread; }

// Adds two numbers for each channel up over the threads of a column. The sums replace its first thread's numbers, those
// of `second` after those of `first`. `scratch` has 2 kPack numbers for each thread.
template <int kPack, typename T>
__device__ __forceinline__ void sum_over_rows(const T (&first)[kPack], const T (&second)[kPack], T* scratch) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    scratch[scratch_at(k, thread)] = first[k];
    scratch[scratch_at(kPack + k, thread)] = second[k];
  }
  __syncthreads();
  for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
    if (threadIdx.y < half) {
#pragma unroll
      for (int i = 0; i < 2 * kPack; ++i)
        scratch[scratch_at(i, thread)] += scratch[scratch_at(i, thread + int(half * blockDim.x))];
    }
    __syncthreads();
  }
}

// Calls f(group, first row, number of rows) for the groups of this thread, in order or from the last.
template <bool kFromLast, typename F>
HOST_DEVICE void for_groups(int64_t rows, F f) {
  const int64_t num_groups = (rows + kBatchNormGroup - 1) / kBatchNormGroup;
  const unsigned first = blockIdx.y * blockDim.y + threadIdx.y, stride = gridDim.y * blockDim.y;  // 65535 x 256 at most
  for (int64_t left = num_groups - first; left > 0; left -= stride) {
    const int64_t group = kFromLast ? left - 1 : num_groups - left, row = group * kBatchNormGroup;
    f(group, row, rows - row < kBatchNormGroup ? int(rows - row) : kBatchNormGroup);
  }
}

// Calls f(r, n) for the rows r to r + n - 1 of a group: whole groups kRows at a time, a short one, of which there is at
// most one, row by row. n is a compile-time constant, so that no condition is between the loads of these rows.
template <int kRows, typename F>
HOST_DEVICE void for_rows(int num_rows, F f) {
  static_assert(kBatchNormGroup % kRows == 0);
  if (num_rows == kBatchNormGroup) {
#pragma unroll 1
    for (int r = 0; r < kBatchNormGroup; r += kRows) f(r, kRows);
  } else {
#pragma unroll 1
    for (int r = 0; r < num_rows; ++r) f(r, 1);
  }
}

// Row blockIdx.y of `parts` (mean[C], deviations[C], count) from every gridDim.y-th stretch of blockDim.y groups.
template <typename E, int kPack>
__global__ void __launch_bounds__(kBatchNormThreads, kBatchNormBlocks<E>)
    batch_norm_moments_kernel(const E* x, BatchNormShape shape, math_t<E>* parts, int64_t* num_batches) {
  using T = math_t<E>;
  SHARED(T, scratch, [2 * kBatchNormThreads * kPack]);
  const int64_t channel = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kPack;
  const int64_t block_rows = int64_t(blockDim.y) * kBatchNormGroup, first = blockIdx.y * block_rows;
  const bool inside = channel < shape.channels;
  T pivot[kPack], sum[kPack], squares[kPack];
#pragma unroll
  for (int k = 0; k < kPack; ++k) pivot[k] = sum[k] = squares[k] = 0;
  if (inside) {
    Pack<E, kPack> packs[kPivotRows];  // the last row again where there are fewer
#pragma unroll
    for (int r = 0; r < kPivotRows; ++r) {
      const int64_t row = first + r < shape.rows ? first + r : shape.rows - 1;
      packs[r] = load_pack<kPack>(x + row * shape.channels + channel);
    }
#pragma unroll
    for (int r = 0; r < kPivotRows; ++r)
#pragma unroll
      for (int k = 0; k < kPack; ++k) pivot[k] += T(packs[r].get(k)) * (T(1) / kPivotRows);
    for_groups<false>(shape.rows, [&](int64_t, int64_t row, int num_rows) {
      for_rows<kBatchNormGroup>(num_rows, [&](int r, int n) {
        Pack<E, kPack> xs[kBatchNormGroup];
#pragma unroll
        for (int u = 0; u < n; ++u) xs[u] = load_pack<kPack>(x + (row + r + u) * shape.channels + channel);
#pragma unroll
        for (int u = 0; u < n; ++u) {
#pragma unroll
          for (int k = 0; k < kPack; ++k) {
            const T distance = T(xs[u].get(k)) - pivot[k];
            sum[k] += distance;
            squares[k] += distance * distance;
          }
        }
      });
    });
  }
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  sum_over_rows<kPack>(sum, squares, scratch);
  if (threadIdx.y == 0 && inside) {
    const int64_t stride = gridDim.y * block_rows, rest = shape.rows % stride - first;
    const T count = T(shape.rows / stride * block_rows + (rest < 0 ? 0 : rest < block_rows ? rest : block_rows));
    T* part = parts + int64_t(blockIdx.y) * (2 * shape.channels + 1);
#pragma unroll
    for (int k = 0; k < kPack; ++k)
      moments_from_sums(count, pivot[k], scratch[scratch_at(k, thread)], scratch[scratch_at(kPack + k, thread)],
                        &part[channel + k], &part[shape.channels + channel + k]);
    if (channel == 0) part[2 * shape.channels] = count;
  }
  if (num_batches != nullptr && blockIdx.x == 0 && blockIdx.y == 0 && thread == 0) *num_batches += 1;
}

// The sum of `value` over the lanes of a channel, for all of them. `scratch` has a number for each thread.
__device__ __forceinline__ double sum_over_lanes(double value, double* scratch) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  scratch[thread] = value;
  __syncthreads();
  for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
    if (threadIdx.y < half) scratch[thread] += scratch[thread + half * blockDim.x];
    __syncthreads();
  }
  const double sum = scratch[threadIdx.x];
  __syncthreads();
  return sum;
}

// The index of a lane's next part; past the last one the last again, so that loads depend on no condition.
HOST_DEVICE void find_parts(int64_t part, int64_t num_parts, int64_t stride, int64_t (&at)[kCombineUnroll]) {
  at[0] = part * stride;
#pragma unroll
  for (int u = 1; u < kCombineUnroll; ++u)
    at[u] = at[u - 1] + (part + u * kCombineLanes < num_parts ? kCombineLanes * stride : 0);
}

// Combines rows of moments; a block takes kCombineChannels channels, its lanes every kCombineLanes-th row.
template <typename T>
__global__ void __launch_bounds__(kBatchNormThreads)
    batch_norm_combine_kernel(const T* parts, int64_t num_parts, int64_t num_channels, T* out, BatchNormFinish finish) {
  SHARED(double, scratch, [kBatchNormThreads]);
  const int64_t channel = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, stride = 2 * num_channels + 1;
  const bool inside = channel < num_channels;
  const T *counts = parts + 2 * num_channels, *means = parts + (inside ? channel : 0), *squared = means + num_channels;
  double count = 0, sum = 0, squares = 0;
  for (int64_t p = threadIdx.y; p < num_parts; p += kCombineUnroll * kCombineLanes) {
    int64_t at[kCombineUnroll];
    T n[kCombineUnroll], m[kCombineUnroll];
    find_parts(p, num_parts, stride, at);
#pragma unroll
    for (int u = 0; u < kCombineUnroll; ++u) n[u] = counts[at[u]], m[u] = means[at[u]];
#pragma unroll
    for (int u = 0; u < kCombineUnroll; ++u) {
      const double own = p + u * kCombineLanes < num_parts ? n[u] : T(0);
      count += own;
      sum += own > 0 ? own * m[u] : 0.0;
    }
  }
  count = sum_over_lanes(count, scratch);
  const double inverse = 1 / (count > 0 ? count : 1.0);
  const double mean = sum_over_lanes(sum, scratch) * inverse;
  for (int64_t p = threadIdx.y; inside && p < num_parts; p += kCombineUnroll * kCombineLanes) {
    int64_t at[kCombineUnroll];
    T n[kCombineUnroll], m[kCombineUnroll], d[kCombineUnroll];
    find_parts(p, num_parts, stride, at);
#pragma unroll
    for (int u = 0; u < kCombineUnroll; ++u) n[u] = counts[at[u]], m[u] = means[at[u]], d[u] = squared[at[u]];
#pragma unroll
    for (int u = 0; u < kCombineUnroll; ++u) {
      const double own = p + u * kCombineLanes < num_parts ? n[u] : T(0), distance = m[u] - mean;
      squares += own == 0 ? 0.0 : d[u] + own * (distance * distance);
    }
  }
  const double deviations = sum_over_lanes(squares, scratch);
  if (threadIdx.y != 0) return;
  if (channel == 0) out[2 * num_channels] = T(count);
  if (!inside) return;
  out[channel] = T(mean);
  out[num_channels + channel] = finish.statistics ? T(1 / sqrt(deviations * inverse + finish.eps)) : T(deviations);
  if (finish.running_mean == nullptr || count == 0) return;
  const double factor = finish.cumulative ? 1.0 / double(*finish.num_batches) : finish.momentum;
  T *running_mean = static_cast<T*>(finish.running_mean), *running_var = static_cast<T*>(finish.running_var);
  running_mean[channel] = running_average(running_mean[channel], mean, factor);
  running_var[channel] = running_average(running_var[channel], unbiased_variance(deviations, count), factor);
}

// scale = rstd * weight of a thread's channels, and their means.
template <int kPack, typename T>
HOST_DEVICE void read_scale(const T* statistics, const T* weight, int64_t num_channels, int64_t channel,
                            T (&mean)[kPack], T (&scale)[kPack]) {
  read_channels(statistics, channel, T(0), mean);
  read_channels(weight, channel, T(1), scale);
#pragma unroll
  for (int k = 0; k < kPack; ++k) scale[k] *= statistics[num_channels + channel + k];
}

// x where it passed the activation; else times the slope, of which 0 is a ReLU's, for infinity and NaN too.
template <typename T>
HOST_DEVICE T activated(T x, bool passed, T negative_slope) {
  return passed ? x : negative_slope == 0 ? T(0) : x * negative_slope;
}

template <typename E, int kPack, bool kResidual>
__global__ void __launch_bounds__(kBatchNormThreads, kBatchNormBlocks<E, kResidual>)
    batch_norm_act_kernel(const E* x, const E* residual, E* y, Byte* mask, BatchNormShape shape,
                          const math_t<E>* statistics, const math_t<E>* weight, const math_t<E>* bias,
                          math_t<E> negative_slope) {
  using T = math_t<E>;
  constexpr int kPerWord = Pack<Byte, kPack>::kPerWord;
  const int64_t channels = shape.channels, channel = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kPack;
  if (channel >= channels) return;
  T mean[kPack], scale[kPack], shift[kPack];
  read_scale(statistics, weight, channels, channel, mean, scale);
  read_channels(bias, channel, T(0), shift);
  for_groups<true>(shape.rows, [&](int64_t group, int64_t row, int num_rows) {
    Pack<Byte, kPack> bytes = {};
    for_rows<kBatchNormUnroll>(num_rows, [&](int r, int n) {
      Pack<Byte, kPack> bits = {};
      Pack<E, kPack> xs[kBatchNormUnroll], residuals[kBatchNormUnroll];
      const int64_t at = (row + r) * channels + channel;
#pragma unroll
      for (int u = 0; u < n; ++u) {
        xs[u] = load_pack<kPack>(x + at + u * channels);
        if constexpr (kResidual) residuals[u] = load_pack<kPack>(residual + at + u * channels);
      }
#pragma unroll
      for (int u = 0; u < n; ++u) {
        T result[kPack];
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          T z = normalise(T(xs[u].get(k)), mean[k], scale[k], shift[k]);
          if constexpr (kResidual) z += residuals[u].get(k);
          const bool passes = !(z <= 0);
          if (passes) bits.words[k / kPerWord] |= 1u << (k % kPerWord * 8 + u);
          result[k] = activated(z, passes, negative_slope);
        }
        store_pack(y + at + u * channels, pack_of<E>(result));
      }
#pragma unroll
      for (int k = 0; k < kPack; k += kPerWord) bytes.words[k / kPerWord] |= bits.words[k / kPerWord] << r;
    });
    if (mask != nullptr) store_pack(mask + group * channels + channel, bytes);
  });
}

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

// Adds up rows of sums; those of dz * (x - mean) become those of dz * xhat.
template <typename T>
__global__ void __launch_bounds__(kBatchNormThreads)
    batch_norm_add_kernel(const T* parts, int64_t num_parts, int64_t num_channels, const T* statistics, T* sums) {
  SHARED(double, scratch, [kBatchNormThreads]);
  const int64_t column = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const bool inside = column < 2 * num_channels;
  double sum = 0;
  for (int64_t p = threadIdx.y; inside && p < num_parts; p += kCombineUnroll * kCombineLanes) {
    int64_t at[kCombineUnroll];
    T own[kCombineUnroll];
    find_parts(p, num_parts, 2 * num_channels, at);
#pragma unroll
    for (int u = 0; u < kCombineUnroll; ++u) own[u] = parts[at[u] + column];
#pragma unroll
    for (int u = 0; u < kCombineUnroll; ++u) sum += p + u * kCombineLanes < num_parts ? own[u] : T(0);
  }
  sum = sum_over_lanes(sum, scratch);
  // statistics[column] is rstd where column counts the second half.
  if (threadIdx.y == 0 && inside) sums[column] = T(column < num_channels ? sum : sum * statistics[column]);
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
