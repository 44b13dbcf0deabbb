// Shared by the ops that end in a layer normalisation on the CPU: one row, and the loop over rows.
//
// A row is read from memory once and then twice more from L1. Each sum has kLanes partial sums, an array because the
// compiler may not reorder a floating-point sum by itself; it keeps them in registers. The partial sums restart every
// kSegment columns, so that a long row is as accurate as a short one. Weight and bias are arrays of the arithmetic's
// type for tensors of any dtype, ones and zeros where there are none.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <type_traits>
#include <vector>

#include "../layer_norm_args.h"
#include "../layer_norm_math.h"
#include "isa.h"
#include "lines.h"
#include "numbers.h"
#include "streaming.h"

namespace airank_fast {

constexpr int kLanes = 64;
// Columns of a row whose sum is taken in the arithmetic's type, 128 numbers a lane; these sums are added in double.
constexpr int64_t kSegment = 1 << 13;
// Fewer elements are not worth a thread.
constexpr int64_t kGrainElements = 1 << 14;

// Adds the upper half to the lower until one is left.
template <int kHalf = kLanes / 2, typename T>
HOST_DEVICE T sum_of(T (&lanes)[kLanes]) {
  for (int l = 0; l < kHalf; ++l) lanes[l] += lanes[l + kHalf];
  if constexpr (kHalf == 1) return lanes[0];
  else return sum_of<kHalf / 2>(lanes);
}

// Two bfloat16 in one word: the first becomes a float by a shift, the second by a mask, with no instruction to widen or
// to pack. Rows of them are read in this way, for which weight and bias have the even columns first.
typedef uint32_t __attribute__((may_alias, aligned(2))) PairWord;
static_assert(std::endian::native == std::endian::little);

HOST_DEVICE float first_of(uint32_t pair) { return bits_as<float>(pair << 16); }
HOST_DEVICE float second_of(uint32_t pair) { return bits_as<float>(pair & 0xffff0000u); }

// As bfloat16_above(), in half the instructions, for results whose NaNs have 16 zeros at the end: those of arithmetic on
// bfloat16 numbers and canonical NaNs have (see params_of). One more in front of them would not carry into the sign.
HOST_DEVICE uint32_t result_above(float x) {
  const uint32_t bits = bits_as<uint32_t>(x);
  return bits + 0x7fffu + ((bits >> 16) & 1u);
}

template <typename X, typename Y>
constexpr bool kInPairs = std::is_same_v<X, bfloat16> && std::is_same_v<Y, bfloat16>;

// Whether whole rows are read by lines, in partial sums that never restart.
template <typename X, typename Y>
bool rows_in_lines(int64_t columns) {
  return std::is_same_v<X, Y> && walks_lines<X>(columns) && columns > 0 && columns <= kSegment && columns % kLanes == 0;
}

#ifdef AIRANK_FAST_X86_VARIANTS
// The positions of a line's numbers in the arrays per column (weight, bias, their sums), which for rows of bfloat16
// have the even columns first.
template <typename E>
struct PerColumn {
  explicit PerColumn(int64_t columns) : second_(std::is_same_v<E, bfloat16> ? columns / 2 : kLineNumbers / 2) {}

  IN_LINES Line at(const float* numbers, int64_t j) const {
    return {_mm512_loadu_ps(numbers + j / kStep), _mm512_loadu_ps(numbers + j / kStep + second_)};
  }
  IN_LINES void set(float* numbers, int64_t j, Line values) const {
    _mm512_storeu_ps(numbers + j / kStep, values.first);
    _mm512_storeu_ps(numbers + j / kStep + second_, values.second);
  }

