// One row of upsampled logits at a time on the CPU: its cross entropy and gradient, or the class of each pixel.
//
// Lanes are cells, not pixels: of 16 neighbouring cells a loop takes the first pixel each, then the second, and so on.
// Their logits are then two loads and two products whatever the factor, and their gradients are added to 16 neighbouring
// columns; with lanes of pixels both would be gathers. Cells with fewer pixels than others of their block have empty lanes.
// Rows of logits are planes [classes, stride] in the type of the arithmetic, whatever the dtype and the memory format.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "isa.h"
#include "numbers.h"
#include "streaming.h"

#if defined(__GNUC__) && !defined(__clang__)
// Vectors are passed to inlined functions only. No push and pop: templates are compiled at the end of the file. Before the
// headers with such functions, and after those of the compiler, which end what the pragma says.
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#include "../cross_entropy_math.h"
#include "../upsample_math.h"

namespace airank_fast {

constexpr int64_t kUpsampleBlock = 16;  // cells at a time

// The pixels of a row by their cells: first[j] is that of cell j, and step t of a block has the t-th pixel of its cells.
template <typename M>
struct UpsampleColumns {
  explicit UpsampleColumns(const UpsampleAxis& axis)
      : cells(axis.in), blocks((axis.in + kUpsampleBlock - 1) / kUpsampleBlock), steps(size_t(blocks + 1)) {
    for (int64_t j = 0; j <= blocks * kUpsampleBlock; ++j) first.push_back(int32_t(axis.begin(j)));
    for (int64_t b = 0; b < blocks; ++b) {
      int64_t most = 0;
      for (int64_t j = b * kUpsampleBlock; j < (b + 1) * kUpsampleBlock; ++j)
        most = std::max<int64_t>(most, first[size_t(j + 1)] - first[size_t(j)]);
      steps[size_t(b + 1)] = steps[size_t(b)] + most;
      for (int64_t t = 0; t < most; ++t)
        for (int64_t j = b * kUpsampleBlock; j < (b + 1) * kUpsampleBlock; ++j) {
          const int64_t pixel = first[size_t(j)] + t;
          weights.push_back(pixel < first[size_t(j + 1)] ? axis.weight<M>(pixel) : M(0));
        }
    }
  }

  // Columns of a plane: a block reads one beyond its cells.
  int64_t stride() const { return (blocks + 1) * kUpsampleBlock; }
  int64_t pixels() const { return first.back(); }

  int64_t cells;
  int64_t blocks;
  std::vector<int32_t> first;   // of cells beyond the last one: the row's width
  std::vector<int64_t> steps;   // of block b: from steps[b] to steps[b + 1]
  std::vector<M> weights;       // [steps, 16], of the cell's right column
};

template <typename M>
struct UpsampleRow {
  const M* above;  // planes of the two rows of logits
  const M* below;
  M weight;        // of the one below
  int64_t classes;
  int64_t stride;
  int64_t blocks;
  const int32_t* first;  // see UpsampleColumns
  const int64_t* steps;
  const M* weights;
  M* scratch;  // [kUpsampleScratch, classes, 16]
  // Cross entropy:
  const int32_t* labels;  // of the row's pixels; -1: not counted
  M* above_gradient;      // planes, to which the gradients are added; null: only the loss
  M* below_gradient;
  double* loss;  // to which the row's is added
  // Classes:
  int32_t* predicted;  // of the row's pixels
};

constexpr int64_t kUpsampleScratch = 5;
// Steps after which the logarithm is taken of a product of sums of exponentials, of at most 2^31 classes each.
constexpr int64_t kUpsampleSettled = 4;

// The 16 numbers of a block.
template <typename M, int kLanes>
struct UpsampleLanes {
  typedef M Vector __attribute__((vector_size(kLanes * sizeof(M))));
  using Integer = std::conditional_t<sizeof(M) == 8, int64_t, int32_t>;
  using Unsigned = std::make_unsigned_t<Integer>;
  typedef Integer Integers __attribute__((vector_size(kLanes * sizeof(M))));
  typedef Unsigned Bits __attribute__((vector_size(kLanes * sizeof(M))));
  static constexpr int kParts = kUpsampleBlock / kLanes;

