// The loops of instance norm's backward on the CPU, over rows of numbers as in batch_norm_act_loops.h; formulas in
// batch_norm_act_math.h. Which elements passed the activation is computed again, or read from the result.
#pragma once

#include "batch_norm_act_loops.h"

namespace airank_fast {

// Of which array the sign decides.
enum class PassedBy { kAll, kInput, kResult };

// The numbers of each channel that backward needs.
template <typename T>
struct InstanceNormNumbers {
  const T* mean;
  const T* scale;
  const T* bias;
  T negative_slope;
};

// The gradient of z at number i of a row, whose channel is c.
template <PassedBy kPassed, typename E, typename T>
HOST_DEVICE T instance_norm_passed(const E* dy, const E* x, const E* y, int64_t i, int64_t c,
                                   const InstanceNormNumbers<T>& n) {
  const T grad = load(dy[i]);
  if constexpr (kPassed == PassedBy::kAll) return grad;
  T z;
  if constexpr (kPassed == PassedBy::kInput) z = normalise(T(load(x[i])), n.mean[c], n.scale[c], n.bias[c]);
  else z = load(y[i]);
  return activated<Activation::kAny>(grad, -bits_t<T>(!(z <= 0)), n.negative_slope);
}

// Sums of dz and of dz * (x - mean) over a piece.
template <typename E, PassedBy kPassed>
struct InstanceNormSumsLoop {
  using T = math_t<E>;
  using Signature = void(const E*, const E*, const E*, int64_t, int64_t, int64_t, const InstanceNormNumbers<T>&, T*,
                         T*);

  HOST_DEVICE static void run(const E* dy, const E* x, const E* y, int64_t stride, int64_t num_rows, int64_t width,
                              const InstanceNormNumbers<T>& numbers, T* sum, T* products) {
    for (int64_t c = 0; c < width; ++c) sum[c] = products[c] = 0;
    int64_t r = 0;
    for (; r + kGroup <= num_rows; r += kGroup) {
      const int64_t at = r * stride;
      for (int64_t k = kGroup; k < 2 * kGroup && r + k < num_rows; ++k) {
        prefetch(dy + at + k * stride, width * sizeof(E));
        prefetch(x + at + k * stride, width * sizeof(E));
        if constexpr (kPassed == PassedBy::kResult) prefetch(y + at + k * stride, width * sizeof(E));
      }
      add<kGroup>(dy + at, x + at, y + at, stride, width, numbers, sum, products);
    }
    for (; r < num_rows; ++r) {
      const int64_t at = r * stride;
      add<1>(dy + at, x + at, y + at, stride, width, numbers, sum, products);
    }
  }

  template <int64_t kRows>
  HOST_DEVICE static void add(const E* __restrict dy, const E* __restrict x, const E* __restrict y, int64_t stride,
                              int64_t width, const InstanceNormNumbers<T> numbers, T* __restrict sum,
                              T* __restrict products) {
#pragma GCC ivdep
    for (int64_t c = 0; c < width; ++c) {
      T of_rows = 0, products_of_rows = 0;
#pragma GCC unroll 8
      for (int64_t k = 0; k < kRows; ++k) {
        const int64_t i = k * stride + c;
        const T dz = instance_norm_passed<kPassed>(dy, x, y, i, c, numbers);
        of_rows += dz;
        products_of_rows += dz * (T(load(x[i])) - numbers.mean[c]);
      }
      sum[c] += of_rows;
      products[c] += products_of_rows;
    }
  }
};

// Gradients of groups [begin, end) of rows; of the residual where the result decides.
template <typename E, PassedBy kPassed>
struct InstanceNormBackwardLoop {
  using T = math_t<E>;
  static constexpr bool kResidual = kPassed == PassedBy::kResult;
  using Signature = void(const E*, const E*, const E*, E*, E*, int64_t, int64_t, int64_t, int64_t,
                         const InstanceNormNumbers<T>&, const T*, const T*, bool);

  HOST_DEVICE static void run(const E* dy, const E* x, const E* y, E* dx, E* dresidual, int64_t num_rows,
                              int64_t width, int64_t begin, int64_t end, const InstanceNormNumbers<T>& numbers,
                              const T* mean_dz, const T* slope, bool past_cache) {
    const int64_t group_size = kGroup * width;
    Scratch<E> scratch(past_cache ? (kResidual ? 2 : 1) * group_size : 0);
    for (int64_t group = begin; group < end; ++group) {
      const int64_t at = group * group_size, rows = std::min(kGroup, num_rows - group * kGroup);
      if (group + 1 < end) {
        const int64_t size = group_size * sizeof(E);
        prefetch(dy + at + group_size, size);
        prefetch(x + at + group_size, size);
        if constexpr (kResidual) prefetch(y + at + group_size, size);
      }
      const bool streamed = past_cache && rows == kGroup;
      E* to = streamed ? scratch.data() : dx + at;
      E* residual_to = !kResidual ? nullptr : streamed ? scratch.data() + group_size : dresidual + at;
      for (int64_t k = 0; k < rows; ++k) {
        const int64_t i = k * width;
        row(dy + at + i, x + at + i, y + at + i, to + i, kResidual ? residual_to + i : nullptr, width, numbers, mean_dz,
            slope);
      }
      if (!streamed) continue;
      stream(dx + at, to, group_size * int64_t(sizeof(E)));
      if constexpr (kResidual) stream(dresidual + at, residual_to, group_size * int64_t(sizeof(E)));
    }
    if (past_cache) stream_end();
  }

  HOST_DEVICE static void row(const E* __restrict dy, const E* __restrict x, const E* __restrict y, E* __restrict dx,
                              E* __restrict dresidual, int64_t width, const InstanceNormNumbers<T> numbers,
                              const T* __restrict mean_dz, const T* __restrict slope) {
#pragma GCC ivdep
    for (int64_t c = 0; c < width; ++c) {
      const T dz = instance_norm_passed<kPassed>(dy, x, y, c, c, numbers);
      if constexpr (kResidual) store(&dresidual[c], dz);
      store(&dx[c], input_gradient(dz, T(load(x[c])), numbers.mean[c], numbers.scale[c], mean_dz[c], slope[c]));
    }
  }
};

}  // namespace airank_fast
