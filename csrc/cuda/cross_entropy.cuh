// Cross entropy on the GPU; formula in cross_entropy_math.h.
//
// Mapping: a block takes one row of more than 4 KB, each of its warps a shorter one. The threads of a row read it in
// packs of 16 bytes, several in flight each; elements before the first and after the last whole pack go one by one.
// Forward: every thread keeps the maximum so far and the sum of exponentials below it, which are merged over the
// warp by shuffles and over the block in shared memory; one more block then adds up the rows in a fixed order.
// Backward writes the gradient pack by pack, in place on request. Bytes per element: e forward, 2e backward. Ignored
// rows are not read.
//
// At 2 bytes per element an H200's multiprocessor has time for 15 instructions each: exp of 16-bit logits is that of
// exp_below, and the sum for label smoothing is left out without it.
//
// A target outside of the classes makes the row's loss, and through its statistics its gradient, NaN.
#pragma once

#include "vec.cuh"

#include "../cross_entropy_math.h"

namespace airank_fast {

constexpr int kCrossEntropyThreads = 256;
// Packs in flight per thread; more of float64 would spill registers.
template <typename T>
constexpr int kCrossEntropyUnroll = sizeof(T) == 8 ? 1 : 4;
// Blocks per multiprocessor, which leaves a thread 64 registers or, for float64, 80.
template <typename T>
constexpr int kCrossEntropyBlocks = sizeof(T) == 8 ? 3 : 4;

// math_t<T> numbers behind the pointers to void; strides in elements.
struct CrossEntropyRows {
  const void* logits;
  const int64_t* target;
  void* statistics;  // [rows, 2]: maximum, sum of exponentials; written forward, read backward
  int64_t num_rows;
  int64_t logits_stride;
  int64_t num_classes;
  int64_t ignore_index;
  double smoothing;
  double smoothing_per_class;
};

template <typename M>
HOST_DEVICE Smoothing<M> smoothing_of(const CrossEntropyRows& rows) {
  return {M(rows.smoothing), M(rows.smoothing_per_class)};
}

template <typename M>
HOST_DEVICE M not_a_number() {
  return M(__builtin_nan(""));
}

// Elements of the row before the first one on a boundary of 16 bytes.
template <typename T>
HOST_DEVICE int64_t elements_to_boundary(const T* row) {
  return int64_t((16 - reinterpret_cast<unsigned long long>(row) % 16) % 16 / sizeof(T));
}

// Of a row: columns [head, in_packs) go in packs, which begin on a boundary of 16 bytes; those around them one by one.
struct Packed {
  int64_t head, in_packs;
};
template <typename T>
HOST_DEVICE Packed packed_part(const T* row, int64_t size) {
  constexpr int kPack = 16 / sizeof(T);
  const int64_t boundary = elements_to_boundary(row), head = boundary < size ? boundary : size;
  return {head, head + (size - head) / kPack * kPack};
}

// exp(difference) for differences below a maximum. Of 16-bit logits by the instruction for 2^x, whose error at -20 is
// 1e-6, much less than that of the logit's own rounding.
template <typename T>
HOST_DEVICE math_t<T> exp_below(math_t<T> difference) {
  if constexpr (sizeof(T) == 2) return exp2f(1.44269504f * difference);
  else return exp_nonpositive(difference);
}

// One instruction on a GPU; unlike `larger` it returns NaN only for two NaNs.
HOST_DEVICE float max_of(float a, float b) { return fmaxf(a, b); }
HOST_DEVICE double max_of(double a, double b) { return fmax(a, b); }

// The row that a thread works on, and which of the row's threads it is.
template <int kRowThreads>
__device__ __forceinline__ int64_t row_of_thread() {
  return int64_t(blockIdx.x) * (kCrossEntropyThreads / kRowThreads) + threadIdx.x / kRowThreads;
}
template <int kRowThreads>
__device__ __forceinline__ int thread_of_row() {
  return int(threadIdx.x % kRowThreads);
}

// Packs from `num_packs` on hold minus infinities: nothing for maximum and sum of exponentials.
template <bool kSmoothing, typename T, int kPack, int kPacks>
HOST_DEVICE void add_packs(RowPart<math_t<T>>& part, const Pack<T, kPack> (&packs)[kPacks], int num_packs,
                           math_t<T> reference) {
  using M = math_t<T>;
  M max = part.max;
#pragma unroll
  for (int i = 0; i < kPacks * kPack; ++i) max = max_of(max, packs[i / kPack].get(i % kPack));
  const M to = finite_max(max);
  M sum = part.sum * exp_below<T>(part.max - to);  // before the first column, 0 * 0
#pragma unroll
  for (int i = 0; i < kPacks * kPack; ++i) {
    const M x = packs[i / kPack].get(i % kPack);
    sum += exp_below<T>(x - to);
    if (kSmoothing && i / kPack < num_packs) part.above += x - reference;
  }
  part.max = max;
  part.sum = sum;
}

template <bool kSmoothing, typename T>
HOST_DEVICE void add_column(RowPart<math_t<T>>& part, const T* from, math_t<T> reference) {
  const Pack<T, 1> alone[] = {load_pack<1>(from)};
  add_packs<kSmoothing>(part, alone, 1, reference);
}

// One thread's result after its share of the row.
template <bool kSmoothing, int kRowThreads, typename T>
__device__ __forceinline__ RowPart<math_t<T>> part_of_row(const T* row, int64_t size, math_t<T> reference) {
  constexpr int kPack = 16 / sizeof(T);
  constexpr int kStride = kRowThreads * kPack;
  constexpr int kUnroll = kCrossEntropyUnroll<T>;
  const int thread = thread_of_row<kRowThreads>();
  RowPart<math_t<T>> part = no_columns<math_t<T>>();
  const auto [head, in_packs] = packed_part(row, size);
  if (thread < head) add_column<kSmoothing>(part, row + thread, reference);
  int64_t i = head + int64_t(thread) * kPack;
  Pack<T, kPack> packs[kUnroll];
  for (; i + (kUnroll - 1) * kStride < in_packs; i += kUnroll * kStride) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) packs[u] = load_pack<kPack>(row + i + u * kStride);
    add_packs<kSmoothing>(part, packs, kUnroll, reference);
  }
  if (i < in_packs) {
    const int left = int((in_packs - i + kStride - 1) / kStride);
    math_t<T> nothing[kPack];
#pragma unroll
    for (int k = 0; k < kPack; ++k) nothing[k] = minus_infinity<math_t<T>>();
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      packs[u] = u < left ? load_pack<kPack>(row + i + u * kStride) : pack_of<T>(nothing);
    add_packs<kSmoothing>(part, packs, left, reference);
  }
  if (in_packs + thread < size) add_column<kSmoothing>(part, row + in_packs + thread, reference);
  return part;
}

