// Layer normalisation on the CPU, formula in layer_norm_math.h; parallel over rows.
//
// Bytes per element of a 16-bit x: forward 4 (x read, y written), backward 6 (x and grad read, grad_x written); the
// statistics, the parameters and their gradients add a few per row or column.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "layer_norm_rows.h"

namespace airank_fast {
namespace {

#ifdef AIRANK_FAST_X86_VARIANTS
// ForwardLoop::run() of kRows rows by lines. Several rows at a time where they are in a cache, so that the last
// additions, root and division of one overlap with reading another. Later rows are prefetched during the sums, when
// memory would be idle; results are stored during the third pass.
template <int kRows, int kAhead, typename E>
TARGET_AVX512_BF16 void forward_lines(const E* x, const float* weight, const float* bias, E* y, float* mean,
                                      float* rstd, int64_t columns, double eps, bool past_cache) {
  const PerColumn<E> per_column(columns);
  const int64_t ahead = kAhead * columns;
  __m512 means[kRows], rstds[kRows];
  for (int r = 0; r < kRows; ++r) {
    const E* row = x + r * columns;
    Line low = zeros(), high = zeros();
    for (int64_t j = 0; j < columns; j += 2 * kLineNumbers) {
      ask_for(row + ahead + j);
      low = low + line_at(row + j);
      high = high + line_at(row + j + kLineNumbers);
    }
    mean[r] = sum_of(low + high) / float(columns);
    means[r] = every(mean[r]);
  }
  for (int r = 0; r < kRows; ++r) {
    const E* row = x + r * columns;
    Line low = zeros(), high = zeros();
    for (int64_t j = 0; j < columns; j += 2 * kLineNumbers) {
      ask_for(row + ahead + j + kLineNumbers);
      const Line first = line_at(row + j) - means[r], second = line_at(row + j + kLineNumbers) - means[r];
      low = fma(first, first, low);
      high = fma(second, second, high);
    }
    rstd[r] = rstd_of(sum_of(low + high), double(columns), eps);
    rstds[r] = every(rstd[r]);
  }
  for (int64_t j = 0; j < columns; j += kLineNumbers) {
    const Line weights = per_column.at(weight, j), biases = per_column.at(bias, j);
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = r * columns + j;
      store_line(y + at, fma((line_at(x + at) - means[r]) * rstds[r], weights, biases), past_cache);
    }
  }
}
#endif

template <typename X, typename Y>
struct ForwardLoop {
  using T = math_t<X>;
  using Signature = void(const X*, const T*, const T*, Y*, Y*, T*, T*, int64_t, int64_t, int64_t, double);

  // With a row's worth of `scratch`, results are stored past the cache.
  HOST_DEVICE static void run(const X* x, const T* weight, const T* bias, Y* y, Y* scratch, T* mean, T* rstd,
                              int64_t begin, int64_t end, int64_t columns, double eps) {
    int64_t i = begin;
#ifdef AIRANK_FAST_X86_VARIANTS
    if constexpr (std::is_same_v<X, Y> && kHasLines<X>) {
      const auto walk = [&]<int kRows, int kAhead>() {
        for (; i + kRows <= end; i += kRows)
          forward_lines<kRows, kAhead>(x + i * columns, weight, bias, y + i * columns, mean + i, rstd + i, columns, eps,
                                       scratch != nullptr);
      };
      if (rows_in_lines<X, Y>(columns)) {
        if (!scratch) walk.template operator()<4, 4>();
        walk.template operator()<1, 2>();
      }
    }
#endif
    for (; i < end; ++i) {
      const Moments<T> moments = moments_of(x + i * columns, columns, eps);
      normalize_row(x + i * columns, moments, weight, bias, columns, y + i * columns, x + (i + 1) * columns, scratch);
      mean[i] = moments.mean;
      rstd[i] = moments.rstd;
    }
    if (scratch) stream_end();
  }
};

#ifdef AIRANK_FAST_X86_VARIANTS
// BackwardLoop::rows() by lines.
template <int kRows, typename E>
TARGET_AVX512_BF16 void backward_lines(const E* grad, const E* x, const float* mean, const float* rstd,
                                       const float* weight, E* grad_x, float* weight_sums, float* bias_sums,
                                       int64_t columns, bool past_cache) {
  const PerColumn<E> per_column(columns);
  const int64_t ahead = std::max<int64_t>(kRows, 8192 / int64_t(columns * sizeof(E))) * columns;
  __m512 means[kRows], rstds[kRows], means_g[kRows], means_gh[kRows];
  for (int r = 0; r < kRows; ++r) {
    const E *dy = grad + r * columns, *row = x + r * columns;
    means[r] = every(mean[r]);
    rstds[r] = every(rstd[r]);
    Line sums_g = zeros(), sums_gh = zeros();
    for (int64_t j = 0; j < columns; j += kLineNumbers) {
      ask_for(dy + ahead + j);
      ask_for(row + ahead + j);
      const Line g = line_at(dy + j) * per_column.at(weight, j);
      sums_g = sums_g + g;
      sums_gh = fma(g, (line_at(row + j) - means[r]) * rstds[r], sums_gh);
    }
    means_g[r] = every(sum_of(sums_g) / float(columns));
    means_gh[r] = every(sum_of(sums_gh) / float(columns));
  }
  for (int64_t j = 0; j < columns; j += kLineNumbers) {
    const Line weights = per_column.at(weight, j);
    Line weight_sum = per_column.at(weight_sums, j), bias_sum = per_column.at(bias_sums, j);
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = r * columns + j;
      const Line dy = line_at(grad + at), h = (line_at(x + at) - means[r]) * rstds[r];
      weight_sum = fma(dy, h, weight_sum);
      bias_sum = dy + bias_sum;
      const Line g = fnma(h, means_gh[r], dy * weights - means_g[r]);
      store_line(grad_x + at, g * rstds[r], past_cache);
    }
    per_column.set(weight_sums, j, weight_sum);
    per_column.set(bias_sums, j, bias_sum);
  }
}
#endif

