// The adaptive optimizers on the CPU: one pass over the memory of a whole parameter list, for any formula (see
// adaptive_args.h). Per element it moves, in float32, 12 bytes (gradient, and parameter read and written), 8 for each
// array of state, and 4 for a 16-bit copy of the parameter, read and written, where there is one.
#pragma once

#include <vector>

#include "../adaptive_args.h"
#include "isa.h"
#include "lists.h"

namespace airank_fast {

template <typename Formula, typename P, typename G, typename C>
struct AdaptiveLoop {
  using T = math_t<P>;
  using Scalars = typename Formula::template Scalars<T>;
  static constexpr bool kTwo = Formula::kStates == 2;
  using Signature = void(const void*, void*, void*, void*, void*, int64_t, int64_t, Scalars);

  HOST_DEVICE static void run(const void* grads, void* params, void* firsts, void* seconds, void* copies,
                              int64_t begin, int64_t end, Scalars scalars) {
    const G* __restrict grad = static_cast<const G*>(grads);
    P* __restrict param = static_cast<P*>(params);
    T* __restrict first = static_cast<T*>(firsts);
    T* __restrict second = static_cast<T*>(seconds);
    C* __restrict copy = static_cast<C*>(copies);
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) {
      T new_first = first[i], new_second = 0;
      if constexpr (kTwo) new_second = second[i];
      const T updated = Formula::step(newest_at(param, copy, i), T(load(grad[i])), new_first, new_second, scalars);
      first[i] = new_first;
      if constexpr (kTwo) second[i] = new_second;
      store(&param[i], updated);
      if constexpr (!std::is_same_v<C, NoCopy>) store(&copy[i], updated);
    }
  }
};

// The whole op: checks, step counts, the loop over all elements.
template <typename Formula>
void run_adaptive(const char* op, const std::array<const char*, Formula::kStates>& state_names,
                  AdaptiveArgs<Formula> args, const AdaptiveTensors& tensors,
                  const typename Formula::Options& options) {
  check_adaptive(op, state_names, args, tensors);
  if (args.params.empty() || (tensors.found_inf && value_of(*tensors.found_inf) != 0)) return;
  const double lr = value_of(tensors.lr), grad_scale = tensors.grad_scale ? value_of(*tensors.grad_scale) : 1.0;

  FlatViews views = flatten(args);
  const auto of = [&](const TensorList& list) { return addresses(list, args.params); };
  const std::vector<void*> params = of(args.params), grads = of(args.grads), firsts = of(args.states.front()),
                           seconds = of(args.states.back()), copies = of(args.copies), steps = of(args.steps);
  with_optimizer_types(args.params, args.grads, args.copies, [&]<typename P, typename G, typename C>() {
    using Loop = AdaptiveLoop<Formula, P, G, C>;
    std::vector<typename Loop::Scalars> scalars;
    scalars.reserve(steps.size());
    for (void* step : steps)
      scalars.push_back(Formula::template scalars<typename Loop::T>(options, lr, *static_cast<float*>(step) += 1,
                                                                    grad_scale));
    const auto loop = choose<Loop>();
    ElementRange(args.params).for_each([&](int64_t t, int64_t begin, int64_t end) {
      loop(grads[t], params[t], firsts[t], seconds[t], copies[t], begin, end, scalars[t]);
    });
  });
  views.copy_back();
}

}  // namespace airank_fast
