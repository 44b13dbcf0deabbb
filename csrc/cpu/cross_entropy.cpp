// Cross entropy on the CPU: formula in cross_entropy_math.h, a row at a time, parallel over rows.
//
// Forward reads the logits once: a block of a row is copied into the first cache as float32, its maximum is taken
// there, then the sum of exponentials, and the row's sum is rescaled where the maximum has grown. Backward reads them
// once more and writes the gradient, in place on request. Bytes per element: e forward, 2e backward in place (3e
// otherwise, since a cache line is read before it is written).
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>

#include "../cross_entropy_args.h"
#include "../cross_entropy_math.h"
#include "isa.h"
#include "numbers.h"

namespace airank_fast {
namespace {

// Columns of a block: 8 KB of float32.
constexpr int64_t kBlock = 2048;
// Sums and maxima are kept in this many lanes, in any instruction set.
constexpr int64_t kLanes = 64;

// Result: (max, sum of exp(x - max), sum of x - reference) of `size` columns, in three numbers.
template <typename T>
struct RowLoop {
  using M = math_t<T>;
  using Signature = void(const void*, int64_t, M, bool, RowPart<M>*);

  // At the end of a row the block is filled up to whole lanes with minus infinities, which add 0.
  HOST_DEVICE static void run(const void* logits, int64_t size, M reference, bool smooth, RowPart<M>* result) {
    const T* row = static_cast<const T*>(logits);
    RowPart<M> all = no_columns<M>();
    alignas(64) M block[kBlock];
    for (int64_t begin = 0; begin < size; begin += kBlock) {
      const int64_t n = std::min(kBlock, size - begin);
      const int64_t padded = (n + kLanes - 1) / kLanes * kLanes;
      for (int64_t i = n; i < padded; ++i) block[i] = minus_infinity<M>();
      for (int64_t i = 0; i < n; ++i) block[i] = load(row[begin + i]);
      RowPart<M> part = no_columns<M>();
      part.max = max_of(block, padded);
      part.sum = sum_of_exp(block, padded, finite_max(part.max));
      if (smooth) part.above = sum_above(block, n, padded, reference);
      all = merged(all, part);
    }
    *result = all;
  }

  HOST_DEVICE static M max_of(const M* block, int64_t size) {
    M max[kLanes];
    for (int64_t j = 0; j < kLanes; ++j) max[j] = minus_infinity<M>();
    for (int64_t i = 0; i < size; i += kLanes)
      for (int64_t j = 0; j < kLanes; ++j) max[j] = larger(max[j], block[i + j]);
    for (int64_t half = kLanes / 2; half > 0; half /= 2)
      for (int64_t j = 0; j < half; ++j) max[j] = larger(max[j], max[j + half]);
    return max[0];
  }

  HOST_DEVICE static M sum_of_exp(const M* block, int64_t size, M max) {
    M sum[kLanes] = {};
    for (int64_t i = 0; i < size; i += kLanes)
      for (int64_t j = 0; j < kLanes; ++j) sum[j] += exp_nonpositive(block[i + j] - max);
    return total(sum);
  }

  HOST_DEVICE static M sum_above(M* block, int64_t n, int64_t padded, M reference) {
    for (int64_t i = n; i < padded; ++i) block[i] = reference;
    M sum[kLanes] = {};
    for (int64_t i = 0; i < padded; i += kLanes)
      for (int64_t j = 0; j < kLanes; ++j) sum[j] += block[i + j] - reference;
    return total(sum);
  }

  HOST_DEVICE static M total(M* lanes) {
    for (int64_t half = kLanes / 2; half > 0; half /= 2)
      for (int64_t j = 0; j < half; ++j) lanes[j] += lanes[j + half];
    return lanes[0];
  }
};

// The gradient of one row. `logits` and `gradient` may be the same memory.
template <typename T>
struct GradientLoop {
  using M = math_t<T>;
  using Signature = void(const void*, void*, int64_t, int64_t, RowGradient<M>);