  HOST_DEVICE static Vector at(const M* from, int part) {
    Vector x;
    __builtin_memcpy(&x, from + part * kLanes, sizeof(x));
    return x;
  }
  HOST_DEVICE static void put(M* to, int part, const Vector& x) {
    __builtin_memcpy(to + part * kLanes, &x, sizeof(x));
  }
  HOST_DEVICE static Vector every(M x) { return x - Vector{}; }
  HOST_DEVICE static Vector exp(const Vector& x) {
    if constexpr (std::is_same_v<M, float>) return exp_nonpositive_in<Vector, Bits>(x);
    Vector result = x;
    for (int l = 0; l < kLanes; ++l) result[l] = exp_nonpositive(x[l]);
    return result;
  }
};

template <typename M, int kLanes>
struct UpsampleLoop {
  using L = UpsampleLanes<M, kLanes>;
  using Vector = typename L::Vector;
  static constexpr int kParts = L::kParts;
  static constexpr int64_t kBlock = kUpsampleBlock;

  // The row's logits at the left and at the right columns of 16 cells from j on: [classes, 16] each.
  HOST_DEVICE static void interpolate_rows(const UpsampleRow<M>& row, int64_t j, M* left, M* right) {
    const M one_less = M(1) - row.weight;
    for (int64_t c = 0; c < row.classes; ++c) {
      const M* above = row.above + c * row.stride + j;
      const M* below = row.below + c * row.stride + j;
#pragma GCC unroll 4
      for (int p = 0; p < kParts; ++p) {
        L::put(left + c * kBlock, p, one_less * L::at(above, p) + row.weight * L::at(below, p));
        L::put(right + c * kBlock, p, one_less * L::at(above + 1, p) + row.weight * L::at(below + 1, p));
      }
    }
  }
};

template <typename M, int kLanes, bool kGradient>
struct UpsampleLoss : UpsampleLoop<M, kLanes> {
  using Signature = void(const UpsampleRow<M>&);
  using L = UpsampleLanes<M, kLanes>;
  using Vector = typename L::Vector;
  static constexpr int kParts = L::kParts;
  static constexpr int64_t kBlock = kUpsampleBlock;

  HOST_DEVICE static void run(const UpsampleRow<M>& row) {
    const int64_t size = row.classes * kBlock;
    M* left = row.scratch;
    M* right = left + size;
    for (int64_t b = 0; b < row.blocks; ++b) {
      const int64_t j = b * kBlock;
      UpsampleLoss::interpolate_rows(row, j, left, right);
      // The gradients of left and right.
      M* to_left = right + size;
      M* to_right = to_left + size;
      if (kGradient)
        for (int64_t i = 0; i < 2 * size; ++i) to_left[i] = 0;
      M products[kBlock], losses[kBlock] = {};
      for (M& product : products) product = 1;
      bool any = false;
      for (int64_t step = row.steps[b]; step < row.steps[b + 1]; ++step) {
        const int64_t t = step - row.steps[b];
        int32_t labels[kBlock];
        int32_t all = -1;  // negative where every label is
        for (int64_t l = 0; l < kBlock; ++l) {
          const int32_t pixel = row.first[j + l] + int32_t(t);
          labels[l] = pixel < row.first[j + l + 1] ? row.labels[pixel] : -1;
          all &= labels[l];
        }
        if (all >= 0) {
          any = true;
          pixels(row, row.weights + step * kBlock, labels, left, right, to_left, to_right, products, losses);
        }
        if (t % kUpsampleSettled == kUpsampleSettled - 1) settle(products, losses);
      }
      if (!any) continue;
      settle(products, losses);
      for (int64_t l = 0; l < kBlock; ++l) *row.loss += double(losses[l]);
      if (kGradient) add_gradient(row, j, to_left, to_right);
    }
  }

  HOST_DEVICE static void settle(M* products, M* losses) {
    for (int64_t l = 0; l < kBlock; ++l) {
      if (products[l] != M(1)) losses[l] += std::log(products[l]);
      products[l] = 1;
    }
  }

