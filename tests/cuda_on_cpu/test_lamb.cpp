// The launcher of lamb on tiny tensors: every kernel it instantiates, sizes around packs and chunks, both kinds of
// decay, clipping, found_inf.
#include "cuda/lamb.h"
#include "cuda/lamb.cuh"
#include "kernel_test.h"

namespace airank_fast {
namespace {

constexpr double kLr = 0.25, kStep = 2, kScale = 4, kNorm = 40;
constexpr double kSummed = 1e-12;  // what the order of a sum makes in double
const size_t kSizes[] = {1, 97, 0, 33, kLambChunk + 5};

// One tensor, in double: the formula of lamb_math.h once more.
void reference(const LambOptions& o, std::vector<double>& p, const std::vector<double>& grad, std::vector<double>& m,
               std::vector<double>& v) {
  const double unscaled = kNorm / kScale, clip = unscaled > o.max_grad_norm ? unscaled / o.max_grad_norm : 1;
  double p_squares = 0, u_squares = 0;
  std::vector<double> u(p.size());
  for (size_t i = 0; i < p.size(); ++i) {
    const double g = grad[i] / kScale / clip + (o.adam_w_mode ? 0 : o.weight_decay * p[i]);
    m[i] = o.beta1 * m[i] + (1 - o.beta1) * g;
    v[i] = o.beta2 * v[i] + (1 - o.beta2) * g * g;
    u[i] = m[i] / (1 - std::pow(o.beta1, kStep)) / (std::sqrt(v[i] / (1 - std::pow(o.beta2, kStep))) + o.eps);
    u[i] += o.adam_w_mode ? o.weight_decay * p[i] : 0;
    p_squares += p[i] * p[i];
    u_squares += u[i] * u[i];
  }
  const bool scaled = (o.use_nvlamb || o.weight_decay != 0) && p_squares != 0 && u_squares != 0;
  for (size_t i = 0; i < p.size(); ++i) p[i] -= kLr * (scaled ? std::sqrt(p_squares / u_squares) : 1) * u[i];
}

template <typename P, typename G, typename C>
void step(const LambOptions& options, bool found_inf) {
  using T = math_t<P>;
  std::vector<Array<P>> params = random_arrays<P>(kSizes);
  std::vector<Array<G>> grads = random_arrays<G>(kSizes);
  std::vector<Array<T>> ms = random_arrays<T>(kSizes), vs = random_arrays<T>(kSizes);
  constexpr bool with_copies = sizeof(C) == 2;
  using Copy = std::conditional_t<with_copies, C, float>;
  std::vector<Array<Copy>> copies = copies_of<Copy>(params);
  std::vector<std::vector<double>> want_params, want_ms, want_vs, want_copies;
  for (size_t t = 0; t < params.size(); ++t) {
    for (size_t i = 0; i < vs[t].size(); ++i) vs[t].set(i, std::fabs(vs[t].get(i)) + 0.01);
    std::vector<double> p = params[t].doubles(), m = ms[t].doubles(), v = vs[t].doubles(), c = copies[t].doubles();
    if (with_copies && !found_inf)
      for (size_t i = 1; i < p.size(); i += 2) p[i] = c[i];
    if (!found_inf) {
      reference(options, p, grads[t].doubles(), m, v);
      if (with_copies) c = p;
    }
    want_params.push_back(p), want_ms.push_back(m), want_vs.push_back(v), want_copies.push_back(c);
  }

  Array<float> lr = Array<float>::filled(1, kLr), inf = Array<float>::filled(1, found_inf);
  Array<float> count = Array<float>::filled(1, kStep);
  Array<double> scale = Array<double>::filled(1, kScale), norm = Array<double>::filled(1, kNorm);
  const std::vector<int64_t> sizes(std::begin(kSizes), std::end(kSizes));
  const auto p = addresses(params), g = addresses(grads), m = addresses(ms), v = addresses(vs), c = addresses(copies);
  LambLaunch launch;
  launch.num_tensors = int64_t(sizes.size());
  launch.sizes = sizes.data();
  launch.params = p.data();
  launch.grads = g.data();
  launch.exp_avgs = m.data();
  launch.exp_avg_sqs = v.data();
  launch.copies = with_copies ? c.data() : nullptr;
  launch.param_dtype = DtypeOf<P>::value;
  launch.grad_dtype = DtypeOf<G>::value;
  launch.copy_dtype = DtypeOf<C>::value;
  launch.lr = {lr.data(), false};
  launch.step = {count.data(), false};
  launch.grad_norm = {norm.data(), true};
  launch.grad_scale = {scale.data(), true};
  launch.found_inf = {inf.data(), false};
  launch.options = options;
  Array<double> workspace = Array<double>::filled(size_t(lamb_workspace(launch.num_tensors, launch.sizes)), 0);
  launch.workspace = workspace.data();
  check_success("lamb", launch_lamb(launch, nullptr));

  for (size_t t = 0; t < params.size(); ++t) {
    check_close("lamb: m", ms[t], want_ms[t], 4 * kEpsilon<T> + kSummed);
    check_close("lamb: v", vs[t], want_vs[t], 4 * kEpsilon<T> + kSummed);
    check_close("lamb: param", params[t], want_params[t], 8 * kEpsilon<P> + kSummed);
    check_close("lamb: copy", copies[t], want_copies[t], kEpsilon<Copy>);
  }
}

constexpr LambOptions kOptions{0.5, 0.75, 1e-3, 0.125, 2.0, true, true, true, false};

template <typename P, typename G, typename C>
void kernels() {
  step<P, G, C>(kOptions, false);
}

void cases() {
  kernels<float, float, NoCopy>();
  kernels<float, float, Half>();
  kernels<float, __nv_bfloat16, __nv_bfloat16>();
  kernels<float, Half, Half>();
  kernels<double, double, NoCopy>();
  kernels<__nv_bfloat16, __nv_bfloat16, NoCopy>();
  kernels<Half, Half, NoCopy>();
  step<float, float, Half>(kOptions, true);
  LambOptions options = kOptions;
  options.adam_w_mode = false;
  step<float, float, NoCopy>(options, false);
  options.weight_decay = 0;
  step<float, float, NoCopy>(options, false);
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
