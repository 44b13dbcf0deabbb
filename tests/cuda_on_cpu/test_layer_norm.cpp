// The launchers of layer_norm on tiny matrices: every dtype, packs and no packs, rows that share a warp's block, take
// several warps, and do not fit into registers; with parameters and without.
#include "cuda/layer_norm.h"
#include "cuda/layer_norm_grid.h"
#include "kernel_test.h"

namespace airank_fast {
namespace {

constexpr double kEps = 1e-3;

struct Expected {
  std::vector<double> y, mean, rstd, grad_x, grad_weight, grad_bias;
};

Expected expected(const std::vector<double>& x, const std::vector<double>& weight, const std::vector<double>& bias,
                  const std::vector<double>& grad, size_t rows, size_t columns) {
  Expected e{x, {}, {}, x, std::vector<double>(columns), std::vector<double>(columns)};
  const double n = double(columns);
  for (size_t i = 0; i < rows; ++i) {
    const double *row = &x[i * columns], *dy = &grad[i * columns];
    double mean = 0, square = 0, mean_g = 0, mean_gh = 0;
    for (size_t j = 0; j < columns; ++j) mean += row[j] / n;
    for (size_t j = 0; j < columns; ++j) square += (row[j] - mean) * (row[j] - mean) / n;
    const double rstd = 1 / std::sqrt(square + kEps);
    for (size_t j = 0; j < columns; ++j) {
      const double h = (row[j] - mean) * rstd;
      mean_g += dy[j] * weight[j] / n;
      mean_gh += dy[j] * weight[j] * h / n;
      e.y[i * columns + j] = h * weight[j] + bias[j];
      e.grad_weight[j] += dy[j] * h;
      e.grad_bias[j] += dy[j];
    }
    for (size_t j = 0; j < columns; ++j)
      e.grad_x[i * columns + j] = rstd * (dy[j] * weight[j] - mean_g - (row[j] - mean) * rstd * mean_gh);
    e.mean.push_back(mean), e.rstd.push_back(rstd);
  }
  return e;
}

template <typename X, typename Y, typename W>
void rows_of(size_t rows, size_t columns, bool with_params) {
  using T = math_t<X>;
  Array<X> x = Array<X>::random(rows * columns), grad_x(rows * columns);
  Array<Y> y(rows * columns), grad = Array<Y>::random(rows * columns);
  Array<W> weight = with_params ? Array<W>::random(columns) : Array<W>::filled(columns, 1);
  Array<W> bias = with_params ? Array<W>::random(columns) : Array<W>::filled(columns, 0);
  Array<W> grad_weight(columns), grad_bias(columns);
  Array<T> mean(rows), rstd(rows);
  const Expected e = expected(x.doubles(), weight.doubles(), bias.doubles(), grad.doubles(), rows, columns);

  LayerNormRows r;
  r.rows = int64_t(rows);
  r.columns = int64_t(columns);
  r.x_dtype = DtypeOf<X>::value;
  r.y_dtype = DtypeOf<Y>::value;
  r.weight_dtype = DtypeOf<W>::value;
  r.x = x.data();
  r.weight = with_params ? weight.data() : nullptr;
  r.bias = with_params ? bias.data() : nullptr;
  r.mean = mean.data();
  r.rstd = rstd.data();
  check_success("layer_norm", launch_layer_norm(r, kEps, y.data(), nullptr));
  check_close("layer_norm: y", y, e.y, 4 * kEpsilon<Y>);
  check_close("layer_norm: mean", mean, e.mean, 8 * kEpsilon<T>);
  check_close("layer_norm: rstd", rstd, e.rstd, 8 * kEpsilon<T>);

  LayerNormGrads g;
  g.grad = grad.data();
  g.grad_x = grad_x.data();
  g.num_blocks = backward_blocks(r.rows, r.columns);
  Array<T> partials(2 * size_t(g.num_blocks) * columns);
  if (with_params) {
    g.grad_weight = grad_weight.data();
    g.grad_bias = grad_bias.data();
    g.partials = partials.data();
  }
  check_success("layer_norm backward", launch_layer_norm_backward(r, g, nullptr));
  check_close("layer_norm: grad_x", grad_x, e.grad_x, 64 * kEpsilon<X>);
  if (!with_params) return;
  check_close("layer_norm: grad_weight", grad_weight, e.grad_weight, 64 * kEpsilon<W>);
  check_close("layer_norm: grad_bias", grad_bias, e.grad_bias, 64 * kEpsilon<W>);
}

void cases() {
  rows_of<__nv_bfloat16, __nv_bfloat16, __nv_bfloat16>(9, 40, true);
  rows_of<__nv_bfloat16, __nv_bfloat16, float>(3, 1032, true);
  rows_of<Half, Half, Half>(2, 33, true);
  rows_of<Half, Half, float>(5, 8, false);
  rows_of<float, float, float>(11, 96, true);
  rows_of<float, float, float>(2, 1, true);
  rows_of<float, __nv_bfloat16, float>(3, 131, true);
  rows_of<float, Half, float>(2, 132, true);
  rows_of<double, double, double>(3, 34, true);
#ifndef __SANITIZE_THREAD__  // whole blocks for few elements
  rows_of<__nv_bfloat16, __nv_bfloat16, float>(27, 520, true);  // more rows than all blocks take at a time
  rows_of<__nv_bfloat16, __nv_bfloat16, __nv_bfloat16>(3, 4104, true);
  rows_of<float, float, float>(20, 1100, true);
  rows_of<float, float, float>(3, 2051, true);
  rows_of<double, double, double>(2, 4098, false);
#endif
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
