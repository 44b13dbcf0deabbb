// Layer normalisation on the GPU; formula in layer_norm_math.h.
//
// The kernels are templates over the source of a row (In) and the destination of its gradient (Out), so that ops which
// end in a layer norm share them: dropout_add_layer_norm.cuh has others than the plain ones here.
//
// Mapping: blockDim.x threads (a power of two from 32 on) take a row in packs of kVec elements, 16 bytes of the wider
// type; a block has as many rows at a time, blockDim.y, as its threads allow. A row is read as a whole before its first
// element is used, backward while the row before is processed. It is kept in registers, in its own type, between the
// mean, the variance and the result; columns that do not fit there (over 8192 of 16 bits forward, 2048 backward) are
// read again. Tensors that are not aligned, and rows that are no whole number of packs, go in packs of one.
//
// Bytes per 16-bit element: forward 4, backward 6. The gradients of weight and bias: every thread sums its columns over
// the rows of its block, a block writes one row of partial sums, and a second kernel adds those in order: no atomics,
// the same bits in every run on the same device.
#pragma once

#include "row_sums.cuh"
#include "vec.cuh"

#include "../layer_norm_math.h"

namespace airank_fast {

constexpr int kRowThreads = 256;
// Blocks that a multiprocessor can hold: forward see In::kBlocks; backward at up to 128 registers per thread, for 8
// columns of a row of x and of its gradient and of the next row, weights and two sums. Float64 is there for checking,
// not for speed.
template <typename In> constexpr int kForwardBlocks = sizeof(typename In::T) == 8 ? 1 : In::kBlocks;
template <typename T> constexpr int kBackwardBlocks = sizeof(T) == 8 ? 1 : 2;

// Packs per thread that stay in registers.
template <int kVec> constexpr int kForwardPacks = kVec == 8 ? 4 : 8;
template <int kVec> constexpr int kBackwardPacks = kVec == 8 ? 1 : kVec == 4 ? 2 : 4;

// Packs of a row beyond the registers that a thread adds up before it adds their sum to that of the others: a row of
// millions of columns is as accurate as a short one.
constexpr int kRunPacks = 32;

// Calls add(column), which adds to `sums`, for the columns from `begin` on.
template <int N, typename T, typename F>
HOST_DEVICE void add_in_runs(T (&sums)[N], int begin, int step, int end, F add) {
#pragma unroll 1
  for (int j = begin; j < end;) {
    T before[N];
#pragma unroll
    for (int n = 0; n < N; ++n) before[n] = sums[n], sums[n] = 0;
#pragma unroll 1
    for (int i = 0; i < kRunPacks && j < end; ++i, j += step) add(j);
#pragma unroll
    for (int n = 0; n < N; ++n) sums[n] += before[n];
  }
}

template <int kVec, typename T, typename X>
HOST_DEVICE void load_wide(const X* from, T (&to)[kVec]) {
  const Pack<X, kVec> pack = load_pack<kVec>(from);
#pragma unroll
  for (int k = 0; k < kVec; ++k) to[k] = T(pack.get(k));
}

template <int kVec, typename T, typename X>
HOST_DEVICE void store_narrow(X* to, const T (&from)[kVec]) {
  math_t<X> values[kVec];
#pragma unroll
  for (int k = 0; k < kVec; ++k) values[k] = math_t<X>(from[k]);
  store_pack(to, pack_of<X>(values));
}

// Weight or bias, or the 1 or 0 in place of a missing one.
template <int kVec, typename W>
HOST_DEVICE Pack<W, kVec> load_param(const W* param, int column, math_t<W> otherwise) {
  if (param != nullptr) return load_pack<kVec>(param + column);
  math_t<W> values[kVec];
#pragma unroll
  for (int k = 0; k < kVec; ++k) values[k] = otherwise;
  return pack_of<W>(values);
}

// The source of rows: a tensor. read() loads the terms of an element, once, so that many loads are in flight, and
// take() combines them; again() is for elements that did not stay in registers.
template <typename X>
struct PlainRows {
  using T = math_t<X>;
  template <int kVec> using Read = Pack<X, kVec>;
  template <int kVec> using Row = Pack<X, kVec>;
  static constexpr int kBlocks = sizeof(X) == 4 ? 3 : 4;  // of 64 registers per thread, 16 for the row; 32 of float32
  const X* x;

