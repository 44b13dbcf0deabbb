// Batch norm + residual + ReLU on the GPU, over NHWC memory seen as [rows, channels]; formulas in
// batch_norm_act_math.h. This file has not run on a GPU yet.
//
// Mapping: a thread takes kPack neighbouring channels (16 bytes; one where C or an address does not allow that) and
// walks groups of 8 rows, whose ReLU is one byte of the mask for each channel, so that the thread alone reads or writes
// it. threadIdx.x and blockIdx.x count packs of channels, threadIdx.y and blockIdx.y groups. What belongs to a channel
// stays in registers.
//
// Reductions have two stages and no atomics, so results are the same in every run: blocks write one row of partial
// results each, and a second kernel adds these up in double. Moments are taken about a pivot, the mean of a block's first
// rows, and combined by their means, so nothing cancels where |mean| >> std.
//
// Bytes per element of size e: forward 3 e + 1/8, backward 5 e + 1/4; with a residual e more each. The elementwise
// kernels walk from the last row to the first: what the reduction before them read last is still in the L2.
#pragma once

#include "../batch_norm_act_math.h"
#include "vec.cuh"

namespace airank_fast {

constexpr int kBatchNormThreads = 256;
constexpr int kBatchNormGroup = 8;   // rows, the bits of a byte
constexpr int kBatchNormUnroll = 4;  // rows in flight
constexpr int kPivotRows = 4;        // whose mean is a block's pivot
constexpr int kCombineChannels = 8, kCombineLanes = kBatchNormThreads / kCombineChannels;

using Byte = unsigned char;

struct BatchNormShape {
  int64_t rows;
  int64_t channels;
};

// What the second stage does with combined moments.
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

__global__ inline void batch_norm_count_kernel(int64_t* num_batches) { *num_batches += 1; }

// Adds two numbers for each channel up over the threads of a column; the sums lie where its first thread's were,
// interleaved. `scratch` has 2 kPack numbers for each thread.
template <int kPack, typename T>
__device__ __forceinline__ void sum_over_rows(const T (&first)[kPack], const T (&second)[kPack], T* scratch) {
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    scratch[2 * (thread * kPack + k)] = first[k];
    scratch[2 * (thread * kPack + k) + 1] = second[k];
  }
  __syncthreads();
  for (unsigned half = blockDim.y / 2; half > 0; half /= 2) {
    if (threadIdx.y < half) {
#pragma unroll
      for (int k = 0; k < 2 * kPack; ++k)
        scratch[2 * thread * kPack + k] += scratch[2 * (thread + int(half * blockDim.x)) * kPack + k];
    }
    __syncthreads();
  }
}

