// The launchers of the adaptive optimizers on tiny tensors: every kernel that they instantiate, sizes around packs and
// chunks, step counts, found_inf. A test states its options, and its formula once more, in double.
#pragma once

#include "cuda/adaptive.cuh"
#include "cuda/adaptive.h"
#include "kernel_test.h"

namespace airank_fast {

constexpr double kAdaptiveLr = 0.25, kAdaptiveScale = 4;
const size_t kAdaptiveSizes[] = {1, 97, 0, 33, kAdaptiveChunk + 5};

// One element, whose gradient is divided by kAdaptiveScale already: the new parameter; updates the state.
template <typename Formula>
using AdaptiveReference = double (*)(const typename Formula::Options&, double step, double param, double grad,
                                     double& first, double& second);

template <typename Formula>
struct AdaptiveTest {
  const char* op;
  cudaError_t (*launcher)(const AdaptiveLaunch<Formula>&, cudaStream_t);
  AdaptiveReference<Formula> reference;

  template <typename P, typename G, typename C>
  void step(const typename Formula::Options& options, bool found_inf) const {
    using T = math_t<P>;
    constexpr bool with_copies = sizeof(C) == 2, two = Formula::kStates > 1;
    using Copy = std::conditional_t<with_copies, C, float>;
    std::vector<Array<P>> params = random_arrays<P>(kAdaptiveSizes);
    std::vector<Array<G>> grads = random_arrays<G>(kAdaptiveSizes);
    std::vector<Array<T>> firsts = random_arrays<T>(kAdaptiveSizes), seconds = random_arrays<T>(kAdaptiveSizes);
    std::vector<Array<Copy>> copies = copies_of<Copy>(params);
    std::vector<Array<float>> steps;
    std::vector<std::vector<double>> want_params, want_firsts, want_seconds, want_copies;
    for (size_t t = 0; t < params.size(); ++t) {
      Array<T>& squares = two ? seconds[t] : firsts[t];
      for (size_t i = 0; i < squares.size(); ++i) squares.set(i, std::fabs(squares.get(i)) + 0.01);
      steps.push_back(Array<float>::filled(1, double(t)));
      std::vector<double> p = params[t].doubles(), a = firsts[t].doubles(), b = seconds[t].doubles(),
                          c = copies[t].doubles();
      for (size_t i = 0; i < p.size() && !found_inf; ++i) {
        const double old = with_copies && i % 2 ? c[i] : p[i];
        p[i] = reference(options, double(t + 1), old, grads[t].get(i) / kAdaptiveScale, a[i], b[i]);
        if (with_copies) c[i] = p[i];
      }
      want_params.push_back(p), want_firsts.push_back(a), want_seconds.push_back(b), want_copies.push_back(c);
    }

    Array<float> lr = Array<float>::filled(1, kAdaptiveLr), inf = Array<float>::filled(1, found_inf);
    Array<double> scale = Array<double>::filled(1, kAdaptiveScale);
    const std::vector<int64_t> sizes(std::begin(kAdaptiveSizes), std::end(kAdaptiveSizes));
    const auto p = addresses(params), g = addresses(grads), a = addresses(firsts), b = addresses(seconds),
               c = addresses(copies), n = addresses(steps);
    AdaptiveLaunch<Formula> launch;
    launch.num_tensors = int64_t(sizes.size());
    launch.sizes = sizes.data();
    launch.params = p.data();
    launch.grads = g.data();
    launch.states[0] = a.data();
    if constexpr (two) launch.states[1] = b.data();
    launch.steps = n.data();
    launch.copies = with_copies ? c.data() : nullptr;
    launch.param_dtype = DtypeOf<P>::value;
    launch.grad_dtype = DtypeOf<G>::value;
    launch.copy_dtype = DtypeOf<C>::value;
    launch.lr = {lr.data(), false};
    launch.grad_scale = {scale.data(), true};
    launch.found_inf = {inf.data(), false};
    launch.options = options;
    Array<double> workspace = Array<double>::filled(size_t(adaptive_workspace<Formula>(launch.num_tensors)), 0);
    launch.workspace = workspace.data();
    check_success(op, launcher(launch, nullptr));

    for (size_t t = 0; t < params.size(); ++t) {
      check_close(op, firsts[t], want_firsts[t], 4 * kEpsilon<T>);
      check_close(op, seconds[t], want_seconds[t], two ? 4 * kEpsilon<T> : 0);
      check_close(op, params[t], want_params[t], 8 * kEpsilon<P>);
      check_close(op, copies[t], want_copies[t], kEpsilon<Copy>);
      check_close(op, steps[t], {double(t) + (found_inf ? 0 : 1)}, 0);
    }
  }

  // All dtypes with the first options, every one of the others, and a step that is skipped.
  void cases(std::initializer_list<typename Formula::Options> all) const {
    const typename Formula::Options& options = *all.begin();
    step<float, float, NoCopy>(options, false);
    step<float, float, Half>(options, false);
    step<float, __nv_bfloat16, __nv_bfloat16>(options, false);
    step<float, Half, Half>(options, false);
    step<double, double, NoCopy>(options, false);
    step<__nv_bfloat16, __nv_bfloat16, NoCopy>(options, false);
    step<Half, Half, NoCopy>(options, false);
    step<float, float, Half>(options, true);
    for (const auto& more : all) step<float, float, NoCopy>(more, false);
  }
};

}  // namespace airank_fast
