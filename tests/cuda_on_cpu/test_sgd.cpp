// The launcher of sgd on tiny tensors: every kernel it instantiates, sizes around packs and chunks, found_inf.
#include "cuda/sgd.h"
#include "cuda/sgd.cuh"
#include "kernel_test.h"

namespace airank_fast {
namespace {

constexpr double kLr = 0.25, kScale = 4, kMomentum = 0.75, kDampening = 0.5, kDecay = 0.125;
const size_t kSizes[] = {1, 97, 0, 33, kSgdChunk + 5};

template <typename P, typename G, typename C>
void step(bool with_momentum, bool found_inf) {
  std::vector<Array<P>> params = random_arrays<P>(kSizes), buffers = random_arrays<P>(kSizes);
  std::vector<Array<G>> grads = random_arrays<G>(kSizes);
  constexpr bool with_copies = sizeof(C) == 2;
  using Copy = std::conditional_t<with_copies, C, float>;
  std::vector<Array<Copy>> copies = copies_of<Copy>(params);
  std::vector<std::vector<double>> want_params, want_buffers, want_copies;
  for (size_t t = 0; t < params.size(); ++t) {
    std::vector<double> p = params[t].doubles(), b = buffers[t].doubles(), c = copies[t].doubles();
    if (with_copies && !found_inf)
      for (size_t i = 1; i < p.size(); i += 2) p[i] = c[i];
    for (size_t i = 0; i < p.size() && !found_inf; ++i) {
      double g = grads[t].get(i) / kScale + kDecay * p[i];
      if (with_momentum) g = b[i] = kMomentum * b[i] + (1 - kDampening) * g;
      p[i] -= kLr * g;
      if (with_copies) c[i] = p[i];
    }
    want_params.push_back(p), want_buffers.push_back(b), want_copies.push_back(c);
  }

  Array<float> lr = Array<float>::filled(1, kLr), inf = Array<float>::filled(1, found_inf);
  Array<double> scale = Array<double>::filled(1, kScale);
  const std::vector<int64_t> sizes(std::begin(kSizes), std::end(kSizes));
  const auto p = addresses(params), g = addresses(grads), b = addresses(buffers), c = addresses(copies);
  SgdLaunch launch;
  launch.num_tensors = int64_t(sizes.size());
  launch.sizes = sizes.data();
  launch.params = p.data();
  launch.grads = g.data();
  launch.buffers = with_momentum ? b.data() : nullptr;
  launch.copies = with_copies ? c.data() : nullptr;
  launch.param_dtype = DtypeOf<P>::value;
  launch.grad_dtype = DtypeOf<G>::value;
  launch.copy_dtype = DtypeOf<C>::value;
  launch.lr = {lr.data(), false};
  launch.grad_scale = {scale.data(), true};
  launch.found_inf = {inf.data(), false};
  launch.momentum = with_momentum ? kMomentum : 0;
  launch.dampening = kDampening;
  launch.weight_decay = kDecay;
  check_success("sgd", launch_sgd(launch, nullptr));

  for (size_t t = 0; t < params.size(); ++t) {
    check_close("sgd: param", params[t], want_params[t], kEpsilon<P>);
    check_close("sgd: buffer", buffers[t], want_buffers[t], kEpsilon<P>);
    check_close("sgd: copy", copies[t], want_copies[t], kEpsilon<Copy>);
  }
}

template <typename P, typename G, typename C>
void kernels() {
  step<P, G, C>(false, false);
  step<P, G, C>(true, false);
  step<P, G, C>(true, true);
}

void cases() {
  kernels<float, float, NoCopy>();
  kernels<float, float, Half>();
  kernels<float, __nv_bfloat16, __nv_bfloat16>();
  kernels<float, Half, Half>();
  kernels<double, double, NoCopy>();
  kernels<__nv_bfloat16, __nv_bfloat16, NoCopy>();
  kernels<Half, Half, NoCopy>();
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
