// LARS on the CPU; formula in lars_math.h.
//
// Two passes over each batch of tensors (see chunks.h): the norms of parameter and gradient, then the update. From
// memory a parameter moves, in float32, 8 bytes in the first pass and 12 to 20 in the second (parameter and gradient
// from the cache where the batch fits, velocity read, both written), and a 16-bit copy, read twice and written.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "../lars_args.h"
#include "chunks.h"
#include "isa.h"

namespace airank_fast {
namespace {

// First pass over a chunk: sums[0] of the squares of the parameters, sums[1] of the gradients.
template <typename P, typename G, typename C>
struct NormsLoop {
  using T = math_t<P>;
  using Signature = void(const void*, const void*, const void*, int64_t, int64_t, double*);
  static constexpr int kBlock = Squares<T>::kLanes;

  HOST_DEVICE static void block(const P* __restrict param, const G* __restrict grad, const C* __restrict copy,
                                int size, Squares<T>& params, Squares<T>& gradients) {
#pragma GCC ivdep
    for (int k = 0; k < size; ++k) {
      const T w = newest_at(param, copy, k), g = T(load(grad[k]));
      params.lane[k] += w * w;
      gradients.lane[k] += g * g;
    }
  }

  HOST_DEVICE static void run(const void* params, const void* grads, const void* copies, int64_t begin, int64_t end,
                              double* sums) {
    const P* param = static_cast<const P*>(params);
    const G* grad = static_cast<const G*>(grads);
    const C* copy = static_cast<const C*>(copies);
    Squares<T> of_params, of_grads;
    int64_t i = begin;
    for (; i + kBlock <= end; i += kBlock)
      block(param + i, grad + i, element(copy, i), kBlock, of_params, of_grads);
    block(param + i, grad + i, element(copy, i), int(end - i), of_params, of_grads);
    sums[0] = of_params.total();
    sums[1] = of_grads.total();
  }
};

// Second pass: velocities, parameters and their 16-bit copies.
template <bool kMomentum, typename P, typename G, typename C>
struct LarsLoop {
  using Signature = void(const void*, void*, void*, void*, int64_t, int64_t, LarsScalars<math_t<P>>);

  HOST_DEVICE static void run(const void* grads, void* params, void* velocities, void* copies, int64_t begin,
                              int64_t end, LarsScalars<math_t<P>> scalars) {
    const G* __restrict grad = static_cast<const G*>(grads);
    P* __restrict param = static_cast<P*>(params);
    P* __restrict velocity = static_cast<P*>(velocities);
    C* __restrict copy = static_cast<C*>(copies);
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) {
      math_t<P> v = 0;
      if constexpr (kMomentum) v = load(velocity[i]);
      const math_t<P> updated = lars_step<kMomentum>(newest_at(param, copy, i), math_t<P>(load(grad[i])), v, scalars);
      if constexpr (kMomentum) store(&velocity[i], v);
      store(&param[i], updated);
      if constexpr (!std::is_same_v<C, NoCopy>) store(&copy[i], updated);
    }
  }
};

// The options of a step, and the numbers read from tensors.
struct Step {
  double lr;
  double grad_scale;
  double momentum;
  double weight_decay;
  double trust_coefficient;
  double eps;
  bool nesterov;
  bool adapt;
};

template <typename P, typename G, typename C>
void run_chunks(const LarsArgs& args, const Step& step) {
  using T = math_t<P>;
  const auto norms = choose<NormsLoop<P, G, C>>();
  const auto update =
      args.velocities.empty() ? choose<LarsLoop<false, P, G, C>>() : choose<LarsLoop<true, P, G, C>>();
  const Chunks chunks(args.params);
  const std::vector<void*> params = addresses(args.params, args.params), grads = addresses(args.grads, args.params),
                           velocities = addresses(args.velocities, args.params),
                           copies = addresses(args.copies, args.params);
  std::vector<double> param_squares(chunks.count()), grad_squares(chunks.count());
  std::vector<T> rates(params.size(), T(step.lr));
  chunks.for_each_batch([&](int64_t first, int64_t last) {
    if (step.adapt) {
      chunks.for_each(first, last, false, [&](int64_t chunk, int64_t t, int64_t begin, int64_t end) {
        double sums[2];
        norms(params[t], grads[t], copies[t], begin, end, sums);
        param_squares[chunk] = sums[0];
        grad_squares[chunk] = sums[1];
      });
      for (int64_t t = first; t < last; ++t)
        rates[t] = T(step.lr * lars_trust(chunks.sum(param_squares, t), chunks.sum(grad_squares, t), step.grad_scale,
                                          step.weight_decay, step.trust_coefficient, step.eps));
    }
    chunks.for_each(first, last, true, [&](int64_t, int64_t t, int64_t begin, int64_t end) {
      const LarsScalars<T> scalars{rates[t], T(1.0 / step.grad_scale), T(step.momentum), T(step.weight_decay),
                                   step.nesterov};
      update(grads[t], params[t], velocities[t], copies[t], begin, end, scalars);
    });
  });
}

void lars_cpu(TensorList params, TensorList grads, TensorList velocities, TensorList copies, Tensor lr,
              double momentum, double weight_decay, double trust_coefficient, double eps, bool nesterov, bool adapt,
              std::optional<Tensor> grad_scale, std::optional<Tensor> found_inf) {
  LarsArgs args{std::move(params), std::move(grads), std::move(velocities), std::move(copies)};
  check_lars(args, lr, momentum, grad_scale, found_inf);
  if (args.params.empty() || (found_inf && value_of(*found_inf) != 0)) return;

  FlatViews views = flatten(args);
  const double scale = grad_scale ? value_of(*grad_scale) : 1.0;
  const Step step{value_of(lr), scale, momentum, weight_decay, trust_coefficient, eps, nesterov, adapt};
  with_optimizer_types(args.params, args.grads, args.copies,
                       [&]<typename P, typename G, typename C>() { run_chunks<P, G, C>(args, step); });
  views.copy_back();
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("lars_", TORCH_BOX(&airank_fast::lars_cpu));
}
