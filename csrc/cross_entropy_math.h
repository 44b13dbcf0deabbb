// Cross entropy of one row of logits x with the class t, with label smoothing e over C classes; one source for the CPU
// and the GPU.
//
//   p      = softmax(x)
//   loss   = (1 - e) * -log p[t] + e / C * sum_c -log p[c]
//          = log(sum_c exp(x[c] - max)) + (max - x[t]) - e / C * sum_c (x[c] - x[t])
//   d loss / d x[c] = p[c] - e / C - (1 - e) * [c == t]
//
// The second form of the loss needs one pass over the row, of which any two parts can be merged. It subtracts no large
// numbers from one another: where x[t] is far from the others, the loss is as large itself.
// Source: torch.nn.functional.cross_entropy; online softmax: Milakov and Gimelshein 2018.
#pragma once

#include "vector_math.h"

namespace airank_fast {

template <typename T>
HOST_DEVICE T minus_infinity() {
  return T(-__builtin_huge_val());
}

// Results over some columns of a row.
template <typename T>
struct RowPart {
  T max;    // of x; minus infinity for no columns
  T sum;    // of exp(x - max)
  T above;  // of x - x[t]; only label smoothing reads it
};

template <typename T>
HOST_DEVICE RowPart<T> no_columns() {
  return {minus_infinity<T>(), T(0), T(0)};
}

// The max of exp(x - max): a part with no other numbers than minus infinity keeps the sum 0.
template <typename T>
HOST_DEVICE T finite_max(T max) {
  return max == minus_infinity<T>() ? T(0) : max;
}

template <typename T>
HOST_DEVICE T larger(T a, T b) {
  return a > b ? a : b;
}

// The same part with its sum below a larger maximum. A NaN among the columns is in the sum, and stays there.
template <typename T>
HOST_DEVICE RowPart<T> rescaled(const RowPart<T>& part, T max) {
  const T factor = part.max == minus_infinity<T>() ? T(1) : exp_nonpositive(part.max - finite_max(max));
  return {max, part.sum * factor, part.above};
}

// Every rescaling rounds once or twice: it is best to rescale many parts to the maximum of all, then to add them.
template <typename T>
HOST_DEVICE RowPart<T> merged(const RowPart<T>& a, const RowPart<T>& b) {
  const T max = larger(a.max, b.max);
  return {max, rescaled(a, max).sum + rescaled(b, max).sum, a.above + b.above};
}

// The reference of `above`: x[t]; 0 where x[t] is minus infinity, as the loss is infinite in any case.
template <typename T>
HOST_DEVICE T reference_of(T at_target) {
  return finite_max(at_target);
}

template <typename T>
struct Smoothing {
  T whole;      // e
  T per_class;  // e / C
};

template <typename T>
HOST_DEVICE T row_loss(const RowPart<T>& row, T at_target, const Smoothing<T>& smoothing) {
  const T loss = log(row.sum) + (row.max - at_target);
  return smoothing.whole != T(0) ? loss - smoothing.per_class * row.above : loss;
}

// The gradient of one row, except in its target column, is p_scale * exp(x - max) - everywhere.
template <typename T>
struct RowGradient {
  T max;
  T p_scale;
  T everywhere;
  T at_target;

  HOST_DEVICE T at(T x) const { return p_scale * exp_nonpositive(x - max) - everywhere; }
  HOST_DEVICE T at_the_target(T x) const { return at(x) - at_target; }
};

// `factor`: the gradient of the row's loss; `max` and `sum` of the whole row.
template <typename T>
HOST_DEVICE RowGradient<T> row_gradient(T factor, T max, T sum, const Smoothing<T>& smoothing) {
  return {max, factor / sum, factor * smoothing.per_class, factor * (T(1) - smoothing.whole)};
}

}  // namespace airank_fast