  // One pixel of each cell.
  HOST_DEVICE static void pixels(const UpsampleRow<M>& row, const M* weights, const int32_t* labels, const M* left,
                                 const M* right, M* to_left, M* to_right, M* products, M* losses) {
    M* values = to_right + row.classes * kBlock;
    Vector of_right[kParts], of_left[kParts], max[kParts], sum[kParts];
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
      of_right[p] = L::at(weights, p);
      of_left[p] = M(1) - of_right[p];
      max[p] = L::every(minus_infinity<M>());
      sum[p] = Vector{};
    }
    for (int64_t c = 0; c < row.classes; ++c) {
#pragma GCC unroll 4
      for (int p = 0; p < kParts; ++p) {
        const Vector x = of_left[p] * L::at(left + c * kBlock, p) + of_right[p] * L::at(right + c * kBlock, p);
        L::put(values + c * kBlock, p, x);
        max[p] = x > max[p] ? x : max[p];
      }
    }
    M of_label[kBlock], maxima[kBlock], sums[kBlock], factors[kBlock];
    for (int64_t l = 0; l < kBlock; ++l) of_label[l] = labels[l] >= 0 ? values[labels[l] * kBlock + l] : M(0);
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
      L::put(maxima, p, max[p]);
      max[p] = max[p] == minus_infinity<M>() ? Vector{} : max[p];
    }
    for (int64_t c = 0; c < row.classes; ++c) {
#pragma GCC unroll 4
      for (int p = 0; p < kParts; ++p) {
        const Vector x = L::exp(L::at(values + c * kBlock, p) - max[p]);
        L::put(values + c * kBlock, p, x);
        sum[p] += x;
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) L::put(sums, p, sum[p]);
    for (int64_t l = 0; l < kBlock; ++l) {
      factors[l] = 0;
      if (labels[l] >= 0) {
        factors[l] = M(1) / sums[l];
        losses[l] += maxima[l] - of_label[l];
        products[l] *= sums[l];
        values[labels[l] * kBlock + l] -= sums[l];
      } else if (kGradient && sums[l] != sums[l]) {
        for (int64_t c = 0; c < row.classes; ++c) values[c * kBlock + l] = 0;  // NaN * 0 would be NaN
      }
    }
    if (!kGradient) return;
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
      of_left[p] *= L::at(factors, p);
      of_right[p] *= L::at(factors, p);
    }
    for (int64_t c = 0; c < row.classes; ++c) {
#pragma GCC unroll 4
      for (int p = 0; p < kParts; ++p) {
        const Vector x = L::at(values + c * kBlock, p);
        L::put(to_left + c * kBlock, p, L::at(to_left + c * kBlock, p) + of_left[p] * x);
        L::put(to_right + c * kBlock, p, L::at(to_right + c * kBlock, p) + of_right[p] * x);
      }
    }
  }

  HOST_DEVICE static void add_gradient(const UpsampleRow<M>& row, int64_t j, const M* to_left, const M* to_right) {
    const M one_less = M(1) - row.weight;
    for (int64_t c = 0; c < row.classes; ++c) {
      M* above = row.above_gradient + c * row.stride + j;
      M* below = row.below_gradient + c * row.stride + j;
#pragma GCC unroll 4
      for (int p = 0; p < kParts; ++p) {
        const Vector x = L::at(to_left + c * kBlock, p);
        L::put(above, p, L::at(above, p) + one_less * x);
        L::put(below, p, L::at(below, p) + row.weight * x);
      }
#pragma GCC unroll 4
      for (int p = 0; p < kParts; ++p) {
        const Vector x = L::at(to_right + c * kBlock, p);
        L::put(above + 1, p, L::at(above + 1, p) + one_less * x);
        L::put(below + 1, p, L::at(below + 1, p) + row.weight * x);
      }
    }
  }
};

// A row of logits [classes, width], with any strides, to planes; their last column is repeated to the end of the stride.
template <typename T>
struct UpsampleLoad {
  using M = math_t<T>;
  using Signature = void(const void*, int64_t, int64_t, int64_t, int64_t, int64_t, M*);