template <typename X, typename Y>
struct BackwardLoop {
  using T = math_t<X>;
  using Signature = void(const Y*, const X*, const T*, const T*, const T*, X*, X*, T*, T*, int64_t, int64_t, int64_t);
  // Rows at a time, so that the sums over rows are loaded and stored once for all of them. Rows of 1024 floats are 4 KB
  // apart, in the same sets of L1, where more of them would evict one another.
  static constexpr int kRows = sizeof(X) == 2 ? 4 : 1;

  template <int kRows>
  HOST_DEVICE static void rows(const Y* __restrict grad, const X* __restrict x, const T* mean, const T* rstd,
                               const T* __restrict weight, X* result, X* scratch, T* __restrict weight_sums,
                               T* __restrict bias_sums, int64_t columns) {
    X* __restrict grad_x = scratch ? scratch : result;
    Moments<T> moments[kRows];
    RowMeans<T> means[kRows];
    for (int r = 0; r < kRows; ++r) {
      moments[r] = {mean[r], rstd[r]};
      means[r] = grad_means_of(grad + r * columns, x + r * columns, moments[r], weight, columns, 2 * kRows * columns);
    }
#pragma GCC ivdep
    for (int64_t j = 0; j < columns; ++j) {
      T weight_sum = 0, bias_sum = 0;
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const T dy = load(grad[r * columns + j]);
        const T h = normalized(T(load(x[r * columns + j])), moments[r]);
        weight_sum += dy * h;
        bias_sum += dy;
        store(&grad_x[r * columns + j],
              layer_norm_grad(dy * weight[j], h, means[r].g, means[r].gh, moments[r].rstd));
      }
      weight_sums[j] += weight_sum;
      bias_sums[j] += bias_sum;
    }
    if (scratch) stream(result, scratch, kRows * columns * sizeof(X));
  }

  // With `scratch` for kRows rows, grad_x is stored past the cache.
  HOST_DEVICE static void run(const Y* grad, const X* x, const T* mean, const T* rstd, const T* weight, X* grad_x,
                              X* scratch, T* weight_sums, T* bias_sums, int64_t begin, int64_t end, int64_t columns) {
    int64_t i = begin;
#ifdef AIRANK_FAST_X86_VARIANTS
    if constexpr (std::is_same_v<X, Y> && kHasLines<X>) {
      const auto walk = [&]<int kRows>() {
        for (; i + kRows <= end; i += kRows)
          backward_lines<kRows>(grad + i * columns, x + i * columns, mean + i, rstd + i, weight, grad_x + i * columns,
                                weight_sums, bias_sums, columns, scratch != nullptr);
      };
      if (rows_in_lines<X, Y>(columns)) {
        walk.template operator()<kRows>();
        walk.template operator()<1>();
      }
    }
#endif
    for (; i + kRows <= end; i += kRows)
      rows<kRows>(grad + i * columns, x + i * columns, mean + i, rstd + i, weight, grad_x + i * columns, scratch,
                  weight_sums, bias_sums, columns);
    for (; i < end; ++i)
      rows<1>(grad + i * columns, x + i * columns, mean + i, rstd + i, weight, grad_x + i * columns, scratch,
              weight_sums, bias_sums, columns);
    if (scratch) stream_end();
  }
};

