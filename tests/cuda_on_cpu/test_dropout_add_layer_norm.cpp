// The launchers of dropout_add_layer_norm on tiny matrices: every dtype, packs and no packs, with and without dropout,
// parameters, and a gradient that reached the sum. The mask is that of dropout_math.h.
#include "cuda/dropout_add_layer_norm.h"
#include "cuda/layer_norm_grid.h"
#include "dropout_math.h"
#include "kernel_test.h"

namespace airank_fast {
namespace {

constexpr double kEps = 1e-3;
constexpr int64_t kSeed[2] = {-123456789012345, 1ll << 40};

double factor(size_t i, double p) {
  const Philox philox{uint64_t(kSeed[0]), uint64_t(kSeed[1])};
  const auto dropout = dropout_of<double>(p);
  return p == 0 || dropout.keeps(philox(i / 4).at[i % 4]) ? dropout.scale : 0;
}

template <typename X, typename R, typename W>
void rows_of(size_t rows, size_t columns, double p, bool with_all) {
  using T = math_t<X>;
  const size_t size = rows * columns;
  const double n = double(columns);
  Array<X> x = Array<X>::random(size), y(size), grad = Array<X>::random(size), grad_x(size);
  Array<R> residual = Array<R>::random(size), sum(size), grad_sum = Array<R>::random(size), grad_residual(size);
  Array<W> weight = Array<W>::random(columns), bias = Array<W>::random(columns), grad_weight(columns),
           grad_bias(columns);
  Array<T> mean(rows), rstd(rows);
  Array<int64_t> seed(2);
  for (int i = 0; i < 2; ++i) seed[i] = kSeed[i];
  LayerNormRows r;
  r.rows = int64_t(rows);
  r.columns = int64_t(columns);
  r.x_dtype = DtypeOf<R>::value;
  r.y_dtype = DtypeOf<X>::value;
  r.weight_dtype = DtypeOf<W>::value;
  r.weight = with_all ? weight.data() : nullptr;
  r.bias = with_all ? bias.data() : nullptr;
  r.mean = mean.data();
  r.rstd = rstd.data();
  DropoutAdd add;
  add.p = p;
  add.seed = p == 0 ? nullptr : seed.data();
  add.x = x.data();
  add.residual = residual.data();
  add.sum = sum.data();
  add.y = y.data();
  check_success("dropout_add_layer_norm", launch_dropout_add_layer_norm(r, add, kEps, nullptr));

  r.x = sum.data();
  add.grad_sum = with_all ? grad_sum.data() : nullptr;
  add.grad_residual = grad_residual.data();
  LayerNormGrads g;
  g.grad = grad.data();
  g.grad_x = grad_x.data();
  g.num_blocks = backward_blocks(r.rows, r.columns);
  Array<T> partials(2 * size_t(g.num_blocks) * columns);
  if (with_all) {
    g.grad_weight = grad_weight.data();
    g.grad_bias = grad_bias.data();
    g.partials = partials.data();
  }
  check_success("dropout_add_layer_norm backward", launch_dropout_add_layer_norm_backward(r, g, add, nullptr));

  std::vector<double> want_sum(size), want_y(size), want_x(size), want_residual(size), want_weight(columns),
      want_bias(columns);
  for (size_t i = 0; i < rows; ++i) {
    const size_t first = i * columns;
    double average = 0, square = 0, mean_g = 0, mean_gh = 0;
    std::vector<double> h(columns), gs(columns);
    for (size_t j = first; j < first + columns; ++j) want_sum[j] = x.get(j) * factor(j, p) + residual.get(j);
    for (size_t j = 0; j < columns; ++j) average += sum.get(first + j) / n;  // what was rounded is normalised
    for (size_t j = 0; j < columns; ++j) square += std::pow(sum.get(first + j) - average, 2) / n;
    const double inverse = 1 / std::sqrt(square + kEps);
    for (size_t j = 0; j < columns; ++j) {
      const double w = with_all ? weight.get(j) : 1, b = with_all ? bias.get(j) : 0, dy = grad.get(first + j);
      h[j] = (sum.get(first + j) - average) * inverse;
      gs[j] = dy * w;
      mean_g += gs[j] / n;
      mean_gh += gs[j] * h[j] / n;
      want_y[first + j] = h[j] * w + b;
      want_weight[j] += dy * h[j];
      want_bias[j] += dy;
    }
    for (size_t j = 0; j < columns; ++j) {
      const double more = with_all ? grad_sum.get(first + j) : 0;
      want_residual[first + j] = inverse * (gs[j] - mean_g - h[j] * mean_gh) + more;
      want_x[first + j] = want_residual[first + j] * factor(first + j, p);
    }
  }
  check_close("dropout_add_layer_norm: sum", sum, want_sum, 2 * kEpsilon<R>);
  check_close("dropout_add_layer_norm: y", y, want_y, 4 * kEpsilon<X>);
  check_close("dropout_add_layer_norm: grad_residual", grad_residual, want_residual, 64 * kEpsilon<R>);
  check_close("dropout_add_layer_norm: grad_x", grad_x, want_x, 64 * kEpsilon<X>);
  if (!with_all) return;
  check_close("dropout_add_layer_norm: grad_weight", grad_weight, want_weight, 64 * kEpsilon<W>);
  check_close("dropout_add_layer_norm: grad_bias", grad_bias, want_bias, 64 * kEpsilon<W>);
}

void cases() {
  rows_of<__nv_bfloat16, __nv_bfloat16, __nv_bfloat16>(9, 40, 0.25, true);
  rows_of<__nv_bfloat16, __nv_bfloat16, float>(3, 33, 0.25, true);
  rows_of<__nv_bfloat16, float, float>(3, 132, 0.5, true);
  rows_of<__nv_bfloat16, float, __nv_bfloat16>(2, 35, 1, true);
  rows_of<Half, Half, Half>(2, 1032, 0.25, true);
  rows_of<Half, Half, float>(3, 8, 0, false);
  rows_of<Half, float, float>(3, 20, 0.25, false);
  rows_of<Half, float, Half>(3, 5, 0, true);
  rows_of<float, float, float>(5, 97, 0.25, true);
  rows_of<double, double, double>(3, 34, 0.25, true);
#ifndef __SANITIZE_THREAD__  // whole blocks for few elements
  rows_of<Half, Half, float>(15, 520, 0.25, true);  // more rows than all blocks take at a time
  rows_of<__nv_bfloat16, __nv_bfloat16, __nv_bfloat16>(2, 8200, 0.25, true);
  rows_of<float, float, float>(3, 2051, 0.25, true);
#endif
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
