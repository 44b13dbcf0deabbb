// Instance norm + residual + activation on the GPU, and its backward; formulas in batch_norm_act_math.h.
//
// Mapping of contiguous pictures: a block takes a plane, a thread packs of it (16 bytes; single numbers where the plane
// or an address does not allow that). The first packs of a thread stay in registers, so that a plane of at most 65536
// bytes forward, 32768 backward, is read once; of larger ones the rest is read again, from the L2. Mean and deviations
// are two sums over the block, of distances from the mean, so that digits do not cancel where |mean| >> std.
//
// Mapping of channels_last: batch norm's, batch_norm_act.cuh, with blockIdx.z as the picture; its kernels of moments and
// of the result are shared. Two passes, of which the second finds a picture that fits there in the L2.
//
// Backward computes again which elements passed the activation, or reads it from the result (kResult), which it needs
// where a residual was added; then dz is the residual's gradient. No atomics: the same bits in every run. Bytes per
// element of size e: forward 2 e and a residual's e, backward 3 e, with y and a residual's gradient 5 e.
#pragma once

#include "batch_norm_act_rows.cuh"
#include "row_sums.cuh"

namespace airank_fast {

constexpr int kPlaneThreads = 512;
constexpr int kPlaneBlocks = 1;         // at least; unsaid, the compiler spills for a third one
constexpr int kPlanePacks = 8;          // of a thread that stay in registers
constexpr int kPlaneBackwardPacks = 4;  // of two arrays

struct PlaneShape {
  int64_t channels;
  int64_t pixels;
};

// Calls f(pack's number, pack) for the packs of this thread: those kept, and others, which it reads.
template <int kPack, int kKept, typename E, typename F>
HOST_DEVICE void for_plane_packs(const E* plane, const Pack<E, kPack> (&kept)[kKept], int64_t packs, F f) {
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    const int64_t i = threadIdx.x + k * blockDim.x;
    if (i < packs) f(i, kept[k]);
  }
#pragma unroll 1
  for (int64_t i = threadIdx.x + kKept * blockDim.x; i < packs; i += blockDim.x) f(i, load_pack<kPack>(plane + i * kPack));
}

template <int kPack, int kKept, typename E>
HOST_DEVICE void keep_plane_packs(const E* plane, Pack<E, kPack> (&kept)[kKept], int64_t packs) {
#pragma unroll
  for (int k = 0; k < kKept; ++k) {
    const int64_t i = threadIdx.x + k * blockDim.x;
    if (i < packs) kept[k] = load_pack<kPack>(plane + i * kPack);
  }
}

// The numbers of a plane's channel.
template <typename T>
struct PlaneNumbers {
  T mean, scale, bias;
};

template <typename T>
HOST_DEVICE PlaneNumbers<T> plane_numbers(T mean, T rstd, const T* weight, const T* bias, int64_t channel) {
  return {mean, weight == nullptr ? rstd : rstd * weight[channel], bias == nullptr ? T(0) : bias[channel]};
}

