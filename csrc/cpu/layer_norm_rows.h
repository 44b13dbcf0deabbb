// What the ops that end in a layer normalisation share on the CPU: one row, and the walk over rows.
//
// A row is read from memory once and then twice more from L1. Sums run in kLanes partial sums each, written out as
// an array because the compiler may not reorder a floating-point sum by itself; it makes them one register. Weight
// and bias come as arrays of the arithmetic's type whatever the tensors are, ones and zeros where there are none.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "../layer_norm_args.h"
#include "../layer_norm_math.h"
#include "isa.h"
#include "numbers.h"

namespace airank_fast {

constexpr int kLanes = 64;
// A thread is not worth waking for fewer elements.
constexpr int64_t kGrainElements = 1 << 14;

// Adds the upper half to the lower until one is left.
template <int kHalf = kLanes / 2, typename T>
HOST_DEVICE T sum_of(T (&lanes)[kLanes]) {
  for (int l = 0; l < kHalf; ++l) lanes[l] += lanes[l + kHalf];
  if constexpr (kHalf == 1) return lanes[0];
  else return sum_of<kHalf / 2>(lanes);
}

template <typename X, typename T = math_t<X>>
HOST_DEVICE Moments<T> moments_of(const X* __restrict row, int64_t columns, double eps) {
  T sums[kLanes] = {}, squares[kLanes] = {};
  const int64_t in_lanes = columns / kLanes * kLanes;
  for (int64_t j = 0; j < in_lanes; j += kLanes)
    for (int l = 0; l < kLanes; ++l) sums[l] += load(row[j + l]);
  for (int64_t j = in_lanes; j < columns; ++j) sums[j - in_lanes] += load(row[j]);
  const T mean = sum_of(sums) / T(columns);

  for (int64_t j = 0; j < in_lanes; j += kLanes)
    for (int l = 0; l < kLanes; ++l) {
      const T centred = load(row[j + l]) - mean;
      squares[l] += centred * centred;
    }
  for (int64_t j = in_lanes; j < columns; ++j) {
    const T centred = load(row[j]) - mean;
    squares[j - in_lanes] += centred * centred;
  }
  return {mean, rstd_of(sum_of(squares), double(columns), eps)};
}

// Asks for the `count` elements from `at` on, which will be needed a row later: without this, memory rests while a row
// that is in L1 already is worked on.
template <int kCount, typename X>
HOST_DEVICE void prefetch(const X* at) {
  for (int byte = 0; byte < int(kCount * sizeof(X)); byte += 64)
    __builtin_prefetch(reinterpret_cast<const char*>(at) + byte);
}

// `next` is a row that will come soon, or any address at all.
template <typename X, typename Y, typename T, typename Next>
HOST_DEVICE void normalize_row(const X* __restrict row, const Moments<T>& moments, const T* __restrict weight,
                               const T* __restrict bias, int64_t columns, Y* __restrict y, const Next* next) {
  const int64_t in_lanes = columns / kLanes * kLanes;
  for (int64_t j = 0; j < in_lanes; j += kLanes) {
    prefetch<kLanes>(next + j);
#pragma GCC ivdep
    for (int64_t l = j; l < j + kLanes; ++l)
      store(&y[l], normalized(T(load(row[l])), moments) * weight[l] + bias[l]);
  }
#pragma GCC ivdep
  for (int64_t j = in_lanes; j < columns; ++j)
    store(&y[j], normalized(T(load(row[j])), moments) * weight[j] + bias[j]);
}

template <typename T>
struct RowMeans {
  T g;
  T gh;
};

template <typename Y, typename X, typename T>
HOST_DEVICE RowMeans<T> grad_means_of(const Y* __restrict grad, const X* __restrict row, const Moments<T>& moments,
                                      const T* __restrict weight, int64_t columns) {
  T sums_g[kLanes] = {}, sums_gh[kLanes] = {};
  const int64_t in_lanes = columns / kLanes * kLanes;
  for (int64_t j = 0; j < in_lanes; j += kLanes)
    for (int l = 0; l < kLanes; ++l) {
      const T g = load(grad[j + l]) * weight[j + l];
      sums_g[l] += g;
      sums_gh[l] += g * normalized(T(load(row[j + l])), moments);
    }
  for (int64_t j = in_lanes; j < columns; ++j) {
    const T g = load(grad[j]) * weight[j];
    sums_g[j - in_lanes] += g;
    sums_gh[j - in_lanes] += g * normalized(T(load(row[j])), moments);
  }
  return {sum_of(sums_g) / T(columns), sum_of(sums_gh) / T(columns)};
}

// Element type of a tensor by its scalar type; calls f.template operator()<Wide, Narrow>() for the pairs that an op
// has: both alike, or float32 beside 16 bits.
template <typename F>
void for_dtypes(ScalarType wide, ScalarType narrow, F f) {
  switch (wide) {
    case ScalarType::Double: return f.template operator()<double, double>();
    case ScalarType::BFloat16: return f.template operator()<bfloat16, bfloat16>();
    case ScalarType::Half: return f.template operator()<float16, float16>();
    default: break;
  }
  switch (narrow) {
    case ScalarType::BFloat16: return f.template operator()<float, bfloat16>();
    case ScalarType::Half: return f.template operator()<float, float16>();
    default: return f.template operator()<float, float>();
  }
}

template <typename P, typename T>
void widen(const Tensor& from, std::vector<T>& to) {
  const P* values = static_cast<const P*>(from.data_ptr());
  for (size_t j = 0; j < to.size(); ++j) to[j] = T(load(values[j]));
}

// Weight or bias in the arithmetic's type.
template <typename T>
std::vector<T> param_of(const OptionalTensor& param, int64_t columns, T otherwise) {
  std::vector<T> values(columns, otherwise);
  if (!param || columns == 0) return values;
  const Tensor dense = torch::stable::contiguous(*param);
  switch (dense.scalar_type()) {
    case ScalarType::Double: widen<double>(dense, values); break;
    case ScalarType::BFloat16: widen<bfloat16>(dense, values); break;
    case ScalarType::Half: widen<float16>(dense, values); break;
    default: widen<float>(dense, values); break;
  }
  return values;
}

template <typename P, typename T>
void narrow(const T* from, const Tensor& to) {
  P* values = static_cast<P*>(to.data_ptr());
  for (int64_t j = 0; j < to.numel(); ++j) store(&values[j], from[j]);
}

// The reduction of the parameters' gradients: rows are cut into slots, each with partial sums of its own, which are
// then added in order. How they are cut depends on the shape alone, so the result does not depend on the threads.
template <typename T>
class ParamGrads {
 public:
  ParamGrads(int64_t rows, int64_t columns)
      : rows_(rows), columns_(columns),
        rows_per_slot_(std::max({int64_t(16), ceil_div(rows, 64), ceil_div(1 << 14, std::max<int64_t>(columns, 1))})),
        num_slots_(ceil_div(rows, rows_per_slot_)), sums_(2 * columns * std::max<int64_t>(num_slots_, 1)) {}