// The parts of all threads of the row, merged in a fixed order.
template <bool kSmoothing, int kRowThreads, typename M>
__device__ __forceinline__ RowPart<M> merged_over_row(RowPart<M> part) {
  constexpr int kWarps = kRowThreads / 32;
  M max = part.max;
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    max = max_of(max, __shfl_xor_sync(0xffffffffu, max, distance));
  part = rescaled(part, max);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    part.sum += __shfl_xor_sync(0xffffffffu, part.sum, distance);
    if (kSmoothing) part.above += __shfl_xor_sync(0xffffffffu, part.above, distance);
  }
  if constexpr (kWarps == 1) return part;  // of the whole row
  SHARED(RowPart<M>, of_warp, [kWarps]);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = part;
  __syncthreads();
  for (int warp = 0; warp < kWarps; ++warp) max = max_of(max, of_warp[warp].max);
  RowPart<M> all{max, M(0), M(0)};
  for (int warp = 0; warp < kWarps; ++warp) {
    all.sum += rescaled(of_warp[warp], max).sum;
    all.above += of_warp[warp].above;
  }
  return all;
}

template <bool kSmoothing, int kRowThreads, typename T>
__global__ void __launch_bounds__(kCrossEntropyThreads, kCrossEntropyBlocks<T>)
    cross_entropy_kernel(const CrossEntropyRows rows, math_t<T>* losses) {
  using M = math_t<T>;
  const int64_t i = row_of_thread<kRowThreads>();
  if (i >= rows.num_rows) return;
  const bool is_first = thread_of_row<kRowThreads>() == 0;
  const int64_t target = rows.target[i];
  M* statistics = static_cast<M*>(rows.statistics) + 2 * i;
  if (target < 0 || target >= rows.num_classes || target == rows.ignore_index) {  // all threads of the row alike
    if (is_first) losses[i] = statistics[0] = statistics[1] = target == rows.ignore_index ? M(0) : not_a_number<M>();
    return;
  }
  const T* row = static_cast<const T*>(rows.logits) + i * rows.logits_stride;
  const M at_target = load(row[target]);
  const RowPart<M> all = merged_over_row<kSmoothing, kRowThreads>(
      part_of_row<kSmoothing, kRowThreads>(row, rows.num_classes, reference_of(at_target)));
  if (!is_first) return;
  losses[i] = row_loss(all, at_target, smoothing_of<M>(rows));
  statistics[0] = all.max;
  statistics[1] = all.sum;
}