template <typename E, int kPack, bool kResidual>
__global__ void __launch_bounds__(kPlaneThreads, kPlaneBlocks)
    instance_norm_plane_kernel(const E* x, const E* residual, E* y, PlaneShape shape, const math_t<E>* weight,
                               const math_t<E>* bias, math_t<E> negative_slope, double eps, math_t<E>* statistics) {
  using T = math_t<E>;
  SHARED(T, slots, [2][1][kPlaneThreads / 32]);
  const int64_t picture = blockIdx.x / shape.channels, channel = blockIdx.x % shape.channels;
  const int64_t packs = shape.pixels / kPack, first = blockIdx.x * shape.pixels;
  const E* plane = x + first;
  Pack<E, kPack> kept[kPlanePacks] = {};
  keep_plane_packs(plane, kept, packs);
  T sum[1] = {0}, squares[1] = {0};
  for_plane_packs(plane, kept, packs, [&](int64_t, const Pack<E, kPack>& pack) {
#pragma unroll
    for (int k = 0; k < kPack; ++k) sum[0] += pack.get(k);
  });
  row_sums(sum, slots[0]);
  const T mean = sum[0] / T(shape.pixels);
  for_plane_packs(plane, kept, packs, [&](int64_t, const Pack<E, kPack>& pack) {
#pragma unroll
    for (int k = 0; k < kPack; ++k) squares[0] += (T(pack.get(k)) - mean) * (T(pack.get(k)) - mean);
  });
  row_sums(squares, slots[1]);
  const T rstd = T(1 / sqrt(double(squares[0]) / double(shape.pixels) + eps));
  if (threadIdx.x == 0) {
    statistics[picture * 2 * shape.channels + channel] = mean;
    statistics[(picture * 2 + 1) * shape.channels + channel] = rstd;
  }
  const PlaneNumbers<T> n = plane_numbers(mean, rstd, weight, bias, channel);
  for_plane_packs(plane, kept, packs, [&](int64_t i, const Pack<E, kPack>& pack) {
    Pack<E, kPack> added;
    if constexpr (kResidual) added = load_pack<kPack>(residual + first + i * kPack);
    T result[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      T z = normalise(T(pack.get(k)), n.mean, n.scale, n.bias);
      if constexpr (kResidual) z += added.get(k);
      result[k] = activated(z, !(z <= 0), negative_slope);
    }
    store_pack(y + first + i * kPack, pack_of<E>(result));
  });
}

// The gradient of z; without an activation, where the slope is 1, that of the result.
template <bool kResult, typename T>
HOST_DEVICE T gradient_of_z(T dy, T x, T y, T mean, T scale, T bias, T negative_slope) {
  const T z = kResult ? y : normalise(x, mean, scale, bias);
  return activated(dy, !(z <= 0), negative_slope);
}

// Calls f(pack's number, dz, x) for the packs of this thread: those kept, and others, which it reads.
template <bool kResult, int kPack, typename E, typename T, typename F>
HOST_DEVICE void for_plane_gradients(const E* dy, const E* x, const E* y, const Pack<E, kPack> (&dys)[kPlaneBackwardPacks],
                                     const Pack<E, kPack> (&xs)[kPlaneBackwardPacks], int64_t packs,
                                     const PlaneNumbers<T>& n, T negative_slope, F f) {
  const auto with_gradient = [&](int64_t i, const Pack<E, kPack>& of_dy, const Pack<E, kPack>& of_x) {
    Pack<E, kPack> of_y = {};
    if constexpr (kResult) of_y = load_pack<kPack>(y + i * kPack);
    T dz[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k)
      dz[k] = gradient_of_z<kResult>(T(of_dy.get(k)), T(of_x.get(k)), T(of_y.get(k)), n.mean, n.scale, n.bias,
                                     negative_slope);
    f(i, dz, of_x);
  };
#pragma unroll
  for (int k = 0; k < kPlaneBackwardPacks; ++k) {
    const int64_t i = threadIdx.x + k * blockDim.x;
    if (i < packs) with_gradient(i, dys[k], xs[k]);
  }
#pragma unroll 1
  for (int64_t i = threadIdx.x + kPlaneBackwardPacks * blockDim.x; i < packs; i += blockDim.x)
    with_gradient(i, load_pack<kPack>(dy + i * kPack), load_pack<kPack>(x + i * kPack));
}