  HOST_DEVICE static void run(const void* logits, void* gradient, int64_t size, int64_t target,
                              RowGradient<M> formula) {
    const T* row = static_cast<const T*>(logits);
    T* to = static_cast<T*>(gradient);
    const M at_target = formula.at_the_target(load(row[target]));
#pragma GCC ivdep
    for (int64_t i = 0; i < size; ++i) store(&to[i], formula.at(load(row[i])));
    store(&to[target], at_target);
  }
};

// Fewer elements are not worth a thread.
int64_t rows_per_thread(int64_t num_classes) { return std::max<int64_t>(1, (1 << 14) / num_classes); }

template <typename M>
Smoothing<M> smoothing_of(double label_smoothing, int64_t num_classes) {
  return {M(label_smoothing), M(label_smoothing / double(num_classes))};
}

template <typename T>
void forward(const Tensor& logits, const int64_t* target, double label_smoothing, int64_t ignore_index,
             math_t<T>* losses, math_t<T>* statistics) {
  using M = math_t<T>;
  const Smoothing<M> smoothing = smoothing_of<M>(label_smoothing, logits.size(1));
  const auto loop = choose<RowLoop<T>>();
  const T* first = static_cast<const T*>(logits.data_ptr());
  const int64_t num_classes = logits.size(1), stride = logits.stride(0);
  torch::stable::parallel_for(0, logits.size(0), rows_per_thread(num_classes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      losses[i] = statistics[2 * i] = statistics[2 * i + 1] = 0;
      if (target[i] == ignore_index) continue;
      const T* row = first + i * stride;
      const M at_target = load(row[target[i]]);
      RowPart<M> all;
      loop(row, num_classes, reference_of(at_target), label_smoothing != 0, &all);
      losses[i] = row_loss(all, at_target, smoothing);
      statistics[2 * i] = all.max;
      statistics[2 * i + 1] = all.sum;
    }
  });
}

// The sum of the losses over the rows that count, in order; and the factor of each row's gradient.
template <typename M>
void reduce(const M* losses, const int64_t* target, int64_t rows, int64_t ignore_index, Reduction reduction, M* loss,
            M* scale) {
  double sum = 0;
  int64_t num_valid = 0;
  for (int64_t i = 0; i < rows; ++i) {
    sum += losses[i];
    num_valid += target[i] != ignore_index;
  }
  const double factor = reduction == Reduction::kMean ? 1.0 / double(num_valid) : 1.0;
  *scale = M(factor);
  if (reduction != Reduction::kNone) *loss = M(reduction == Reduction::kMean ? sum / double(num_valid) : sum);
}

template <typename T>
void backward(const Tensor& grad, const Tensor& logits, const int64_t* target, const Tensor& statistics,
              const Tensor& scale, double label_smoothing, int64_t ignore_index, const Tensor& gradient) {
  using M = math_t<T>;
  const Smoothing<M> smoothing = smoothing_of<M>(label_smoothing, logits.size(1));
  const auto loop = choose<GradientLoop<T>>();
  const T* from = static_cast<const T*>(logits.data_ptr());
  T* to = static_cast<T*>(gradient.data_ptr());
  const M* factors = static_cast<const M*>(grad.data_ptr());
  const M* stats = static_cast<const M*>(statistics.data_ptr());
  const M common = *static_cast<const M*>(scale.data_ptr());
  const int64_t num_classes = logits.size(1), from_stride = logits.stride(0), to_stride = gradient.stride(0);
  const int64_t grad_stride = grad.dim() == 0 ? 0 : 1;
  torch::stable::parallel_for(0, logits.size(0), rows_per_thread(num_classes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (target[i] == ignore_index) {
        std::fill_n(to + i * to_stride, num_classes, T{});
        continue;
      }
      loop(from + i * from_stride, to + i * to_stride, num_classes, target[i],
           row_gradient(factors[i * grad_stride] * common, stats[2 * i], stats[2 * i + 1], smoothing));
    }
  });
}