  HOST_DEVICE static void run(const void* from, int64_t class_stride, int64_t pixel_stride, int64_t classes,
                              int64_t width, int64_t stride, M* __restrict planes) {
    const T* __restrict x = static_cast<const T*>(from);
    // In blocks, so that lines of channels_last logits are read while they are in the first cache.
    for (int64_t begin = 0; begin < width; begin += kUpsampleBlock) {
      const int64_t end = begin + kUpsampleBlock < width ? begin + kUpsampleBlock : width;
      for (int64_t c = 0; c < classes; ++c) {
        const T* __restrict row = x + c * class_stride;
        M* __restrict to = planes + c * stride;
        if (pixel_stride == 1)
          for (int64_t j = begin; j < end; ++j) to[j] = load(row[j]);
        else
          for (int64_t j = begin; j < end; ++j) to[j] = load(row[j * pixel_stride]);
      }
    }
    for (int64_t c = 0; c < classes; ++c)
      for (int64_t j = width; j < stride; ++j) planes[c * stride + j] = planes[c * stride + width - 1];
  }
};

// The class of the largest logit; of equal ones, and of NaNs, which are above all numbers, the first.
template <typename M, int kLanes>
struct UpsampleClass : UpsampleLoop<M, kLanes> {
  using Signature = void(const UpsampleRow<M>&);
  using L = UpsampleLanes<M, kLanes>;
  using Vector = typename L::Vector;
  using Integers = typename L::Integers;
  static constexpr int kParts = L::kParts;
  static constexpr int64_t kBlock = kUpsampleBlock;

  HOST_DEVICE static void run(const UpsampleRow<M>& row) {
    M* left = row.scratch;
    M* right = left + row.classes * kBlock;
    for (int64_t b = 0; b < row.blocks; ++b) {
      const int64_t j = b * kBlock;
      UpsampleClass::interpolate_rows(row, j, left, right);
      for (int64_t step = row.steps[b]; step < row.steps[b + 1]; ++step) {
        typename L::Integer classes[kBlock];
        pixels(row, row.weights + step * kBlock, left, right, classes);
        const int32_t t = int32_t(step - row.steps[b]);
        for (int64_t l = 0; l < kBlock; ++l) {
          const int32_t pixel = row.first[j + l] + t;
          if (pixel < row.first[j + l + 1]) row.predicted[pixel] = int32_t(classes[l]);
        }
      }
    }
  }

  HOST_DEVICE static void pixels(const UpsampleRow<M>& row, const M* weights, const M* left, const M* right,
                                 typename L::Integer* classes) {
    Vector of_right[kParts], of_left[kParts], max[kParts];
    Integers best[kParts];
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) {
      of_right[p] = L::at(weights, p);
      of_left[p] = M(1) - of_right[p];
      max[p] = L::every(minus_infinity<M>());
      best[p] = Integers{};
    }
    for (int64_t c = row.classes - 1; c >= 0; --c) {
#pragma GCC unroll 4
      for (int p = 0; p < kParts; ++p) {
        const Vector x = of_left[p] * L::at(left + c * kBlock, p) + of_right[p] * L::at(right + c * kBlock, p);
        const Integers better = (x >= max[p]) | (x != x);
        max[p] = better ? x : max[p];
        best[p] = better ? (Integers{} + typename L::Integer(c)) : best[p];
      }
    }
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) __builtin_memcpy(classes + p * kLanes, &best[p], sizeof(best[p]));
  }
};

template <int kLanes> struct UpsampleLossOfFloat : UpsampleLoss<float, kLanes, false> {};
template <int kLanes> struct UpsampleGradientOfFloat : UpsampleLoss<float, kLanes, true> {};
template <int kLanes> struct UpsampleClassOfFloat : UpsampleClass<float, kLanes> {};
// Registers hold half as many doubles.
template <int kLanes> struct UpsampleLossOfDouble : UpsampleLoss<double, kLanes / 2, false> {};
template <int kLanes> struct UpsampleGradientOfDouble : UpsampleLoss<double, kLanes / 2, true> {};
template <int kLanes> struct UpsampleClassOfDouble : UpsampleClass<double, kLanes / 2> {};

}  // namespace airank_fast
