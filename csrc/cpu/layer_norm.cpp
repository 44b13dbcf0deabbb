// Layer normalisation on the CPU, formula in layer_norm_math.h; parallel over rows.
//
// Bytes per element of a 16-bit x: forward 4 (x read, y written), backward 6 (x and grad read, grad_x written); the
// statistics, the parameters and their gradients add a few per row or column.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "layer_norm_rows.h"

namespace airank_fast {
namespace {

template <typename X, typename Y>
struct ForwardLoop {
  using T = math_t<X>;
  using Signature = void(const X*, const T*, const T*, Y*, T*, T*, int64_t, int64_t, int64_t, double);

  HOST_DEVICE static void run(const X* x, const T* weight, const T* bias, Y* y, T* mean, T* rstd, int64_t begin,
                              int64_t end, int64_t columns, double eps) {
    for (int64_t i = begin; i < end; ++i) {
      const Moments<T> moments = moments_of(x + i * columns, columns, eps);
      normalize_row(x + i * columns, moments, weight, bias, columns, y + i * columns, x + (i + 1) * columns);
      mean[i] = moments.mean;
      rstd[i] = moments.rstd;
    }
  }
};

template <typename X, typename Y>
struct BackwardLoop {
  using T = math_t<X>;
  using Signature = void(const Y*, const X*, const T*, const T*, const T*, X*, T*, T*, int64_t, int64_t, int64_t);

  // kRows rows at a time, so that the sums over rows are loaded and stored once for all of them.
  template <int kRows>
  HOST_DEVICE static void rows(const Y* __restrict grad, const X* __restrict x, const T* mean, const T* rstd,
                               const T* __restrict weight, X* __restrict grad_x, T* __restrict weight_sums,
                               T* __restrict bias_sums, int64_t columns) {
    Moments<T> moments[kRows];
    RowMeans<T> means[kRows];
    for (int r = 0; r < kRows; ++r) {
      moments[r] = {mean[r], rstd[r]};
      means[r] = grad_means_of(grad + r * columns, x + r * columns, moments[r], weight, columns);
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
  }

  HOST_DEVICE static void run(const Y* grad, const X* x, const T* mean, const T* rstd, const T* weight, X* grad_x,
                              T* weight_sums, T* bias_sums, int64_t begin, int64_t end, int64_t columns) {
    // Rows of 1024 floats lie 4 KB apart, in the same sets of L1: more of them would push one another out.
    constexpr int kRows = sizeof(X) == 2 ? 4 : 2;
    int64_t i = begin;
    for (; i + kRows <= end; i += kRows)
      rows<kRows>(grad + i * columns, x + i * columns, mean + i, rstd + i, weight, grad_x + i * columns, weight_sums,
              bias_sums, columns);
    for (; i < end; ++i)
      rows<1>(grad + i * columns, x + i * columns, mean + i, rstd + i, weight, grad_x + i * columns, weight_sums,
              bias_sums, columns);
  }
};

std::tuple<Tensor, Tensor, Tensor> layer_norm_cpu(Tensor x, OptionalTensor weight, OptionalTensor bias,
                                                  int64_t num_dims, double eps, std::optional<ScalarType> dtype) {
  const char* op = "layer_norm";
  const RowShape shape = check_rows(op, x, num_dims);
  check_params(op, x, weight, bias, shape);
  const ScalarType result = dtype.value_or(x.scalar_type());
  check_result_dtype(op, x.scalar_type(), result);

  const Tensor dense = torch::stable::contiguous(x);
  Tensor y = torch::stable::new_empty(x, sizes_of(x), result);
  Tensor mean = torch::stable::new_empty(x, shape.leading, math_dtype(x.scalar_type()));
  Tensor rstd = torch::stable::new_empty(x, shape.leading, math_dtype(x.scalar_type()));
  for_dtypes(x.scalar_type(), result, [&]<typename X, typename Y>() {
    using T = math_t<X>;
    const auto loop = choose<ForwardLoop<X, Y>>();
    const std::vector<T> weights = params_of<X, Y>(weight, shape.columns, T(1));
    const std::vector<T> biases = params_of<X, Y>(bias, shape.columns, T(0));
    const int64_t grain = std::max<int64_t>(1, kGrainElements / std::max<int64_t>(shape.columns, 1));
    torch::stable::parallel_for(0, shape.rows, grain, [&](int64_t begin, int64_t end) {
      loop(static_cast<const X*>(dense.data_ptr()), weights.data(), biases.data(), static_cast<Y*>(y.data_ptr()),
           static_cast<T*>(mean.data_ptr()), static_cast<T*>(rstd.data_ptr()), begin, end, shape.columns, eps);
    });
  });
  return {y, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> layer_norm_backward_cpu(Tensor grad, Tensor x, Tensor mean, Tensor rstd,
                                                           OptionalTensor weight, int64_t num_dims, bool need_params) {
  const RowShape shape = check_rows("layer_norm", x, num_dims);
  check_layer_norm_backward(grad, x, mean, rstd, weight, shape);
  const Tensor dense = torch::stable::contiguous(x), dense_grad = torch::stable::contiguous(grad);
  const Tensor means = torch::stable::contiguous(mean), rstds = torch::stable::contiguous(rstd);
  Tensor grad_x = torch::stable::new_empty(x, sizes_of(x));
  auto [grad_weight, grad_bias] = empty_param_grads(x, weight, shape, need_params);
  for_dtypes(x.scalar_type(), grad.scalar_type(), [&]<typename X, typename Y>() {
    using T = math_t<X>;
    const auto loop = choose<BackwardLoop<X, Y>>();
    const std::vector<T> weights = param_of<T>(weight, shape.columns, 1);
    ParamGrads<T> sums(shape.rows, shape.columns);
    sums.for_each_slot([&](int64_t begin, int64_t end, T* weight_sums, T* bias_sums) {
      loop(static_cast<const Y*>(dense_grad.data_ptr()), static_cast<const X*>(dense.data_ptr()),
           static_cast<const T*>(means.data_ptr()), static_cast<const T*>(rstds.data_ptr()), weights.data(),
           static_cast<X*>(grad_x.data_ptr()), weight_sums, bias_sums, begin, end, shape.columns);
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
