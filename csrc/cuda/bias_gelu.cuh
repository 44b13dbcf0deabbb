// GELU of x + bias on the GPU; formula in bias_gelu_math.h.
//
// Mapping: a warp covers 32 packs of 16 bytes of a row, the 8 warps of a block 8 rows at a time; a block keeps its
// columns, so a thread reads its part of the bias once, and goes down its chunk of rows with several packs in flight.
// Where the number of columns or an address does not allow packs, a pack is one element. Bytes per element: 2e
// forward, 3e backward. While 16-bit elements are moved, an H200's multiprocessor issues 30 instructions for each
// forward and 45 backward, for which they have formulas of their own.
//
// The bias's gradient is summed in a fixed order: in registers down the chunk, over the 8 warps in shared memory, and
// over the chunks by a second kernel, from [chunks, columns] numbers that the first one wrote.
#pragma once

#include "vec.cuh"

#include "../bias_gelu_math.h"

namespace airank_fast {

constexpr int kBiasGeluThreads = 256;
constexpr int kBiasGeluWarps = kBiasGeluThreads / 32;
// Packs in flight per thread, of x and grad together; more of float64 would spill registers.
template <typename T>
constexpr int kBiasGeluUnroll = sizeof(T) == 8 ? 2 : 4;
// Blocks per multiprocessor, which leaves a thread 64 registers, 80 or, for float64, 128.
template <typename T, bool kBackward>
constexpr int kBiasGeluBlocks = sizeof(T) == 8 ? 2 : (kBackward ? 3 : 4);

struct BiasGeluTask {
  const void* grad;  // backward only
  const void* x;
  const void* bias;
  void* result;    // gelu, or the gradient of x
  void* partial;   // backward only: [chunks, columns] of math_t<T>
  int64_t rows;
  int64_t columns;
  int64_t rows_per_chunk;
  bool bias_is_float32;  // or it has the dtype of x
};

template <typename T>
HOST_DEVICE math_t<T> bias_at(const BiasGeluTask& task, int64_t column) {
  if (task.bias_is_float32) return math_t<T>(static_cast<const float*>(task.bias)[column]);
  return load(static_cast<const T*>(task.bias)[column]);
}

// The formula for x of type T.
template <typename T> struct FormulaOf { using type = Gelu; };
template <> struct FormulaOf<__half> { using type = GeluOf16Bits; };
template <> struct FormulaOf<__nv_bfloat16> { using type = GeluOf16Bits; };

// One thread's columns from `column` on, down the rows of its block's chunk; `sums` takes the columns' gradients.
template <bool kTanh, bool kBackward, int kPack, typename T>
__device__ __forceinline__ void bias_gelu_columns(const BiasGeluTask& task, int64_t column, math_t<T>* sums) {
  using M = math_t<T>;
  using Formula = typename FormulaOf<T>::type;
  constexpr int kUnroll = kBiasGeluUnroll<T> / (kBackward ? 2 : 1);
  const int64_t begin = int64_t(blockIdx.y) * task.rows_per_chunk;
  const int64_t rows = task.rows - begin < task.rows_per_chunk ? task.rows - begin : task.rows_per_chunk;
  const int warp = int(threadIdx.x / 32);
  const int64_t first = (begin + warp) * task.columns + column, step = kBiasGeluWarps * task.columns;
  const T* x = static_cast<const T*>(task.x) + first;
  const T* grad = static_cast<const T*>(task.grad) + first;
  T* result = static_cast<T*>(task.result) + first;
  int left = int(rows) - warp;
  Pack<T, kPack> from[kUnroll], grads[kUnroll];
  const auto load_rows = [&] {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (u * kBiasGeluWarps >= left) continue;
      from[u] = load_pack<kPack>(x + u * step);
      if constexpr (kBackward) grads[u] = load_pack<kPack>(grad + u * step);
    }
  };
  load_rows();  // before the bias, which must arrive first
  M bias[kPack];
#pragma unroll
  for (int k = 0; k < kPack; ++k) bias[k] = bias_at<T>(task, column + k);
  while (left > 0) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (u * kBiasGeluWarps >= left) break;
      M to[kPack];
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        const M sum = from[u].get(k) + bias[k];
        if constexpr (kBackward) {
          to[k] = grads[u].get(k) * Formula::template slope<kTanh>(sum);
          sums[k] += to[k];
        } else {
          to[k] = Formula::template value<kTanh>(sum);
        }
      }
      store_pack(result + u * step, pack_of<T>(to));
    }
    left -= kBiasGeluWarps * kUnroll;
    x += kUnroll * step;
    if constexpr (kBackward) grad += kUnroll * step;
    result += kUnroll * step;
    load_rows();
  }
}

template <bool kTanh, int kPack, typename T>
__global__ void __launch_bounds__(kBiasGeluThreads, kBiasGeluBlocks<T, false>)
    bias_gelu_kernel(const BiasGeluTask task) {
  const int64_t column = (int64_t(blockIdx.x) * 32 + threadIdx.x % 32) * kPack;
  if (column < task.columns) bias_gelu_columns<kTanh, false, kPack, T>(task, column, nullptr);
}

template <bool kTanh, int kPack, typename T>
__global__ void __launch_bounds__(kBiasGeluThreads, kBiasGeluBlocks<T, true>)
    bias_gelu_backward_kernel(const BiasGeluTask task) {
  using M = math_t<T>;
  constexpr int kWidth = 32 * kPack;
  SHARED(M, of_warp, [kBiasGeluWarps * kWidth]);
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  const int64_t first = int64_t(blockIdx.x) * kWidth;
  M sums[kPack];
#pragma unroll
  for (int k = 0; k < kPack; ++k) sums[k] = 0;
  if (first + lane * kPack < task.columns)
    bias_gelu_columns<kTanh, true, kPack, T>(task, first + lane * kPack, sums);
#pragma unroll
  for (int k = 0; k < kPack; ++k) of_warp[warp * kWidth + lane * kPack + k] = sums[k];
  __syncthreads();
  for (int i = int(threadIdx.x); i < kWidth && first + i < task.columns; i += kBiasGeluThreads) {
    M sum = 0;
    for (int w = 0; w < kBiasGeluWarps; ++w) sum += of_warp[w * kWidth + i];
    static_cast<M*>(task.partial)[int64_t(blockIdx.y) * task.columns + first + i] = sum;
  }
}

// The sum over the chunks, in float64: a block takes 32 columns, its warps every eighth chunk each.
template <typename M, typename B>
__global__ void __launch_bounds__(kBiasGeluThreads)
    bias_gelu_sum_kernel(const M* partial, int64_t num_chunks, int64_t columns, B* bias_gradient) {
  SHARED(double, of_warp, [kBiasGeluThreads]);
  const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  const int64_t column = int64_t(blockIdx.x) * 32 + lane;
  double sum = 0;
  if (column < columns)
    for (int64_t chunk = warp; chunk < num_chunks; chunk += kBiasGeluWarps)
      sum += double(partial[chunk * columns + column]);
  of_warp[threadIdx.x] = sum;
  __syncthreads();
  if (warp != 0 || column >= columns) return;
  for (int w = 1; w < kBiasGeluWarps; ++w) sum += of_warp[w * 32 + lane];
  store(&bias_gradient[column], math_t<B>(sum));
}

}  // namespace airank_fast