// Calls run(T{}) with the logits' element type.
template <typename Run>
void with_type_of(const Tensor& logits, Run run) {
  switch (logits.scalar_type()) {
    case ScalarType::Double: return run(double{});
    case ScalarType::BFloat16: return run(bfloat16{});
    case ScalarType::Half: return run(float16{});
    default: return run(float{});
  }
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy_cpu(Tensor logits, Tensor target, double label_smoothing,
                                                     int64_t ignore_index, int64_t reduction,
                                                     bool /*inplace_backward: autograd's*/) {
  check_cross_entropy(logits, target, label_smoothing, reduction);
  target = as_contiguous(target);
  check_targets(target, logits.size(1), ignore_index);
  logits = with_dense_rows(logits);
  const int64_t rows = logits.size(0);
  const int64_t* targets = static_cast<const int64_t*>(target.data_ptr());
  const ScalarType wide = loss_dtype(logits);
  Tensor losses = empty_beside(logits, {rows}, wide);
  Tensor statistics = empty_beside(logits, {rows, 2}, wide);
  Tensor scale = empty_beside(logits, {}, wide);
  Tensor loss = Reduction(reduction) == Reduction::kNone ? losses : empty_beside(logits, {}, wide);
  with_type_of(logits, [&](auto element) {
    using T = decltype(element);
    using M = math_t<T>;
    M* row_losses = static_cast<M*>(losses.data_ptr());
    forward<T>(logits, targets, label_smoothing, ignore_index, row_losses, static_cast<M*>(statistics.data_ptr()));
    reduce<M>(row_losses, targets, rows, ignore_index, Reduction(reduction), static_cast<M*>(loss.data_ptr()),
              static_cast<M*>(scale.data_ptr()));
  });
  return {loss, statistics, scale};
}

void write_gradient(const Tensor& grad, const Tensor& logits, Tensor target, const Tensor& statistics,
                    const Tensor& scale, double label_smoothing, int64_t ignore_index, const Tensor& gradient) {
  check_cross_entropy_backward(grad, logits, target, statistics, scale, label_smoothing);
  target = as_contiguous(target);
  const Tensor dense_grad = as_contiguous(grad), dense_statistics = as_contiguous(statistics);
  with_type_of(logits, [&](auto element) {
    backward<decltype(element)>(dense_grad, logits, static_cast<const int64_t*>(target.data_ptr()), dense_statistics,
                                scale, label_smoothing, ignore_index, gradient);
  });
}

Tensor cross_entropy_backward_cpu(Tensor grad, Tensor logits, Tensor target, Tensor statistics, Tensor scale,
                                  double label_smoothing, int64_t ignore_index) {
  const Tensor dense = with_dense_rows(logits);
  Tensor gradient = empty_beside(logits, logits.sizes());
  write_gradient(grad, dense, target, statistics, scale, label_smoothing, ignore_index, gradient);
  return gradient;
}

void cross_entropy_backward_in_place_cpu(Tensor logits, Tensor grad, Tensor target, Tensor statistics, Tensor scale,
                                         double label_smoothing, int64_t ignore_index) {
  const Tensor dense = with_dense_rows(logits);
  write_gradient(grad, dense, target, statistics, scale, label_smoothing, ignore_index, dense);
  if (dense.data_ptr() != logits.data_ptr()) torch::stable::copy_(logits, dense);
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("cross_entropy", TORCH_BOX(&airank_fast::cross_entropy_cpu));
  m.impl("cross_entropy_backward", TORCH_BOX(&airank_fast::cross_entropy_backward_cpu));
  m.impl("cross_entropy_backward_", TORCH_BOX(&airank_fast::cross_entropy_backward_in_place_cpu));
}
