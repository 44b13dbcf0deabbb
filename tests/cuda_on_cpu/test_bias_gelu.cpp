// The launchers of bias + GELU on tiny shapes: every kernel, in packs and one by one, more than one chunk of rows.
#include "cuda/bias_gelu.h"
#include "cuda/bias_gelu.cuh"
#include "kernel_test.h"

namespace airank_fast {
namespace {

// The value and the slope at u.
std::pair<double, double> gelu(double u, bool tanh) {
  if (!tanh) {
    const double share = 0.5 * std::erfc(-u * std::sqrt(0.5));
    return {u * share, share + u * std::exp(-u * u / 2) / std::sqrt(2 * M_PI)};
  }
  const double k = std::sqrt(2 / M_PI), t = std::tanh(k * (u + 0.044715 * u * u * u));
  return {u * (1 + t) / 2, (1 + t) / 2 + u * (1 - t * t) / 2 * k * (1 + 3 * 0.044715 * u * u)};
}

template <typename T, typename B>
void check(int64_t rows, int64_t columns, bool tanh) {
  using M = math_t<T>;
  const size_t size = size_t(rows * columns);
  Array<T> x = Array<T>::random(size), grad = Array<T>::random(size), y(size), dx(size);
  Array<B> bias = Array<B>::random(columns), bias_gradient(columns);
  Array<M> partial(size_t(bias_gelu_chunks(rows) * columns));
  std::vector<double> want_y(size), want_dx(size), want_bias(columns, 0.0);
  for (size_t i = 0; i < size; ++i) {
    const auto [value, slope] = gelu(x.get(i) + bias.get(i % columns), tanh);
    want_y[i] = value;
    want_dx[i] = grad.get(i) * slope;
    want_bias[i % columns] += want_dx[i];
  }

  BiasGeluLaunch work;
  work.dtype = DtypeOf<T>::value;
  work.bias_dtype = DtypeOf<B>::value;
  work.tanh = tanh;
  work.rows = rows;
  work.columns = columns;
  work.x = x.data();
  work.bias = bias.data();
  work.result = y.data();
  check_success("bias_gelu", launch_bias_gelu(work, nullptr));
  work.result = dx.data();
  work.grad = grad.data();
  work.bias_gradient = bias_gradient.data();
  work.partial = partial.data();
  check_success("bias_gelu_backward", launch_bias_gelu_backward(work, nullptr));

  check_close("bias_gelu: y", y, want_y, 8 * kEpsilon<T>);
  check_close("bias_gelu: dx", dx, want_dx, 8 * kEpsilon<T>);
  constexpr double kFormula = sizeof(T) == 2 ? 1e-4 : 64 * kEpsilon<M>;  // of 16-bit x it is fitted to 16 bits
  check_close("bias_gelu: bias_gradient", bias_gradient, want_bias, kFormula + 2 * kEpsilon<B>);
}

template <typename T, typename B>
void kernels() {
  for (const bool tanh : {false, true}) {
    check<T, B>(131, 24, tanh);  // three chunks; packs for every dtype
    check<T, B>(9, 33, tanh);
  }
}

void cases() {
  kernels<float, float>();
  kernels<double, double>();
  kernels<__nv_bfloat16, __nv_bfloat16>();
  kernels<__nv_bfloat16, float>();
  kernels<Half, Half>();
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