  template <int kVec>
  HOST_DEVICE Read<kVec> read(int64_t at) const { return load_pack<kVec>(x + at); }
  template <int kVec>
  HOST_DEVICE Row<kVec> take(int64_t, const Read<kVec>& values) const { return values; }
  template <int kVec>
  HOST_DEVICE Row<kVec> again(int64_t at) const { return load_pack<kVec>(x + at); }
};

// The destination of a row's gradient: a tensor. read() loads a term that is added to it, here none.
template <typename X>
struct PlainGrads {
  using T = math_t<X>;
  template <int kVec> struct Read {};
  X* grad_x;

  template <int kVec>
  HOST_DEVICE Read<kVec> read(int64_t) const { return {}; }
  template <int kVec>
  HOST_DEVICE void put(int64_t at, T (&grad)[kVec], const Read<kVec>&) const { store_narrow<kVec>(grad_x + at, grad); }
};

// W: type of the parameters, Y: of the result.
template <int kVec, typename In, typename W, typename Y>
__global__ void __launch_bounds__(kRowThreads, kForwardBlocks<In>)
    layer_norm_kernel(In in, const W* weight, const W* bias, Y* y, typename In::T* mean, typename In::T* rstd,
                      int64_t rows, int columns, double eps) {
  using T = typename In::T;
  using Row = typename In::template Row<kVec>;
  constexpr int kPacks = kForwardPacks<kVec>;
  SHARED(T, mean_slots, [1][kRowThreads / 32]);
  SHARED(T, square_slots, [1][kRowThreads / 32]);
  const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  const int64_t first = row * columns;
  const int start = int(threadIdx.x) * kVec, step = int(blockDim.x) * kVec;
  const int end = row < rows ? columns : 0;  // threads without a row take part in the barriers

  typename In::template Read<kVec> read[kPacks];  // all in flight before the first is used
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int j = start + p * step;
    if (j < end) read[p] = in.template read<kVec>(first + j);
  }
  Row kept[kPacks];
  T sums[1] = {};
  const auto add = [&](const Row& values) {
#pragma unroll
    for (int k = 0; k < kVec; ++k) sums[0] += T(values.get(k));
  };
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int j = start + p * step;
    if (j < end) add(kept[p] = in.template take<kVec>(first + j, read[p]));
  }
  add_in_runs(sums, start + kPacks * step, step, end,
              [&](int j) { add(in.template take<kVec>(first + j, in.template read<kVec>(first + j))); });
  row_sums(sums, mean_slots);
  Moments<T> moments;
  moments.mean = sums[0] / T(columns);

  const auto square = [&](const Row& values) {
#pragma unroll
    for (int k = 0; k < kVec; ++k) {
      const T centred = T(values.get(k)) - moments.mean;
      sums[0] += centred * centred;
    }
  };
  sums[0] = 0;
#pragma unroll
  for (int p = 0; p < kPacks; ++p)
    if (start + p * step < end) square(kept[p]);
  add_in_runs(sums, start + kPacks * step, step, end, [&](int j) { square(in.template again<kVec>(first + j)); });
  row_sums(sums, square_slots);
  moments.rstd = rstd_of(sums[0], double(columns), eps);
  if (threadIdx.x == 0 && row < rows) {
    mean[row] = moments.mean;
    rstd[row] = moments.rstd;
  }

  const auto write = [&](int j, const Row& values, const Pack<W, kVec>& weights, const Pack<W, kVec>& biases) {
    T result[kVec];
#pragma unroll
    for (int k = 0; k < kVec; ++k)
      result[k] = normalized(T(values.get(k)), moments) * T(weights.get(k)) + T(biases.get(k));
    store_narrow<kVec>(y + first + j, result);
  };