// Row blockIdx.y of `parts` (mean[C], deviations[C], count) from every gridDim.y-th block of rows.
template <typename E, int kPack>
__global__ void __launch_bounds__(kBatchNormThreads)
    batch_norm_moments_kernel(const E* x, BatchNormShape shape, math_t<E>* parts, int64_t* num_batches) {
  using T = math_t<E>;
  SHARED(T, scratch, [2 * kBatchNormThreads * kPack]);
  const int64_t channel = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kPack;
  const int64_t block_row = int64_t(blockIdx.y) * blockDim.y, stride = int64_t(gridDim.y) * blockDim.y;
  const int64_t first = block_row + threadIdx.y;
  const bool inside = channel < shape.channels;
  T pivot[kPack], sum[kPack], squares[kPack];
#pragma unroll
  for (int k = 0; k < kPack; ++k) pivot[k] = sum[k] = squares[k] = 0;
  const int64_t num_first = shape.rows - block_row < kPivotRows ? shape.rows - block_row : kPivotRows;
  for (int64_t r = 0; inside && r < num_first; ++r) {
    const Pack<E, kPack> pack = load_pack<kPack>(x + (block_row + r) * shape.channels + channel);
#pragma unroll
    for (int k = 0; k < kPack; ++k) pivot[k] += T(pack.get(k)) / T(num_first);
  }
  for (int64_t row = first; inside && row < shape.rows; row += kBatchNormUnroll * stride) {
    Pack<E, kPack> packs[kBatchNormUnroll];
#pragma unroll
    for (int u = 0; u < kBatchNormUnroll; ++u)
      if (row + u * stride < shape.rows) packs[u] = load_pack<kPack>(x + (row + u * stride) * shape.channels + channel);
#pragma unroll
    for (int u = 0; u < kBatchNormUnroll; ++u) {
      if (row + u * stride >= shape.rows) break;
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const T distance = T(packs[u].get(k)) - pivot[k];
        sum[k] += distance;
        squares[k] += distance * distance;
      }
    }
  }
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  sum_over_rows<kPack>(sum, squares, scratch);
  if (threadIdx.y == 0 && inside) {
    const int64_t rest = shape.rows % stride - block_row;
    const T count =
        T(shape.rows / stride * blockDim.y + (rest < 0 ? 0 : rest < int64_t(blockDim.y) ? rest : int64_t(blockDim.y)));
    T* part = parts + int64_t(blockIdx.y) * (2 * shape.channels + 1);
#pragma unroll
    for (int k = 0; k < kPack; ++k)
      moments_from_sums(count, pivot[k], scratch[2 * (thread * kPack + k)], scratch[2 * (thread * kPack + k) + 1],
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

// Combines rows of moments; a block takes kCombineChannels channels, its lanes every kCombineLanes-th row.
template <typename T>
__global__ void __launch_bounds__(kBatchNormThreads)
    batch_norm_combine_kernel(const T* parts, int64_t num_parts, int64_t num_channels, T* out, BatchNormFinish finish) {
  SHARED(double, scratch, [kBatchNormThreads]);
  const int64_t channel = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, stride = 2 * num_channels + 1;
  const bool inside = channel < num_channels;
  double count = 0, sum = 0, squares = 0;
  for (int64_t p = threadIdx.y; p < num_parts; p += blockDim.y) {
    const double n = parts[p * stride + 2 * num_channels];
    count += n;
    if (inside && n > 0) sum += n * parts[p * stride + channel];
  }
  count = sum_over_lanes(count, scratch);
  const double inverse = 1 / (count > 0 ? count : 1.0);
  const double mean = sum_over_lanes(sum, scratch) * inverse;
  for (int64_t p = threadIdx.y; inside && p < num_parts; p += blockDim.y) {
    const double n = parts[p * stride + 2 * num_channels];
    if (n == 0) continue;
    const double distance = parts[p * stride + channel] - mean;
    squares += parts[p * stride + num_channels + channel] + n * (distance * distance);
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

// Calls f(group, first row, number of rows) for the groups of this thread, from the last.
template <typename F>
HOST_DEVICE void for_groups_from_the_last(int64_t rows, F f) {
  const int64_t num_groups = (rows + kBatchNormGroup - 1) / kBatchNormGroup;
  const int64_t first = int64_t(blockIdx.y) * blockDim.y + threadIdx.y, stride = int64_t(gridDim.y) * blockDim.y;
  for (int64_t i = first; i < num_groups; i += stride) {
    const int64_t group = num_groups - 1 - i, row = group * kBatchNormGroup;
    f(group, row, rows - row < kBatchNormGroup ? int(rows - row) : kBatchNormGroup);
  }
}

template <typename E, int kPack, bool kResidual>
__global__ void __launch_bounds__(kBatchNormThreads)
    batch_norm_act_kernel(const E* x, const E* residual, E* y, Byte* mask, BatchNormShape shape,
                          const math_t<E>* statistics, const math_t<E>* weight, const math_t<E>* bias, bool relu) {
  using T = math_t<E>;
  const int64_t channels = shape.channels, channel = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kPack;
  if (channel >= channels) return;
  T mean[kPack], scale[kPack], shift[kPack];
  read_scale(statistics, weight, channels, channel, mean, scale);
  read_channels(bias, channel, T(0), shift);
  for_groups_from_the_last(shape.rows, [&](int64_t group, int64_t row, int num_rows) {
    unsigned bits[kPack] = {};
    for (int r = 0; r < num_rows; r += kBatchNormUnroll) {
      Pack<E, kPack> xs[kBatchNormUnroll], residuals[kBatchNormUnroll];
      const int64_t at = (row + r) * channels + channel;
#pragma unroll
      for (int u = 0; u < kBatchNormUnroll; ++u) {
        if (r + u >= num_rows) break;
        xs[u] = load_pack<kPack>(x + at + u * channels);
        if constexpr (kResidual) residuals[u] = load_pack<kPack>(residual + at + u * channels);
      }
#pragma unroll
      for (int u = 0; u < kBatchNormUnroll; ++u) {
        if (r + u >= num_rows) break;
        T result[kPack];
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          T z = normalise(T(xs[u].get(k)), mean[k], scale[k], shift[k]);
          if constexpr (kResidual) z += residuals[u].get(k);
          const bool passes = !(z <= 0);
          bits[k] |= unsigned(passes) << (r + u);
          result[k] = passes || !relu ? z : T(0);
        }
        store_pack(y + at + u * channels, pack_of<E>(result));
      }
    }
    if (mask != nullptr) store_pack(mask + group * channels + channel, pack_of<Byte>(bits));
  });
}

// The bits of a thread's channels in a group; all ones without a ReLU.
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
__global__ void __launch_bounds__(kBatchNormThreads)
    batch_norm_sums_kernel(const E* dy, const E* x, const Byte* mask, BatchNormShape shape,
                           const math_t<E>* statistics, math_t<E>* parts) {
  using T = math_t<E>;
  SHARED(T, scratch, [2 * kBatchNormThreads * kPack]);
  const int64_t channels = shape.channels, channel = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kPack;
  const bool inside = channel < channels;
  T mean[kPack], sum[kPack], products[kPack];
#pragma unroll
  for (int k = 0; k < kPack; ++k) sum[k] = products[k] = 0;
  if (inside) {
    read_channels(statistics, channel, T(0), mean);
    for_groups_from_the_last(shape.rows, [&](int64_t group, int64_t row, int num_rows) {
      const Pack<Byte, kPack> bytes = load_mask<kPack>(mask, group * channels + channel);
      for (int r = 0; r < num_rows; r += kBatchNormUnroll) {
        Pack<E, kPack> dys[kBatchNormUnroll], xs[kBatchNormUnroll];
        const int64_t at = (row + r) * channels + channel;
#pragma unroll
        for (int u = 0; u < kBatchNormUnroll; ++u) {
          if (r + u >= num_rows) break;
          dys[u] = load_pack<kPack>(dy + at + u * channels);
          xs[u] = load_pack<kPack>(x + at + u * channels);
        }
#pragma unroll
        for (int u = 0; u < kBatchNormUnroll; ++u) {
          if (r + u >= num_rows) break;
#pragma unroll
          for (int k = 0; k < kPack; ++k) {
            const T dz = bytes.get(k) >> (r + u) & 1 ? T(dys[u].get(k)) : T(0);
            sum[k] += dz;
            products[k] += dz * (T(xs[u].get(k)) - mean[k]);
          }
        }
      }
    });
  }
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  sum_over_rows<kPack>(sum, products, scratch);
  if (threadIdx.y != 0 || !inside) return;
  T* part = parts + int64_t(blockIdx.y) * 2 * channels + channel;
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    part[k] = scratch[2 * (thread * kPack + k)];
    part[channels + k] = scratch[2 * (thread * kPack + k) + 1];
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
  for (int64_t p = threadIdx.y; inside && p < num_parts; p += blockDim.y) sum += parts[p * 2 * num_channels + column];
  sum = sum_over_lanes(sum, scratch);
  // statistics[column] is rstd where column counts the second half.
  if (threadIdx.y == 0 && inside) sums[column] = T(column < num_channels ? sum : sum * statistics[column]);
}

template <typename E, int kPack, bool kResidual>
__global__ void __launch_bounds__(kBatchNormThreads)
    batch_norm_backward_kernel(const E* dy, const E* x, const Byte* mask, E* dx, E* dresidual, BatchNormShape shape,
                               const math_t<E>* statistics, const math_t<E>* weight, const math_t<E>* sums) {
  using T = math_t<E>;
  constexpr int kUnroll = kPack == 8 ? 2 : kBatchNormUnroll;  // 4 rows of 8 channels would take 134 registers
  const int64_t channels = shape.channels, channel = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kPack;
  if (channel >= channels) return;
  T mean[kPack], scale[kPack], mean_dz[kPack], slope[kPack];
  read_scale(statistics, weight, channels, channel, mean, scale);
  const T inverse = T(1) / statistics[2 * channels];
  const bool fixed = inverse == 0;  // statistics that do not depend on x
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    mean_dz[k] = fixed ? T(0) : sums[channel + k] * inverse;
    slope[k] = fixed ? T(0) : sums[channels + channel + k] * statistics[channels + channel + k] * inverse;
  }
  for_groups_from_the_last(shape.rows, [&](int64_t group, int64_t row, int num_rows) {
    const Pack<Byte, kPack> bytes = load_mask<kPack>(mask, group * channels + channel);
    for (int r = 0; r < num_rows; r += kUnroll) {
      Pack<E, kPack> dys[kUnroll], xs[kUnroll];
      const int64_t at = (row + r) * channels + channel;
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (r + u >= num_rows) break;
        dys[u] = load_pack<kPack>(dy + at + u * channels);
        xs[u] = load_pack<kPack>(x + at + u * channels);
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        if (r + u >= num_rows) break;
        T dz[kPack], result[kPack];
#pragma unroll
        for (int k = 0; k < kPack; ++k) {
          dz[k] = bytes.get(k) >> (r + u) & 1 ? T(dys[u].get(k)) : T(0);
          result[k] = input_gradient(dz[k], T(xs[u].get(k)), mean[k], scale[k], mean_dz[k], slope[k]);
        }
        store_pack(dx + at + u * channels, pack_of<E>(result));
        if constexpr (kResidual) store_pack(dresidual + at + u * channels, pack_of<E>(dz));
      }
    }
  });
}

}  // namespace airank_fast