template <typename E, int kPack, bool kResult>
__global__ void __launch_bounds__(kPlaneThreads, kPlaneBlocks)
    instance_norm_plane_backward_kernel(const E* dy, const E* x, const E* y, E* dx, E* dresidual, PlaneShape shape,
                                        const math_t<E>* weight, const math_t<E>* bias, const math_t<E>* statistics,
                                        math_t<E> negative_slope, math_t<E>* sums) {
  using T = math_t<E>;
  SHARED(T, slots, [2][kPlaneThreads / 32]);
  const int64_t picture = blockIdx.x / shape.channels, channel = blockIdx.x % shape.channels;
  const int64_t packs = shape.pixels / kPack, first = blockIdx.x * shape.pixels;
  const int64_t of_mean = picture * 2 * shape.channels + channel, of_rstd = of_mean + shape.channels;
  const E *plane = x + first, *gradients = dy + first, *results = kResult ? y + first : y;
  Pack<E, kPack> xs[kPlaneBackwardPacks] = {}, dys[kPlaneBackwardPacks] = {};
  keep_plane_packs(plane, xs, packs);
  keep_plane_packs(gradients, dys, packs);
  const T rstd = statistics[of_rstd];
  const PlaneNumbers<T> n = plane_numbers(statistics[of_mean], rstd, weight, bias, channel);

  T totals[2] = {0, 0};  // of dz and of dz * (x - mean)
  const auto add = [&](int64_t, const T (&dz)[kPack], const Pack<E, kPack>& of_x) {
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      totals[0] += dz[k];
      totals[1] += dz[k] * (T(of_x.get(k)) - n.mean);
    }
  };
  for_plane_gradients<kResult>(gradients, plane, results, dys, xs, packs, n, negative_slope, add);
  row_sums(totals, slots);
  totals[1] *= rstd;
  if (threadIdx.x == 0) {
    sums[of_mean] = totals[0];
    sums[of_rstd] = totals[1];
  }
  const T mean_dz = totals[0] / T(shape.pixels), slope = totals[1] * rstd / T(shape.pixels);
  const auto put = [&](int64_t i, const T (&dz)[kPack], const Pack<E, kPack>& of_x) {
    T result[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) result[k] = input_gradient(dz[k], T(of_x.get(k)), n.mean, n.scale, mean_dz, slope);
    store_pack(dx + first + i * kPack, pack_of<E>(result));
    if constexpr (kResult) store_pack(dresidual + first + i * kPack, pack_of<E>(dz));
  };
  for_plane_gradients<kResult>(gradients, plane, results, dys, xs, packs, n, negative_slope, put);
}

// What a thread of channels_last needs of its channels.
template <int kPack, typename T>
struct ChannelNumbers {
  T mean[kPack], scale[kPack], bias[kPack];

  HOST_DEVICE ChannelNumbers(const T* statistics, const T* weight, const T* biases, int64_t channels, int64_t channel) {
    read_scale(statistics, weight, channels, channel, mean, scale);
    read_channels(biases, channel, T(0), bias);
  }
};

// Calls f(position, dz, x) for the packs of this thread in a picture of channels_last, from the last.
template <int kPack, bool kResult, typename E, typename T, typename F>
HOST_DEVICE void for_picture_gradients(const E* dy, const E* x, const E* y, int64_t rows, int64_t channels,
                                       int64_t channel, const ChannelNumbers<kPack, T>& n, T negative_slope, F f) {
  for_groups<true>(rows, [&](int64_t, int64_t row, int num_rows) {
    for_rows<kBatchNormUnroll>(num_rows, [&](int r, int num) {
      Pack<E, kPack> dys[kBatchNormUnroll], xs[kBatchNormUnroll], ys[kBatchNormUnroll];
      const int64_t at = (row + r) * channels + channel;
#pragma unroll
      for (int u = 0; u < num; ++u) {
        dys[u] = load_pack<kPack>(dy + at + u * channels);
        xs[u] = load_pack<kPack>(x + at + u * channels);
        if constexpr (kResult) ys[u] = load_pack<kPack>(y + at + u * channels);
      }
#pragma unroll
      for (int u = 0; u < num; ++u) {
        T dz[kPack];
#pragma unroll
        for (int k = 0; k < kPack; ++k)
          dz[k] = gradient_of_z<kResult>(T(dys[u].get(k)), T(xs[u].get(k)), kResult ? T(ys[u].get(k)) : T(0), n.mean[k],
                                         n.scale[k], n.bias[k], negative_slope);
        f(at + u * channels, dz, xs[u]);
      }
    });
  });
}

