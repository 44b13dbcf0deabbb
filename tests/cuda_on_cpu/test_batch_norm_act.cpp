// The launchers of batch norm on tiny tensors: every kernel they instantiate, rows that are no multiple of a group,
// channels that are no multiple of a pack, several blocks in both directions; statistics of the batch and fixed ones.
#include "cuda/batch_norm_act.h"
#include "kernel_test.h"

namespace airank_fast {
namespace {

constexpr double kEps = 1e-5;

template <typename E>
void layer(int64_t rows, int64_t channels, bool with_residual, double slope, bool fixed = false) {
  using T = math_t<E>;
  const size_t size = size_t(rows * channels);
  Array<E> x = Array<E>::random(size), residual = Array<E>::random(size), dy = Array<E>::random(size);
  Array<E> y = Array<E>::random(size), dx = Array<E>::random(size), dresidual = Array<E>::random(size);
  Array<T> weight = Array<T>::random(channels), bias = Array<T>::random(channels);
  Array<T> statistics = Array<T>::random(2 * channels + 1), sums = Array<T>::random(2 * channels);
  Array<T> mean = Array<T>::filled(channels, 0), var = Array<T>::filled(channels, 1);
  Array<int64_t> num_batches = Array<int64_t>::filled(1, 3);
  Array<unsigned char> mask = Array<unsigned char>::filled((rows + 7) / 8 * channels, 0);

  const BatchNormInput input{x.data(), rows, channels, DtypeOf<E>::value};
  const int64_t num_parts = batch_norm_num_parts(input);
  Array<T> parts = Array<T>::filled(num_parts * (2 * channels + 1), 0);
  const BatchNormRunningAddresses running{mean.data(), var.data(), num_batches.data(), true, 0, kEps};
  check_success("moments", launch_batch_norm_moments(input, parts.data(), statistics.data(), &running, nullptr));
  Array<T> again = Array<T>::random(2 * channels + 1);
  check_success("finish", launch_batch_norm_finish(parts.data(), num_parts, channels, DtypeOf<T>::value, again.data(),
                                                   BatchNormRunningAddresses{nullptr, nullptr, nullptr, false, 0, kEps},
                                                   nullptr));
  void* bits = slope != 1 ? mask.data() : nullptr;
  const void* z = with_residual ? residual.data() : nullptr;
  check_success("act", launch_batch_norm_act(input, z, weight.data(), bias.data(), statistics.data(), slope, y.data(),
                                             bits, nullptr));
  check_success("sums", launch_batch_norm_sums(input, dy.data(), bits, statistics.data(), slope, parts.data(),
                                               sums.data(), nullptr));
  const BatchNormInput of_dx{fixed ? nullptr : x.data(), rows, channels, DtypeOf<E>::value};
  check_success("backward", launch_batch_norm_backward(of_dx, dy.data(), bits, weight.data(), statistics.data(),
                                                       fixed ? nullptr : sums.data(), slope, dx.data(),
                                                       with_residual ? dresidual.data() : nullptr, nullptr));

  std::vector<double> want_y(size), want_dx(size), want_dz(size), want_statistics(2 * channels + 1), want_mean, want_var;
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0, squares = 0, sum_dz = 0, products = 0;
    for (int64_t r = 0; r < rows; ++r) sum += x.get(r * channels + c);
    const double average = sum / rows;
    for (int64_t r = 0; r < rows; ++r) squares += std::pow(x.get(r * channels + c) - average, 2);
    const double rstd = 1 / std::sqrt(squares / rows + kEps);
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t i = r * channels + c;
      const double normal = (x.get(i) - average) * rstd;
      const double sum_of_both = normal * weight.get(c) + bias.get(c) + (with_residual ? residual.get(i) : 0);
      want_y[i] = sum_of_both * (sum_of_both > 0 ? 1 : slope);
      want_dz[i] = dy.get(i) * (y.get(i) > 0 ? 1 : slope);
      sum_dz += want_dz[i], products += want_dz[i] * normal;
    }
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t i = r * channels + c;
      const double normal = (x.get(i) - average) * rstd;
      const double through_statistics = fixed ? 0 : sum_dz / rows + normal * products / rows;
      want_dx[i] = rstd * weight.get(c) * (want_dz[i] - through_statistics);
    }
    want_statistics[c] = average, want_statistics[channels + c] = rstd;
    want_mean.push_back(0.25 * average);
    want_var.push_back(0.75 + 0.25 * squares / std::max<int64_t>(rows - 1, 1));
  }
  want_statistics[2 * channels] = double(rows);
  const double tolerance = 32 * kEpsilon<T>;
  check_close("statistics", statistics, want_statistics, tolerance);
  check_close("finish", again, want_statistics, tolerance);
  check_close("running mean", mean, want_mean, tolerance);
  check_close("running var", var, want_var, tolerance);
  check_close("y", y, want_y, 16 * kEpsilon<E>);
  check_close("dx", dx, want_dx, 16 * kEpsilon<E>);
  if (with_residual) check_close("dresidual", dresidual, want_dz, kEpsilon<E>);
}

template <typename E>
void kernels() {
  layer<E>(77, 8, true, 0.1);
  layer<E>(9, 5, false, 0);
  layer<E>(10, 11, true, 1, true);
  layer<E>(13, 16, false, 1);
}

void cases() {
  kernels<float>();
  kernels<double>();
  kernels<__nv_bfloat16>();
  kernels<Half>();
}

void large_cases() {
  layer<double>(69, 194, true, 0);  // several groups for a thread
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases, airank_fast::large_cases); }