// One block: `loss` becomes the sum of the losses, or their mean over the rows that count; `scale` the factor of a
// row's gradient. A null `loss`: the rows' losses themselves are the result.
template <typename M>
__global__ void __launch_bounds__(kCrossEntropyThreads, 4)
    cross_entropy_reduce_kernel(const M* losses, const int64_t* target, int64_t num_rows, int64_t ignore_index,
                                bool mean, M* loss, M* scale) {
  SHARED(double, sums, [kCrossEntropyThreads]);
  SHARED(double, counts, [kCrossEntropyThreads]);
  double sum = 0, count = 0;
  if (loss != nullptr)
    for (int64_t i = threadIdx.x; i < num_rows; i += kCrossEntropyThreads) {
      sum += double(losses[i]);
      count += target[i] != ignore_index ? 1.0 : 0.0;
    }
  sums[threadIdx.x] = sum;
  counts[threadIdx.x] = count;
  for (unsigned half = kCrossEntropyThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      sums[threadIdx.x] += sums[threadIdx.x + half];
      counts[threadIdx.x] += counts[threadIdx.x + half];
    }
  }
  if (threadIdx.x == 0) {
    *scale = mean ? M(1.0 / counts[0]) : M(1);
    if (loss != nullptr) *loss = M(mean ? sums[0] / counts[0] : sums[0]);
  }
}

// kPack columns from `i` on.
template <int kPack, typename T>
HOST_DEVICE void write_columns(T* to, const Pack<T, kPack>& from, int64_t i, int64_t target,
                               const RowGradient<math_t<T>>& formula) {
  math_t<T> gradient[kPack];
#pragma unroll
  for (int k = 0; k < kPack; ++k)
    gradient[k] = formula.p_scale * exp_below<T>(from.get(k) - formula.max) - formula.everywhere;
  if (uint64_t(target - i) < kPack) {  // one thread of the row
#pragma unroll
    for (int k = 0; k < kPack; ++k)
      if (i + k == target) gradient[k] -= formula.at_target;
  }
  store_pack(to + i, pack_of<T>(gradient));
}

template <int kRowThreads, typename T>
__device__ __forceinline__ void write_row(const T* row, T* to, int64_t size, int64_t target,
                                          const RowGradient<math_t<T>>& formula) {
  constexpr int kPack = 16 / sizeof(T);
  constexpr int kStride = kRowThreads * kPack;
  constexpr int kUnroll = kCrossEntropyUnroll<T>;
  const int thread = thread_of_row<kRowThreads>();
  const bool alike = elements_to_boundary(row) == elements_to_boundary(to);
  const auto [head, in_packs] = alike ? packed_part(row, size) : Packed{size, size};
  for (int64_t i = thread; i < head; i += kRowThreads)
    write_columns<1>(to, load_pack<1>(row + i), i, target, formula);
  for (int64_t i = head + int64_t(thread) * kPack; i < in_packs; i += kStride * kUnroll) {
    Pack<T, kPack> packs[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (i + u * kStride < in_packs) packs[u] = load_pack<kPack>(row + i + u * kStride);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (i + u * kStride < in_packs) write_columns<kPack>(to, packs[u], i + u * kStride, target, formula);
  }
  if (in_packs + thread < size)
    write_columns<1>(to, load_pack<1>(row + in_packs + thread), in_packs + thread, target, formula);
}

template <int kRowThreads, typename T>
__device__ __forceinline__ void write_zeros(T* to, int64_t size) {
  constexpr int kPack = 16 / sizeof(T);
  const int thread = thread_of_row<kRowThreads>();
  const auto [head, in_packs] = packed_part(to, size);
  const Pack<T, kPack> zeros{};
  const Pack<T, 1> zero{};
  if (thread < head) store_pack(to + thread, zero);
  for (int64_t i = head + int64_t(thread) * kPack; i < in_packs; i += kRowThreads * kPack) store_pack(to + i, zeros);
  if (in_packs + thread < size) store_pack(to + in_packs + thread, zero);
}

// `grad` is one number, or with grad_stride 1 one per row.
template <int kRowThreads, typename T>
__global__ void __launch_bounds__(kCrossEntropyThreads, kCrossEntropyBlocks<T>)
    cross_entropy_backward_kernel(const CrossEntropyRows rows, const math_t<T>* grad, int64_t grad_stride,
                                  const math_t<T>* scale, void* gradient, int64_t gradient_stride) {
  using M = math_t<T>;
  const int64_t i = row_of_thread<kRowThreads>();
  if (i >= rows.num_rows) return;
  const int64_t target = rows.target[i];
  T* to = static_cast<T*>(gradient) + i * gradient_stride;
  if (target == rows.ignore_index) return write_zeros<kRowThreads>(to, rows.num_classes);
  const M* statistics = static_cast<const M*>(rows.statistics) + 2 * i;
  write_row<kRowThreads>(
      static_cast<const T*>(rows.logits) + i * rows.logits_stride, to, rows.num_classes, target,
      row_gradient(grad[i * grad_stride] * scale[0], statistics[0], statistics[1], smoothing_of<M>(rows)));
}

}  // namespace airank_fast