// Row blockIdx.y of a picture's `parts` (sum dz [C], sum dz * (x - mean) [C]).
template <typename E, int kPack, bool kResult>
__global__ void __launch_bounds__(kBatchNormThreads, kBatchNormBlocks<E, true>)
    instance_norm_sums_kernel(const E* dy, const E* x, const E* y, BatchNormShape shape, const math_t<E>* weight,
                              const math_t<E>* bias, const math_t<E>* statistics, math_t<E> negative_slope,
                              math_t<E>* parts) {
  using T = math_t<E>;
  SHARED(T, scratch, [2 * kBatchNormThreads * kPack]);
  const int64_t channels = shape.channels, channel = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kPack;
  const int64_t picture = blockIdx.z * shape.rows * channels;
  const bool inside = channel < channels;
  T sum[kPack], products[kPack];
#pragma unroll
  for (int k = 0; k < kPack; ++k) sum[k] = products[k] = 0;
  if (inside) {
    const ChannelNumbers<kPack, T> n(statistics + blockIdx.z * 2 * channels, weight, bias, channels, channel);
    for_picture_gradients<kPack, kResult>(dy + picture, x + picture, kResult ? y + picture : y, shape.rows, channels,
                                          channel, n, negative_slope,
                                          [&](int64_t, const T (&dz)[kPack], const Pack<E, kPack>& of_x) {
#pragma unroll
                                            for (int k = 0; k < kPack; ++k) {
                                              sum[k] += dz[k];
                                              products[k] += dz[k] * (T(of_x.get(k)) - n.mean[k]);
                                            }
                                          });
  }
  const int thread = threadIdx.y * blockDim.x + threadIdx.x;
  sum_over_rows<kPack>(sum, products, scratch);
  if (threadIdx.y != 0 || !inside) return;
  T* part = parts + (int64_t(blockIdx.z) * gridDim.y + blockIdx.y) * 2 * channels + channel;
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    part[k] = scratch[scratch_at(k, thread)];
    part[channels + k] = scratch[scratch_at(kPack + k, thread)];
  }
}

template <typename E, int kPack, bool kResult>
__global__ void __launch_bounds__(kBatchNormThreads, kBatchNormBlocks<E, true>)
    instance_norm_backward_kernel(const E* dy, const E* x, const E* y, E* dx, E* dresidual, BatchNormShape shape,
                                  const math_t<E>* weight, const math_t<E>* bias, const math_t<E>* statistics,
                                  const math_t<E>* sums, math_t<E> negative_slope) {
  using T = math_t<E>;
  const int64_t channels = shape.channels, channel = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * kPack;
  if (channel >= channels) return;
  const int64_t picture = blockIdx.z * shape.rows * channels, numbers = blockIdx.z * 2 * channels;
  statistics += numbers;
  sums += numbers;
  const ChannelNumbers<kPack, T> n(statistics, weight, bias, channels, channel);
  T mean_dz[kPack], slope[kPack];
#pragma unroll
  for (int k = 0; k < kPack; ++k) {
    mean_dz[k] = sums[channel + k] / T(shape.rows);
    slope[k] = sums[channels + channel + k] * statistics[channels + channel + k] / T(shape.rows);
  }
  for_picture_gradients<kPack, kResult>(
      dy + picture, x + picture, kResult ? y + picture : y, shape.rows, channels, channel, n, negative_slope,
      [&](int64_t at, const T (&dz)[kPack], const Pack<E, kPack>& of_x) {
        T result[kPack];
#pragma unroll
        for (int k = 0; k < kPack; ++k)
          result[k] = input_gradient(dz[k], T(of_x.get(k)), n.mean[k], n.scale[k], mean_dz[k], slope[k]);
        store_pack(dx + picture + at, pack_of<E>(result));
        if constexpr (kResult) store_pack(dresidual + picture + at, pack_of<E>(dz));
      });
}

}  // namespace airank_fast