std::tuple<Tensor, Tensor, Tensor> layer_norm_cpu(Tensor x, OptionalTensor weight, OptionalTensor bias,
                                                  int64_t num_dims, double eps, std::optional<ScalarType> dtype) {
  const char* op = "layer_norm";
  const RowShape shape = check_rows(op, x, num_dims);
  check_params(op, x, weight, bias, shape);
  const ScalarType result = dtype.value_or(x.scalar_type());
  check_result_dtype(op, x.scalar_type(), result);

  const Tensor dense = as_contiguous(x);
  Tensor y = empty_beside(x, x.sizes(), result);
  Tensor mean = empty_beside(x, shape.leading, math_dtype(x.scalar_type()));
  Tensor rstd = empty_beside(x, shape.leading, math_dtype(x.scalar_type()));
  for_dtypes(x.scalar_type(), result, [&]<typename X, typename Y>() {
    using T = math_t<X>;
    const auto loop = choose<ForwardLoop<X, Y>>();
    const std::vector<T> weights = params_of<X, Y>(weight, shape.columns, T(1));
    const std::vector<T> biases = params_of<X, Y>(bias, shape.columns, T(0));
    const int64_t grain = std::max<int64_t>(1, kGrainElements / std::max<int64_t>(shape.columns, 1));
    const bool past_cache = streams(y.data_ptr(), shape.rows, shape.columns * sizeof(Y));
    torch::stable::parallel_for(0, shape.rows, grain, [&](int64_t begin, int64_t end) {
      Scratch<Y> scratch(past_cache ? shape.columns : 0);
      loop(static_cast<const X*>(dense.data_ptr()), weights.data(), biases.data(), static_cast<Y*>(y.data_ptr()),
           scratch.data(), static_cast<T*>(mean.data_ptr()), static_cast<T*>(rstd.data_ptr()), begin, end, shape.columns, eps);
    });
  });
  return {y, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> layer_norm_backward_cpu(Tensor grad, Tensor x, Tensor mean, Tensor rstd,
                                                           OptionalTensor weight, int64_t num_dims, bool need_params) {
  const RowShape shape = check_rows("layer_norm", x, num_dims);
  check_layer_norm_backward(grad, x, mean, rstd, weight, shape);
  const Tensor dense = as_contiguous(x), dense_grad = as_contiguous(grad);
  const Tensor means = as_contiguous(mean), rstds = as_contiguous(rstd);
  Tensor grad_x = empty_beside(x, x.sizes());
  auto [grad_weight, grad_bias] = empty_param_grads(x, weight, shape, need_params);
  for_dtypes(x.scalar_type(), grad.scalar_type(), [&]<typename X, typename Y>() {
    using T = math_t<X>;
    const auto loop = choose<BackwardLoop<X, Y>>();
    const bool evens_first = kInPairs<X, Y> && rows_in_lines<X, Y>(shape.columns);
    const std::vector<T> weights =
        evens_first ? params_of<X, Y>(weight, shape.columns, T(1)) : param_of<T>(weight, shape.columns, 1);
    const bool past_cache = streams(grad_x.data_ptr(), shape.rows, shape.columns * sizeof(X));
    ParamGrads<T> sums(shape.rows, shape.columns, evens_first);
    sums.for_each_slot([&](int64_t begin, int64_t end, T* weight_sums, T* bias_sums) {
      Scratch<X> scratch(past_cache ? BackwardLoop<X, Y>::kRows * shape.columns : 0);
      loop(static_cast<const Y*>(dense_grad.data_ptr()), static_cast<const X*>(dense.data_ptr()),
           static_cast<const T*>(means.data_ptr()), static_cast<const T*>(rstds.data_ptr()), weights.data(),
           static_cast<X*>(grad_x.data_ptr()), scratch.data(), weight_sums, bias_sums, begin, end, shape.columns);
    });
    if (need_params) sums.write(grad_weight, grad_bias);
  });
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("layer_norm", TORCH_BOX(&airank_fast::layer_norm_cpu));
  m.impl("layer_norm_backward", TORCH_BOX(&airank_fast::layer_norm_backward_cpu));
}
