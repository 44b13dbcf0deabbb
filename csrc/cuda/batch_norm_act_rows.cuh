// Batch norm's kernels that instance norm in channels_last shares, and the walk of both over rows; batch_norm_act.cuh has
// the mapping. blockIdx.z is a picture with statistics of its own; batch norm has one, of all rows. A mask is of one.
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
  bool with_count = true;  // write the count behind the channels' numbers
};

template <int kPack, typename T>
HOST_DEVICE void read_channels(const T* from, int64_t channel, T otherwise, T (&to)[kPack]) {
#pragma unroll
  for (int k = 0; k < kPack; ++k) to[k] = from == nullptr ? otherwise : from[channel + k];
}

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
  x += blockIdx.z * shape.rows * shape.channels;
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
    T* part = parts + (int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * (2 * shape.channels + 1);
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
  parts += blockIdx.z * num_parts * stride;
  out += blockIdx.z * 2 * num_channels;
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
  if (channel == 0 && finish.with_count) out[2 * num_channels] = T(count);
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
  const int64_t picture = blockIdx.z * shape.rows * channels;
  x += picture;
  y += picture;
  if constexpr (kResidual) residual += picture;
  statistics += blockIdx.z * 2 * channels;
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

// Adds up rows of sums; those of dz * (x - mean) become those of dz * xhat.
template <typename T>
__global__ void __launch_bounds__(kBatchNormThreads)
    batch_norm_add_kernel(const T* parts, int64_t num_parts, int64_t num_channels, const T* statistics, T* sums) {
  SHARED(double, scratch, [kBatchNormThreads]);
  const int64_t column = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  const bool inside = column < 2 * num_channels;
  parts += blockIdx.z * num_parts * 2 * num_channels;
  statistics += blockIdx.z * 2 * num_channels;
  sums += blockIdx.z * 2 * num_channels;
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

}  // namespace airank_fast