#pragma unroll
  for (int p = 0; p < kPacks; p += 2) {  // two at a time, whose parameters are under way together
    Pack<W, kVec> weights[2], biases[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int j = start + (p + i) * step;
      if (j < end) weights[i] = load_param<kVec>(weight, j, 1), biases[i] = load_param<kVec>(bias, j, 0);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int j = start + (p + i) * step;
      if (j < end) write(j, kept[p + i], weights[i], biases[i]);
    }
  }
#pragma unroll 1
  for (int j = start + kPacks * step; j < end; j += step)
    write(j, in.template again<kVec>(first + j), load_param<kVec>(weight, j, 1), load_param<kVec>(bias, j, 0));
}

// G: type of the gradient that comes in, X: of the rows. `partials` has for every block a row of sums for weight and
// bias each, [2][blocks][columns]; it is null where they are not needed.
template <int kVec, typename Out, typename G, typename X, typename W>
__global__ void __launch_bounds__(kRowThreads, kBackwardBlocks<typename Out::T>)
    layer_norm_backward_kernel(const G* grad, const X* x, const typename Out::T* mean, const typename Out::T* rstd,
                               const W* weight, Out out, typename Out::T* partials, int64_t rows, int columns) {
  using T = typename Out::T;
  constexpr int kPacks = kBackwardPacks<kVec>;
  SHARED(T, slots, [2][2][kRowThreads / 32]);
  const int rows_per_block = int(blockDim.y), group = int(threadIdx.y);
  const int start = int(threadIdx.x) * kVec, step = int(blockDim.x) * kVec;
  T* weight_partials = partials == nullptr ? nullptr : partials + int64_t(blockIdx.x) * columns;
  T* bias_partials = partials == nullptr ? nullptr : weight_partials + int64_t(gridDim.x) * columns;

  using More = typename Out::template Read<kVec>;
  struct Row {
    Moments<T> moments;
    Pack<G, kVec> grads[kPacks];
    Pack<X, kVec> values[kPacks];
    More more[kPacks];
  };
  const auto read = [&](int64_t row) {
    Row to;
    if (row < rows) to.moments = {mean[row], rstd[row]};
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int j = start + p * step;
      if (row >= rows || j >= columns) continue;
      to.grads[p] = load_pack<kVec>(grad + row * columns + j);
      to.values[p] = load_pack<kVec>(x + row * columns + j);
      to.more[p] = out.template read<kVec>(row * columns + j);
    }
    return to;
  };

  Pack<W, kVec> kept_weights[kPacks];
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int j = start + p * step;
    if (j < columns) kept_weights[p] = load_param<kVec>(weight, j, 1);
  }
  T weight_sums[kPacks][kVec] = {}, bias_sums[kPacks][kVec] = {};
  int parity = 0;  // the slots alternate, so that one barrier per row is enough
  const int64_t stride = int64_t(gridDim.x) * rows_per_block;
  Row next = read(int64_t(blockIdx.x) * rows_per_block + group);
  for (int64_t row0 = int64_t(blockIdx.x) * rows_per_block; row0 < rows; row0 += stride) {
    const int64_t row = row0 + group, first = row * columns;
    const int end = row < rows ? columns : 0;
    const Row now = next;
    next = read(row + stride);  // in flight while this row is summed and finished
    const Moments<T> moments = now.moments;
    T sums[2] = {};  // of g and of g * h
    const auto add = [&](const Pack<G, kVec>& dy, const Pack<X, kVec>& value, const Pack<W, kVec>& weights) {
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const T g = T(dy.get(k)) * T(weights.get(k));
        sums[0] += g;
        sums[1] += g * normalized(T(value.get(k)), moments);
      }
    };
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int j = start + p * step;
      if (j < end) add(now.grads[p], now.values[p], kept_weights[p]);
    }
    add_in_runs(sums, start + kPacks * step, step, end, [&](int j) {
      add(load_pack<kVec>(grad + first + j), load_pack<kVec>(x + first + j), load_param<kVec>(weight, j, 1));
    });
    row_sums(sums, slots[parity]);
    const T mean_g = sums[0] / T(columns), mean_gh = sums[1] / T(columns);
    parity ^= 1;

    const auto finish = [&](int j, const Pack<G, kVec>& dy, const Pack<X, kVec>& value, const Pack<W, kVec>& weights,
                            const More& more, T(&for_weight)[kVec], T(&for_bias)[kVec]) {
      T result[kVec];
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        const T h = normalized(T(value.get(k)), moments), d = T(dy.get(k));
        for_weight[k] += d * h;
        for_bias[k] += d;
        result[k] = layer_norm_grad(d * T(weights.get(k)), h, mean_g, mean_gh, moments.rstd);
      }
      out.template put<kVec>(first + j, result, more);
    };
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int j = start + p * step;
      if (j < end) finish(j, now.grads[p], now.values[p], kept_weights[p], now.more[p], weight_sums[p], bias_sums[p]);
    }
    // Beyond the registers the partial sums are kept in memory. A row this long has the whole block.