  // Calls walk(first row, end row, weight sums, bias sums) for every slot.
  template <typename Walk>
  void for_each_slot(Walk walk) {
    torch::stable::parallel_for(0, num_slots_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t slot = begin; slot < end; ++slot) {
        T* sums = sums_.data() + 2 * columns_ * slot;
        walk(slot * rows_per_slot_, std::min(rows_, (slot + 1) * rows_per_slot_), sums, sums + columns_);
      }
    });
  }

  void write(const Tensor& grad_weight, const Tensor& grad_bias) {
    if (columns_ == 0) return;
    const int64_t width = 2 * columns_;
    torch::stable::parallel_for(0, width, kGrainElements, [&](int64_t begin, int64_t end) {
      for (int64_t slot = 1; slot < num_slots_; ++slot)
        for (int64_t j = begin; j < end; ++j) sums_[j] += sums_[slot * width + j];
    });
    write_as_dtype(sums_.data(), grad_weight);
    write_as_dtype(sums_.data() + columns_, grad_bias);
  }

 private:
  static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

  static void write_as_dtype(const T* from, const Tensor& to) {
    switch (to.scalar_type()) {
      case ScalarType::Double: return narrow<double>(from, to);
      case ScalarType::BFloat16: return narrow<bfloat16>(from, to);
      case ScalarType::Half: return narrow<float16>(from, to);
      default: return narrow<float>(from, to);
    }
  }

  int64_t rows_, columns_, rows_per_slot_, num_slots_;
  std::vector<T> sums_;
};

}  // namespace airank_fast
