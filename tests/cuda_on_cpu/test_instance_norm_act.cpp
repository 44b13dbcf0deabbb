// The launchers of instance norm on tiny pictures: every kernel they instantiate, in both layouts; planes in packs and in
// single numbers, of a warp, of several, and larger than the registers; channels that are no multiple of a pack.
#include "cuda/instance_norm_act.h"
#include "kernel_test.h"

namespace airank_fast {
namespace {

constexpr double kEps = 1e-3;

struct Picture {
  int64_t pictures, channels, pixels;
};

template <typename E>
void layer(const Picture& p, bool channels_last, bool with_residual, bool with_params, double slope) {
  using T = math_t<E>;
  const size_t size = size_t(p.pictures * p.channels * p.pixels), numbers = size_t(2 * p.pictures * p.channels);
  Array<E> x = Array<E>::random(size), residual = Array<E>::random(size), dy = Array<E>::random(size);
  Array<E> y(size), dx(size), dresidual(size);
  Array<T> weight = with_params ? Array<T>::random(p.channels) : Array<T>::filled(p.channels, 1);
  Array<T> bias = with_params ? Array<T>::random(p.channels) : Array<T>::filled(p.channels, 0);
  Array<T> statistics(numbers), sums(numbers);

  InstanceNormLaunch work;
  work.dtype = DtypeOf<E>::value;
  work.pictures = p.pictures;
  work.channels = p.channels;
  work.pixels = p.pixels;
  work.channels_last = channels_last;
  work.x = x.data();
  if (with_params) work.weight = weight.data(), work.bias = bias.data();
  work.negative_slope = slope;
  const int64_t num_parts = instance_norm_num_parts(work);
  Array<T> parts(p.pictures * num_parts * (2 * p.channels + 1)), of_sums(p.pictures * num_parts * 2 * p.channels);
  const void* added = with_residual ? residual.data() : nullptr;
  check_success("forward",
                launch_instance_norm_act(work, added, kEps, parts.data(), statistics.data(), y.data(), nullptr));
  const bool of_result = with_residual && slope != 1;
  check_success("backward", launch_instance_norm_act_backward(
                                work, dy.data(), of_result ? y.data() : nullptr, statistics.data(), of_sums.data(),
                                sums.data(), dx.data(), of_result ? dresidual.data() : nullptr, nullptr));

  std::vector<double> want_y(size), want_dx(size), want_dz(size), want_statistics(numbers), want_sums(numbers);
  for (int64_t n = 0; n < p.pictures; ++n) {
    for (int64_t c = 0; c < p.channels; ++c) {
      const auto at = [&](int64_t i) {
        return size_t(channels_last ? (n * p.pixels + i) * p.channels + c : (n * p.channels + c) * p.pixels + i);
      };
      const size_t of_mean = size_t(n * 2 * p.channels + c), of_rstd = of_mean + size_t(p.channels);
      double mean = 0, square = 0, sum_dz = 0, products = 0;
      for (int64_t i = 0; i < p.pixels; ++i) mean += x.get(at(i)) / double(p.pixels);
      for (int64_t i = 0; i < p.pixels; ++i) square += std::pow(x.get(at(i)) - mean, 2) / double(p.pixels);
      const double rstd = 1 / std::sqrt(square + kEps);
      for (int64_t i = 0; i < p.pixels; ++i) {
        const double xhat = (x.get(at(i)) - mean) * rstd;
        const double z = xhat * weight.get(c) + bias.get(c) + (with_residual ? residual.get(at(i)) : 0);
        want_y[at(i)] = z > 0 ? z : slope * z;
        want_dz[at(i)] = dy.get(at(i)) * (y.get(at(i)) > 0 || (slope == 0 && z > 0) ? 1 : slope);
        sum_dz += want_dz[at(i)], products += want_dz[at(i)] * xhat;
      }
      for (int64_t i = 0; i < p.pixels; ++i) {
        const double xhat = (x.get(at(i)) - mean) * rstd;
        want_dx[at(i)] = rstd * weight.get(c) * (want_dz[at(i)] - (sum_dz + xhat * products) / double(p.pixels));
      }
      want_statistics[of_mean] = mean, want_statistics[of_rstd] = rstd;
      want_sums[of_mean] = sum_dz, want_sums[of_rstd] = products;
    }
  }
  check_close("statistics", statistics, want_statistics, 32 * kEpsilon<T>);
  check_close("y", y, want_y, 16 * kEpsilon<E>);
  check_close("sums", sums, want_sums, 64 * kEpsilon<T> * std::sqrt(double(p.pixels)));
  check_close("dx", dx, want_dx, 32 * kEpsilon<E>);
  if (of_result) check_close("dresidual", dresidual, want_dz, kEpsilon<E>);
}

template <typename E>
void kernels() {
  layer<E>({2, 2, 35}, false, false, true, 0);     // single numbers, one warp
  layer<E>({1, 3, 640}, false, true, false, 0.2);  // packs, several warps
  layer<E>({2, 8, 21}, true, false, true, 0.2);    // packs of channels
  layer<E>({2, 3, 10}, true, true, true, 0);
}

void cases() {
  kernels<float>();
  kernels<Half>();
  layer<float>({1, 2, 6}, false, true, true, 1);
}

// A plane that does not stay in the registers.
void large_cases() { layer<float>({1, 1, 4099}, false, true, true, 0); }

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases, airank_fast::large_cases); }
