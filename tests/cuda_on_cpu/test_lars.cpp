// The launcher of lars on tiny tensors: every kernel it instantiates, sizes around packs and chunks, tensors that are
// not adapted, found_inf.
#include "cuda/lars.h"
#include "cuda/lars.cuh"
#include "kernel_test.h"

namespace airank_fast {
namespace {

constexpr double kLr = 2, kScale = 4, kMomentum = 0.75, kDecay = 0.125, kTrust = 0.25, kEps = 0.01;
constexpr double kSummed = 1e-12;  // what the order of a sum makes in double
const size_t kSizes[] = {1, 97, 0, 33, kLarsChunk + 5};

// One tensor, in double: the formula of lars_math.h once more.
void reference(bool with_momentum, bool adapt, std::vector<double>& w, const std::vector<double>& grad,
               std::vector<double>& velocity) {
  double w_squares = 0, g_squares = 0, trust = 1;
  for (size_t i = 0; i < w.size(); ++i) {
    w_squares += w[i] * w[i];
    g_squares += grad[i] / kScale * grad[i] / kScale;
  }
  if (adapt && w_squares > 0 && g_squares > 0)
    trust = kTrust * std::sqrt(w_squares) / (std::sqrt(g_squares) + kDecay * std::sqrt(w_squares) + kEps);
  for (size_t i = 0; i < w.size(); ++i) {
    const double d = kLr * trust * (grad[i] / kScale + kDecay * w[i]);
    if (with_momentum) velocity[i] = kMomentum * velocity[i] - d;
    w[i] += with_momentum ? velocity[i] : -d;
  }
}

template <typename P, typename G, typename C>
void step(bool with_momentum, bool adapt, bool found_inf) {
  std::vector<Array<P>> params = random_arrays<P>(kSizes), velocities = random_arrays<P>(kSizes);
  std::vector<Array<G>> grads = random_arrays<G>(kSizes);
  constexpr bool with_copies = sizeof(C) == 2;
  using Copy = std::conditional_t<with_copies, C, float>;
  std::vector<Array<Copy>> copies = copies_of<Copy>(params);
  std::vector<std::vector<double>> want_params, want_velocities, want_copies;
  for (size_t t = 0; t < params.size(); ++t) {
    std::vector<double> w = params[t].doubles(), v = velocities[t].doubles(), c = copies[t].doubles();
    if (with_copies && !found_inf)
      for (size_t i = 1; i < w.size(); i += 2) w[i] = c[i];
    if (!found_inf) {
      reference(with_momentum, adapt, w, grads[t].doubles(), v);
      if (with_copies) c = w;
    }
    want_params.push_back(w), want_velocities.push_back(v), want_copies.push_back(c);
  }

  Array<float> lr = Array<float>::filled(1, kLr), inf = Array<float>::filled(1, found_inf);
  Array<double> scale = Array<double>::filled(1, kScale);
  const std::vector<int64_t> sizes(std::begin(kSizes), std::end(kSizes));
  const auto w = addresses(params), g = addresses(grads), v = addresses(velocities), c = addresses(copies);
  LarsLaunch launch;
  launch.num_tensors = int64_t(sizes.size());
  launch.sizes = sizes.data();
  launch.params = w.data();
  launch.grads = g.data();
  launch.velocities = with_momentum ? v.data() : nullptr;
  launch.copies = with_copies ? c.data() : nullptr;
  launch.param_dtype = DtypeOf<P>::value;
  launch.grad_dtype = DtypeOf<G>::value;
  launch.copy_dtype = DtypeOf<C>::value;
  launch.lr = {lr.data(), false};
  launch.grad_scale = {scale.data(), true};
  launch.found_inf = {inf.data(), false};
  launch.momentum = with_momentum ? kMomentum : 0;
  launch.weight_decay = kDecay;
  launch.trust_coefficient = kTrust;
  launch.eps = kEps;
  launch.adapt = adapt;
  Array<double> workspace = Array<double>::filled(size_t(lars_workspace(launch.num_tensors, launch.sizes)), 0);
  launch.workspace = workspace.data();
  check_success("lars", launch_lars(launch, nullptr));

  for (size_t t = 0; t < params.size(); ++t) {
    check_close("lars: param", params[t], want_params[t], 4 * kEpsilon<P> + kSummed);
    check_close("lars: velocity", velocities[t], want_velocities[t], 4 * kEpsilon<P> + kSummed);
    check_close("lars: copy", copies[t], want_copies[t], kEpsilon<Copy>);
  }
}

template <typename P, typename G, typename C>
void kernels() {
  step<P, G, C>(true, true, false);
}

void cases() {
  kernels<float, float, NoCopy>();
  kernels<float, float, Half>();
  kernels<float, __nv_bfloat16, __nv_bfloat16>();
  kernels<float, Half, Half>();
  kernels<double, double, NoCopy>();
  kernels<__nv_bfloat16, __nv_bfloat16, NoCopy>();
  kernels<Half, Half, NoCopy>();
  step<float, float, Half>(true, true, true);
  step<float, float, NoCopy>(true, false, false);
  step<float, float, NoCopy>(false, true, false);
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
