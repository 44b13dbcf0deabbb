// layer_norm(dropout(x) + residual) on the CPU; formulas in dropout_math.h and layer_norm_math.h; parallel over rows.
//
// Bytes per 16-bit element: forward 8 (x and residual read, sum and y written), backward 8 (grad and sum read, grad_x
// and grad_residual written). The mask of the current rows is in L1, one byte per element.
#include <torch/csrc/stable/library.h>

#include <bit>
#include <tuple>

#include "../dropout_add_layer_norm_args.h"
#include "../dropout_math.h"
#include "layer_norm_rows.h"

namespace airank_fast {
namespace {

// Bytes for the mask of a row, which may begin and end inside a counter's four elements.
int64_t mask_words(int64_t columns) { return columns / 4 + 2; }

template <typename T>
struct Mask {
  Philox philox;
  Dropout<T> dropout;

  // Writes a 1 for each element that is kept; returns where the row's first is.
  HOST_DEVICE const uint8_t* row(int64_t first, int64_t columns, uint32_t* words) const {
    static_assert(std::endian::native == std::endian::little, "byte k of a word is element k");
    const uint64_t counter = uint64_t(first) / 4;
    const int64_t num_words = (first % 4 + columns + 3) / 4;
    if (dropout.any()) {
      for (int64_t i = 0; i < num_words; ++i) {
        const Philox::Words random = philox(counter + uint64_t(i));
        words[i] = uint32_t(dropout.keeps(random.at[0])) | uint32_t(dropout.keeps(random.at[1])) << 8 |
                   uint32_t(dropout.keeps(random.at[2])) << 16 | uint32_t(dropout.keeps(random.at[3])) << 24;
      }
    } else {
      for (int64_t i = 0; i < num_words; ++i) words[i] = 0x01010101u;
    }
    return reinterpret_cast<const uint8_t*>(words) + first % 4;
  }
};

template <typename R, typename X>
struct ForwardLoop {
  using T = math_t<X>;
  using Signature = void(const X*, const R*, const T*, const T*, R*, X*, T*, T*, uint32_t*, int64_t, int64_t, int64_t,
                         double, Mask<T>);

  HOST_DEVICE static void sum_row(const X* __restrict x, const R* __restrict residual, const uint8_t* __restrict kept,
                                  T scale, int64_t columns, R* __restrict sum) {
#pragma GCC ivdep
    for (int64_t j = 0; j < columns; ++j)
      store(&sum[j], load(x[j]) * (T(int32_t(kept[j])) * scale) + load(residual[j]));
  }

  HOST_DEVICE static void run(const X* x, const R* residual, const T* weight, const T* bias, R* sum, X* y, T* mean,
                              T* rstd, uint32_t* words, int64_t begin, int64_t end, int64_t columns, double eps,
                              Mask<T> mask) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * columns;
      const uint8_t* kept = mask.row(first, columns, words);
      sum_row(x + first, residual + first, kept, mask.dropout.scale, columns, sum + first);
      const Moments<T> moments = moments_of(sum + first, columns, eps);
      normalize_row(sum + first, moments, weight, bias, columns, y + first, x + first + columns);
      mean[i] = moments.mean;
      rstd[i] = moments.rstd;
    }
  }
};

template <typename R, typename X>
struct BackwardLoop {
  using T = math_t<X>;
  using Signature = void(const X*, const R*, const R*, const T*, const T*, const T*, X*, R*, T*, T*, uint32_t*,
                         int64_t, int64_t, int64_t, Mask<T>);

