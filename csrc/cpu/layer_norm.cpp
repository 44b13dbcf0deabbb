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
// ForwardLoop::run() of kRows rows of bfloat16 in whole groups of kLanes, on a processor that rounds pairs. Several rows
// at a time, so that one's last additions, root and division run while another's elements are read. The next ones are
// asked for during the sums, when memory would rest; results are stored during the third pass.
template <int kRows, int kAhead>
TARGET_AVX512_BF16 void forward_pairs(const bfloat16* x, const float* weight, const float* bias, bfloat16* y,
                                      float* mean, float* rstd, int64_t columns, double eps, bool past_cache) {
  const int64_t odd = columns / 2;
  __m512 means[kRows], rstds[kRows];
  for (int r = 0; r < kRows; ++r) {
    __m512 sums[4] = {};
    for (int64_t j = 0; j < columns; j += 64) {
      prefetch<32>(x + (kAhead + r) * columns + j);
      const __m512i low = _mm512_loadu_si512(x + r * columns + j), high = _mm512_loadu_si512(x + r * columns + j + 32);
      sums[0] = _mm512_add_ps(sums[0], evens_of(low));
      sums[1] = _mm512_add_ps(sums[1], odds_of(low));
      sums[2] = _mm512_add_ps(sums[2], evens_of(high));
      sums[3] = _mm512_add_ps(sums[3], odds_of(high));
    }
    mean[r] = sum_of(sums) / float(columns);
    means[r] = _mm512_set1_ps(mean[r]);
  }
  for (int r = 0; r < kRows; ++r) {
    __m512 sums[4] = {};
    for (int64_t j = 0; j < columns; j += 64) {
      prefetch<32>(x + (kAhead + r) * columns + j + 32);
      const __m512i low = _mm512_loadu_si512(x + r * columns + j), high = _mm512_loadu_si512(x + r * columns + j + 32);
      const __m512 centred[4] = {_mm512_sub_ps(evens_of(low), means[r]), _mm512_sub_ps(odds_of(low), means[r]),
                                 _mm512_sub_ps(evens_of(high), means[r]), _mm512_sub_ps(odds_of(high), means[r])};
      for (int k = 0; k < 4; ++k) sums[k] = _mm512_fmadd_ps(centred[k], centred[k], sums[k]);
    }
    rstd[r] = rstd_of(sum_of(sums), double(columns), eps);
    rstds[r] = _mm512_set1_ps(rstd[r]);
  }
  for (int64_t l = 0; l < odd; l += 16) {
    const __m512 even_weight = _mm512_loadu_ps(weight + l), odd_weight = _mm512_loadu_ps(weight + odd + l);
    const __m512 even_bias = _mm512_loadu_ps(bias + l), odd_bias = _mm512_loadu_ps(bias + odd + l);
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = r * columns + 2 * l;
      const __m512i row = _mm512_loadu_si512(x + at);
      const __m512 even_h = _mm512_mul_ps(_mm512_sub_ps(evens_of(row), means[r]), rstds[r]);
      const __m512 odd_h = _mm512_mul_ps(_mm512_sub_ps(odds_of(row), means[r]), rstds[r]);
      store_pairs(y + at, round_pairs(_mm512_fmadd_ps(even_h, even_weight, even_bias),
                                      _mm512_fmadd_ps(odd_h, odd_weight, odd_bias)), past_cache);
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
    if constexpr (kInPairs<X, Y>) {
      const auto walk = [&]<int kRows, int kAhead>() {
        for (; i + kRows <= end; i += kRows)
          forward_pairs<kRows, kAhead>(x + i * columns, weight, bias, y + i * columns, mean + i, rstd + i, columns, eps,
                                       scratch != nullptr);
      };
      if (walks_pairs<X, Y>(columns)) {
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
// BackwardLoop::rows() of bfloat16 on a processor that rounds pairs: kRows rows of whole groups of kLanes columns.
// Weight and the sums over rows have the even columns first.
template <int kRows>
TARGET_AVX512_BF16 void backward_pairs(const bfloat16* grad, const bfloat16* x, const float* mean, const float* rstd,
                                       const float* weight, bfloat16* grad_x, float* weight_sums, float* bias_sums,
                                       int64_t columns, bool past_cache) {
  const int64_t odd = columns / 2;
  __m512 means[kRows], rstds[kRows], means_g[kRows], means_gh[kRows];
  for (int r = 0; r < kRows; ++r) {
    means[r] = _mm512_set1_ps(mean[r]);
    rstds[r] = _mm512_set1_ps(rstd[r]);
    __m512 sums_g[2] = {}, sums_gh[2] = {};
    for (int64_t l = 0; l < odd; l += 16) {
      prefetch<32>(grad + (kRows + r) * columns + 2 * l);
      prefetch<32>(x + (kRows + r) * columns + 2 * l);
      const __m512i dy = _mm512_loadu_si512(grad + r * columns + 2 * l);
      const __m512i row = _mm512_loadu_si512(x + r * columns + 2 * l);
      const __m512 even_g = _mm512_mul_ps(evens_of(dy), _mm512_loadu_ps(weight + l));
      const __m512 odd_g = _mm512_mul_ps(odds_of(dy), _mm512_loadu_ps(weight + odd + l));
      sums_g[0] = _mm512_add_ps(sums_g[0], even_g);
      sums_g[1] = _mm512_add_ps(sums_g[1], odd_g);
      const __m512 even_h = _mm512_mul_ps(_mm512_sub_ps(evens_of(row), means[r]), rstds[r]);
      const __m512 odd_h = _mm512_mul_ps(_mm512_sub_ps(odds_of(row), means[r]), rstds[r]);
      sums_gh[0] = _mm512_fmadd_ps(even_g, even_h, sums_gh[0]);
      sums_gh[1] = _mm512_fmadd_ps(odd_g, odd_h, sums_gh[1]);
    }
    means_g[r] = _mm512_set1_ps(_mm512_reduce_add_ps(_mm512_add_ps(sums_g[0], sums_g[1])) / float(columns));
    means_gh[r] = _mm512_set1_ps(_mm512_reduce_add_ps(_mm512_add_ps(sums_gh[0], sums_gh[1])) / float(columns));
  }
  for (int64_t l = 0; l < odd; l += 16) {
    const __m512 even_weight = _mm512_loadu_ps(weight + l), odd_weight = _mm512_loadu_ps(weight + odd + l);
    __m512 even_weight_sum = _mm512_loadu_ps(weight_sums + l), odd_weight_sum = _mm512_loadu_ps(weight_sums + odd + l);
    __m512 even_bias_sum = _mm512_loadu_ps(bias_sums + l), odd_bias_sum = _mm512_loadu_ps(bias_sums + odd + l);
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = r * columns + 2 * l;
      const __m512i dy = _mm512_loadu_si512(grad + at), row = _mm512_loadu_si512(x + at);
      const __m512 even_dy = evens_of(dy), odd_dy = odds_of(dy);
      const __m512 even_h = _mm512_mul_ps(_mm512_sub_ps(evens_of(row), means[r]), rstds[r]);
      const __m512 odd_h = _mm512_mul_ps(_mm512_sub_ps(odds_of(row), means[r]), rstds[r]);
      even_weight_sum = _mm512_fmadd_ps(even_dy, even_h, even_weight_sum);
      odd_weight_sum = _mm512_fmadd_ps(odd_dy, odd_h, odd_weight_sum);
      even_bias_sum = _mm512_add_ps(even_dy, even_bias_sum);
      odd_bias_sum = _mm512_add_ps(odd_dy, odd_bias_sum);
      const __m512 even_g = _mm512_fnmadd_ps(even_h, means_gh[r], _mm512_fmsub_ps(even_dy, even_weight, means_g[r]));
      const __m512 odd_g = _mm512_fnmadd_ps(odd_h, means_gh[r], _mm512_fmsub_ps(odd_dy, odd_weight, means_g[r]));
      store_pairs(grad_x + at, round_pairs(_mm512_mul_ps(even_g, rstds[r]), _mm512_mul_ps(odd_g, rstds[r])), past_cache);
    }
    _mm512_storeu_ps(weight_sums + l, even_weight_sum);
    _mm512_storeu_ps(weight_sums + odd + l, odd_weight_sum);
    _mm512_storeu_ps(bias_sums + l, even_bias_sum);
    _mm512_storeu_ps(bias_sums + odd + l, odd_bias_sum);
  }
}
#endif

template <typename X, typename Y>
struct BackwardLoop {
  using T = math_t<X>;
  using Signature = void(const Y*, const X*, const T*, const T*, const T*, X*, X*, T*, T*, int64_t, int64_t, int64_t);
  // Rows at a time, so that the sums over rows are loaded and stored once for all of them. Rows of 1024 floats lie 4 KB
  // apart, in the same sets of L1, where more of them would push one another out.
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
    if constexpr (kInPairs<X, Y>) {
      if (walks_pairs<X, Y>(columns)) {
        const auto walk = [&]<int kRows>(int64_t i) {
          backward_pairs<kRows>(grad + i * columns, x + i * columns, mean + i, rstd + i, weight, grad_x + i * columns,
                                weight_sums, bias_sums, columns, scratch != nullptr);
        };
        for (; i + 4 <= end; i += 4) walk.template operator()<4>(i);
        for (; i < end; ++i) walk.template operator()<1>(i);
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
    const bool evens_first = walks_pairs<X, Y>(shape.columns);
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