 private:
  static constexpr int64_t kStep = std::is_same_v<E, bfloat16> ? 2 : 1;
  int64_t second_;
};
#endif

// Adds f(element) of each element to the lanes.
template <typename X, typename T, typename F>
HOST_DEVICE void add_row(const X* __restrict row, int64_t columns, T (&lanes)[kLanes], F f) {
  const int64_t in_lanes = columns / kLanes * kLanes;
  for (int64_t j = 0; j < in_lanes; j += kLanes) {
    if constexpr (kInPairs<X, X>) {
      const PairWord* pairs = reinterpret_cast<const PairWord*>(row + j);
      for (int l = 0; l < kLanes / 2; ++l) lanes[l] += f(first_of(pairs[l]));
      for (int l = 0; l < kLanes / 2; ++l) lanes[kLanes / 2 + l] += f(second_of(pairs[l]));
    } else {
      for (int l = 0; l < kLanes; ++l) lanes[l] += f(T(load(row[j + l])));
    }
  }
  for (int64_t j = in_lanes; j < columns; ++j) lanes[j - in_lanes] += f(T(load(row[j])));
}

// The sum of f(element) over a row.
template <typename T, typename X, typename F>
HOST_DEVICE double row_sum(const X* row, int64_t columns, F f) {
  double sum = 0;
  for (int64_t begin = 0; begin < columns; begin += kSegment) {
    T lanes[kLanes] = {};
    add_row(row + begin, std::min(kSegment, columns - begin), lanes, f);
    sum += sum_of(lanes);
  }
  return sum;
}

template <typename X, typename T = math_t<X>>
HOST_DEVICE Moments<T> moments_of(const X* row, int64_t columns, double eps) {
  const T mean = T(row_sum<T>(row, columns, [](T x) __attribute__((always_inline)) { return x; }) / double(columns));
  const double squares =
      row_sum<T>(row, columns, [mean](T x) __attribute__((always_inline)) { return (x - mean) * (x - mean); });
  return {mean, rstd_of(T(squares), double(columns), eps)};
}

// Prefetches the `count` elements from `at` on, which are needed a row later: without this, memory is idle while a row
// in L1 is processed.
template <int kCount, typename X>
HOST_DEVICE void prefetch(const X* at) {
  for (int byte = 0; byte < int(kCount * sizeof(X)); byte += 64)
    __builtin_prefetch(reinterpret_cast<const char*>(at) + byte);
}

#ifdef AIRANK_FAST_X86_VARIANTS
// normalize_row() of whole groups of kLanes numbers, by lines.
template <typename E>
TARGET_AVX512_BF16 void normalize_lines(const E* row, const Moments<float>& moments, const float* weight,
                                        const float* bias, int64_t columns, E* y, const void* next, bool past_cache) {
  const PerColumn<E> per_column(columns + columns % 2);
  const __m512 mean = every(moments.mean), rstd = every(moments.rstd);
  for (int64_t j = 0; j < columns / kLanes * kLanes; j += kLineNumbers) {
    ask_for(static_cast<const E*>(next) + j);
    store_line(y + j, fma((line_at(row + j) - mean) * rstd, per_column.at(weight, j), per_column.at(bias, j)),
               past_cache);
  }
}
#endif

// `next` is a row that will come soon, or any address at all. Weight and bias are params_of<X, Y>(). With `scratch` for
// a row, y is stored past the cache (see streaming.h).
template <typename X, typename Y, typename T, typename Next>
HOST_DEVICE void normalize_row(const X* __restrict row, const Moments<T>& moments, const T* __restrict weight,
                               const T* __restrict bias, int64_t columns, Y* result, const Next* next,
                               Y* scratch = nullptr) {
  Y* __restrict y = scratch ? scratch : result;
  const int64_t in_lanes = columns / kLanes * kLanes;
  const int64_t odd = (columns + 1) / 2;  // where the odd columns of weight and bias begin, in pairs
  int64_t begin = 0;
#ifdef AIRANK_FAST_X86_VARIANTS
  if constexpr (kInPairs<X, Y>) {
    if (rounds_pairs()) {
      normalize_lines(row, moments, weight, bias, columns, result, next, scratch != nullptr);
      begin = in_lanes;
      y = result;
    }
  }
#endif
  for (int64_t j = begin; j < in_lanes; j += kLanes) {
    prefetch<kLanes>(next + j);
    if constexpr (kInPairs<X, Y>) {
      const PairWord* pairs = reinterpret_cast<const PairWord*>(row);
      PairWord* results = reinterpret_cast<PairWord*>(y);
#pragma GCC ivdep
      for (int64_t l = j / 2; l < j / 2 + kLanes / 2; ++l) {
        const float first = normalized(first_of(pairs[l]), moments) * weight[l] + bias[l];
        const float second = normalized(second_of(pairs[l]), moments) * weight[odd + l] + bias[odd + l];
        results[l] = (result_above(first) >> 16) | (result_above(second) & 0xffff0000u);
      }
    } else {
#pragma GCC ivdep
      for (int64_t l = j; l < j + kLanes; ++l)
        store(&y[l], normalized(T(load(row[l])), moments) * weight[l] + bias[l]);
    }
  }
  for (int64_t j = in_lanes; j < columns; ++j) {
    const int64_t at = kInPairs<X, Y> ? j / 2 + (j % 2) * odd : j;
    store(&y[j], normalized(T(load(row[j])), moments) * weight[at] + bias[at]);
  }
  if (y != result) stream(result, y, columns * sizeof(Y));
}

template <typename T>
struct RowMeans {
  T g;
  T gh;
};

template <typename Y, typename X, typename T>
HOST_DEVICE RowMeans<T> grad_means_of(const Y* __restrict grad, const X* __restrict row, const Moments<T>& moments,
                                      const T* __restrict weight, int64_t columns, int64_t ahead) {
  double sum_g = 0, sum_gh = 0;
  for (int64_t begin = 0; begin < columns; begin += kSegment) {
    T sums_g[kLanes] = {}, sums_gh[kLanes] = {};
    const int64_t end = std::min(begin + kSegment, columns), in_lanes = begin + (end - begin) / kLanes * kLanes;
    for (int64_t j = begin; j < in_lanes; j += kLanes) {
      prefetch<kLanes>(grad + ahead + j);
      prefetch<kLanes>(row + ahead + j);
      for (int l = 0; l < kLanes; ++l) {
        const T g = load(grad[j + l]) * weight[j + l];
        sums_g[l] += g;
        sums_gh[l] += g * normalized(T(load(row[j + l])), moments);
      }
    }
    for (int64_t j = in_lanes; j < end; ++j) {
      const T g = load(grad[j]) * weight[j];
      sums_g[j - in_lanes] += g;
      sums_gh[j - in_lanes] += g * normalized(T(load(row[j])), moments);
    }
    sum_g += sum_of(sums_g);
    sum_gh += sum_of(sums_gh);
  }
  return {T(sum_g / double(columns)), T(sum_gh / double(columns))};
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
  const Tensor dense = as_contiguous(*param);
  switch (dense.scalar_type()) {
    case ScalarType::Double: widen<double>(dense, values); break;
    case ScalarType::BFloat16: widen<bfloat16>(dense, values); break;
    case ScalarType::Half: widen<float16>(dense, values); break;
    default: widen<float>(dense, values); break;
  }
  return values;
}

// The same, as normalize_row<X, Y>() takes it: in pairs the even columns first, and every NaN canonical.
template <typename X, typename Y, typename T = math_t<X>>
std::vector<T> params_of(const OptionalTensor& param, int64_t columns, T otherwise) {
  std::vector<T> values = param_of(param, columns, otherwise);
  if (!kInPairs<X, Y>) return values;
  std::vector<T> evens_first(columns);
  for (int64_t j = 0; j < columns; ++j)
    evens_first[j / 2 + (j % 2) * ((columns + 1) / 2)] =
        values[j] == values[j] ? values[j] : std::numeric_limits<T>::quiet_NaN();
  return evens_first;
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
  // With evens_first the sums come with the even columns first.
  ParamGrads(int64_t rows, int64_t columns, bool evens_first = false)
      : rows_(rows), columns_(columns), evens_first_(evens_first),
        rows_per_slot_(std::max<int64_t>(16, ceil_div(rows, 64))),
        num_slots_(ceil_div(rows, rows_per_slot_)), sums_(2 * columns * std::max<int64_t>(num_slots_, 1)) {}

  // Calls walk(first row, end row, weight sums, bias sums) for every slot.
  template <typename Walk>
  void for_each_slot(Walk walk) {
    const int64_t grain = std::max<int64_t>(1, kGrainElements / std::max<int64_t>(1, rows_per_slot_ * columns_));
    torch::stable::parallel_for(0, num_slots_, grain, [&](int64_t begin, int64_t end) {
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
    write_as_dtype(in_order(sums_.data()), grad_weight);
    write_as_dtype(in_order(sums_.data() + columns_), grad_bias);
  }

 private:
  static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

  T* in_order(T* sums) const {
    if (!evens_first_) return sums;
    const std::vector<T> mixed(sums, sums + columns_);
    for (int64_t j = 0; j < columns_; ++j) sums[j] = mixed[j / 2 + (j % 2) * ((columns_ + 1) / 2)];
    return sums;
  }

  static void write_as_dtype(const T* from, const Tensor& to) {
    switch (to.scalar_type()) {
      case ScalarType::Double: return narrow<double>(from, to);
      case ScalarType::BFloat16: return narrow<bfloat16>(from, to);
      case ScalarType::Half: return narrow<float16>(from, to);
      default: return narrow<float>(from, to);
    }
  }

  int64_t rows_, columns_;
  bool evens_first_;
  int64_t rows_per_slot_, num_slots_;
  std::vector<T> sums_;
};

}  // namespace airank_fast