  // The gradient of the returned sum: rows too, or one row of zeros (grad_sum_stride 0).
  template <int kRows>
  HOST_DEVICE static void rows(const X* __restrict grad, const R* __restrict grad_sum, int64_t grad_sum_stride,
                               const R* __restrict sum, const T* mean, const T* rstd, const T* __restrict weight,
                               const uint8_t* const (&kept)[kRows], T scale, X* __restrict grad_x,
                               R* __restrict grad_residual, T* __restrict weight_sums, T* __restrict bias_sums,
                               int64_t columns) {
    Moments<T> moments[kRows];
    RowMeans<T> means[kRows];
    for (int r = 0; r < kRows; ++r) {
      moments[r] = {mean[r], rstd[r]};
      means[r] = grad_means_of(grad + r * columns, sum + r * columns, moments[r], weight, columns, kRows * columns);
    }
#pragma GCC ivdep
    for (int64_t j = 0; j < columns; ++j) {
      T weight_sum = 0, bias_sum = 0;
#pragma GCC unroll 2
      for (int r = 0; r < kRows; ++r) {
        const int64_t at = r * columns + j;
        const T dy = load(grad[at]);
        const T h = normalized(T(load(sum[at])), moments[r]);
        weight_sum += dy * h;
        bias_sum += dy;
        const T grad_total = layer_norm_grad(dy * weight[j], h, means[r].g, means[r].gh, moments[r].rstd) +
                             load(grad_sum[r * grad_sum_stride + j]);
        store(&grad_residual[at], grad_total);
        store(&grad_x[at], grad_total * (T(int32_t(kept[r][j])) * scale));
      }
      weight_sums[j] += weight_sum;
      bias_sums[j] += bias_sum;
    }
  }

  HOST_DEVICE static void run(const X* grad, const R* grad_sum, const R* sum, const T* mean, const T* rstd,
                              const T* weight, X* grad_x, R* grad_residual, T* weight_sums, T* bias_sums,
                              uint32_t* words, int64_t begin, int64_t end, int64_t columns, Mask<T> mask) {
    const int64_t num_words = columns / 4 + 2;
    const int64_t stride = grad_sum == nullptr ? 0 : columns;
    const R* zeros = reinterpret_cast<const R*>(words + 2 * num_words);
    const auto walk = [&]<int kRows>(int64_t i) __attribute__((always_inline)) {
      const int64_t first = i * columns;
      const uint8_t* kept[kRows];
      for (int r = 0; r < kRows; ++r) kept[r] = mask.row(first + r * columns, columns, words + r * num_words);
      rows<kRows>(grad + first, grad_sum == nullptr ? zeros : grad_sum + first, stride, sum + first, mean + i, rstd + i,
                  weight, kept, mask.dropout.scale, grad_x + first, grad_residual + first, weight_sums, bias_sums,
                  columns);
    };
    int64_t i = begin;
    for (; i + 2 <= end; i += 2) walk.template operator()<2>(i);
    if (i < end) walk.template operator()<1>(i);
  }
};

