// The launchers of cross entropy on tiny shapes: every kernel, rows around packs, rows apart and at odd addresses,
// ignored and impossible targets, with and without smoothing, the gradient in place and in memory of its own.
#include "cuda/cross_entropy.h"
#include "cuda/cross_entropy.cuh"
#include "kernel_test.h"

namespace airank_fast {
namespace {

constexpr int64_t kRows = 3, kIgnore = -7;

struct Case {
  int64_t classes;
  int64_t stride;  // of the rows
  double smoothing;
  bool mean;
  bool per_row;  // losses as they are, and a gradient per row
  bool in_place;
};

struct Expected {
  std::vector<double> losses, gradient;
  double loss = 0, scale = 1;
};

template <typename T>
Expected expected_of(const Case& c, const Array<T>& logits, Array<int64_t>& target, Array<math_t<T>>& grad) {
  Expected all;
  all.gradient = logits.doubles();  // what lies between the rows is left alone
  double count = 0;
  for (int64_t i = 0; i < kRows; ++i) count += target[i] != kIgnore;
  if (c.mean) all.scale = 1 / count;
  for (int64_t i = 0; i < kRows; ++i) {
    const int64_t t = target[i];
    const bool possible = t >= 0 && t < c.classes;
    double sum = 0, total = 0, loss = 0;
    for (int64_t k = 0; k < c.classes; ++k) sum += std::exp(logits.get(i * c.stride + k));
    for (int64_t k = 0; k < c.classes; ++k) total += logits.get(i * c.stride + k);
    if (possible)
      loss = std::log(sum) - (1 - c.smoothing) * logits.get(i * c.stride + t) - c.smoothing * total / c.classes;
    all.losses.push_back(t == kIgnore ? 0 : possible ? loss : NAN);
    all.loss += all.losses[i] * (c.mean ? all.scale : 1);
    for (int64_t k = 0; k < c.classes; ++k) {
      double& g = all.gradient[i * c.stride + k];
      g = std::exp(g) / sum - c.smoothing / c.classes - (k == t ? 1 - c.smoothing : 0);
      g = t == kIgnore ? 0 : possible ? g * grad.get(c.per_row ? i : 0) * all.scale : NAN;
    }
  }
  return all;
}

template <typename T>
void check(const Case& c, Array<int64_t> target) {
  using M = math_t<T>;
  Array<T> logits = Array<T>::random((kRows - 1) * c.stride + c.classes), gradient = logits;
  Array<M> grad = Array<M>::random(c.per_row ? kRows : 1), losses(kRows), statistics(2 * kRows), loss(1), scale(1);
  const Expected want = expected_of(c, logits, target, grad);

  CrossEntropyLaunch work;
  work.dtype = DtypeOf<T>::value;
  work.num_rows = kRows;
  work.num_classes = c.classes;
  work.logits = logits.data();
  work.logits_stride = c.stride;
  work.target = target.data();
  work.ignore_index = kIgnore;
  work.label_smoothing = c.smoothing;
  work.mean = c.mean;
  work.statistics = statistics.data();
  work.scale = scale.data();
  work.losses = losses.data();
  work.loss = c.per_row ? nullptr : loss.data();
  work.grad = grad.data();
  work.grad_stride = c.per_row;
  work.gradient = c.in_place ? logits.data() : gradient.data();
  work.gradient_stride = c.stride;
  check_success("cross_entropy", launch_cross_entropy(work, nullptr));
  check_success("cross_entropy_backward", launch_cross_entropy_backward(work, nullptr));

  constexpr double kTolerance = 16 * kEpsilon<M>;
  check_close("cross_entropy: losses", losses, want.losses, kTolerance);
  check_close("cross_entropy: scale", scale, {want.scale}, kTolerance);
  if (!c.per_row) check_close("cross_entropy: loss", loss, {want.loss}, kTolerance);
  check_close("cross_entropy: gradient", c.in_place ? logits : gradient, want.gradient,
              kTolerance + (sizeof(T) == 2 ? kEpsilon<T> : 0));
}

Array<int64_t> targets(int64_t first, int64_t second, int64_t third) {
  Array<int64_t> all(kRows);
  all[0] = first, all[1] = second, all[2] = third;
  return all;
}

template <typename T>
void kernels() {
  check<T>({97, 97, 0.1, true, false, true}, targets(96, kIgnore, 0));
  check<T>({1, 1, 0.0, false, true, false}, targets(0, 0, 1));
  check<T>({600, 601, 0.0, true, false, true}, targets(kIgnore, 599, 300));
  check<T>({2100, 2104, 0.0, false, false, false}, targets(5, 2099, 1000));  // longer than a warp takes alone
  check<T>({2101, 2103, 0.1, false, true, true}, targets(2100, kIgnore, 1000));
}

void cases() {
  kernels<float>();
  kernels<double>();
  kernels<__nv_bfloat16>();
  kernels<Half>();
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