#pragma unroll 1
    for (int j = start + kPacks * step; j < end; j += step) {
      T for_weight[kVec] = {}, for_bias[kVec] = {};
      if (partials != nullptr && row0 >= int64_t(gridDim.x)) {
        load_wide<kVec>(weight_partials + j, for_weight);
        load_wide<kVec>(bias_partials + j, for_bias);
      }
      finish(j, load_pack<kVec>(grad + first + j), load_pack<kVec>(x + first + j), load_param<kVec>(weight, j, 1),
             out.template read<kVec>(first + j), for_weight, for_bias);
      if (partials != nullptr) {
        store_narrow<kVec>(weight_partials + j, for_weight);
        store_narrow<kVec>(bias_partials + j, for_bias);
      }
    }
  }
  if (partials == nullptr) return;

  // The block's groups of threads hand their sums to the first group, one after the other.
  DYN_SMEM(T, handed);  // [2][columns], where there is more than one group
#pragma unroll 1
  for (int other = 1; other < rows_per_block; ++other) {
    __syncthreads();
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int j = start + p * step;
      if (group != other || j >= columns) continue;
      store_narrow<kVec>(handed + j, weight_sums[p]);
      store_narrow<kVec>(handed + columns + j, bias_sums[p]);
    }
    __syncthreads();
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const int j = start + p * step;
      if (group != 0 || j >= columns) continue;
#pragma unroll
      for (int k = 0; k < kVec; ++k) {
        weight_sums[p][k] += handed[j + k];
        bias_sums[p][k] += handed[columns + j + k];
      }
    }
  }
#pragma unroll
  for (int p = 0; p < kPacks; ++p) {
    const int j = start + p * step;
    if (group != 0 || j >= columns) continue;
    store_narrow<kVec>(weight_partials + j, weight_sums[p]);
    store_narrow<kVec>(bias_partials + j, bias_sums[p]);
  }
}

constexpr int kSumColumns = 8;  // of float: a sector of 32 bytes

// The second stage: a block adds the partial sums of 8 columns, 32 threads each; blockIdx.y is 0 for the weight, 1 for
// the bias.
template <typename T, typename W>
__global__ void __launch_bounds__(kRowThreads)
    sum_partials_kernel(const T* partials, int num_partials, int columns, W* grad_weight, W* grad_bias) {
  SHARED(T, sums, [kRowThreads / 32][kSumColumns]);
  const int of = int(threadIdx.x) % kSumColumns, column = int(blockIdx.x) * kSumColumns + of;
  partials += int64_t(blockIdx.y) * num_partials * columns;
  T sum = 0;
  if (column < columns) {
#pragma unroll 4
    for (int i = int(threadIdx.x) / kSumColumns; i < num_partials; i += kRowThreads / kSumColumns)
      sum += partials[int64_t(i) * columns + column];
  }
#pragma unroll
  for (int offset = kSumColumns; offset < 32; offset *= 2) sum += __shfl_xor_sync(kFullWarp, sum, offset);
  if (threadIdx.x % 32 < kSumColumns) sums[threadIdx.x / 32][of] = sum;
  __syncthreads();
  if (threadIdx.x >= kSumColumns || column >= columns) return;
  sum = 0;
  for (int warp = 0; warp < kRowThreads / 32; ++warp) sum += sums[warp][of];
  store((blockIdx.y == 0 ? grad_weight : grad_bias) + column, sum);
}

}  // namespace airank_fast