template <typename T>
Mask<T> mask_of(const OptionalTensor& seed, double p) {
  Mask<T> mask{{0, 0}, dropout_of<T>(p)};
  if (seed) {
    const Tensor dense = as_contiguous(*seed);
    const auto* numbers = static_cast<const int64_t*>(dense.data_ptr());
    mask.philox = {uint64_t(numbers[0]), uint64_t(numbers[1])};
  }
  return mask;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> dropout_add_layer_norm_cpu(Tensor x, Tensor residual, OptionalTensor weight,
                                                                      OptionalTensor bias, OptionalTensor seed,
                                                                      double p, int64_t num_dims, double eps) {
  const RowShape shape = check_dropout_add_layer_norm(x, residual, weight, bias, seed, p, num_dims);
  const Tensor dense = as_contiguous(x), dense_residual = as_contiguous(residual);
  const ScalarType math = math_dtype(x.scalar_type());
  Tensor y = empty_beside(x, x.sizes()), sum = empty_beside(residual, x.sizes());
  Tensor mean = empty_beside(x, shape.leading, math);
  Tensor rstd = empty_beside(x, shape.leading, math);
  for_dtypes(residual.scalar_type(), x.scalar_type(), [&]<typename R, typename X>() {
    using T = math_t<X>;
    const auto loop = choose<ForwardLoop<R, X>>();
    const std::vector<T> weights = params_of<R, X>(weight, shape.columns, T(1));
    const std::vector<T> biases = params_of<R, X>(bias, shape.columns, T(0));
    const Mask<T> mask = mask_of<T>(seed, p);
    const int64_t grain = std::max<int64_t>(1, kGrainElements / std::max<int64_t>(shape.columns, 1));
    torch::stable::parallel_for(0, shape.rows, grain, [&](int64_t begin, int64_t end) {
      std::vector<uint32_t> words(mask_words(shape.columns));
      loop(static_cast<const X*>(dense.data_ptr()), static_cast<const R*>(dense_residual.data_ptr()), weights.data(),
           biases.data(), static_cast<R*>(sum.data_ptr()), static_cast<X*>(y.data_ptr()),
           static_cast<T*>(mean.data_ptr()), static_cast<T*>(rstd.data_ptr()), words.data(), begin, end, shape.columns,
           eps, mask);
    });
  });
  return {y, sum, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> dropout_add_layer_norm_backward_cpu(
    Tensor grad, OptionalTensor grad_sum, Tensor sum, Tensor mean, Tensor rstd, OptionalTensor weight,
    OptionalTensor seed, double p, int64_t num_dims, bool need_params) {
  const RowShape shape =
      check_dropout_add_layer_norm_backward(grad, grad_sum, sum, mean, rstd, weight, seed, p, num_dims);
  const Tensor dense_grad = as_contiguous(grad), dense_sum = as_contiguous(sum);
  const Tensor means = as_contiguous(mean), rstds = as_contiguous(rstd);
  OptionalTensor dense_grad_sum;
  if (grad_sum) dense_grad_sum = as_contiguous(*grad_sum);
  Tensor grad_x = empty_beside(grad, grad.sizes());
  Tensor grad_residual = empty_beside(sum, grad.sizes());
  auto [grad_weight, grad_bias] = empty_param_grads(grad, weight, shape, need_params);
  for_dtypes(sum.scalar_type(), grad.scalar_type(), [&]<typename R, typename X>() {
    using T = math_t<X>;
    const auto loop = choose<BackwardLoop<R, X>>();
    const std::vector<T> weights = param_of<T>(weight, shape.columns, 1);
    const Mask<T> mask = mask_of<T>(seed, p);
    const R* grad_sums = dense_grad_sum ? static_cast<const R*>(dense_grad_sum->data_ptr()) : nullptr;
    ParamGrads<T> sums(shape.rows, shape.columns);
    sums.for_each_slot([&](int64_t begin, int64_t end, T* weight_sums, T* bias_sums) {
      // Two rows of mask, and a row of zeros in place of grad_sum; of 8 bytes, for the alignment of double.
      std::vector<uint64_t> scratch(mask_words(shape.columns) + (shape.columns * sizeof(R) + 7) / 8);
      loop(static_cast<const X*>(dense_grad.data_ptr()), grad_sums, static_cast<const R*>(dense_sum.data_ptr()),
           static_cast<const T*>(means.data_ptr()), static_cast<const T*>(rstds.data_ptr()), weights.data(),
           static_cast<X*>(grad_x.data_ptr()), static_cast<R*>(grad_residual.data_ptr()), weight_sums, bias_sums,
           reinterpret_cast<uint32_t*>(scratch.data()), begin, end, shape.columns, mask);
    });
    if (need_params) sums.write(grad_weight, grad_bias);
  });
  return {grad_x, grad_residual, grad_weight, grad_bias};
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("dropout_add_layer_norm", TORCH_BOX(&airank_fast::dropout_add_layer_norm_cpu));
  m.impl("dropout_add_layer_norm_backward", TORCH_BOX(&airank_fast::dropout_add_layer_norm_backward_cpu));
}
