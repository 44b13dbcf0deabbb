// SGD on the CPU: one pass over the memory of a whole parameter list, formula in sgd_math.h. Per element it moves 16
// bytes (parameter and buffer, read and written), the gradient, and 4 for a 16-bit copy of the parameter, read and
// written, where there is one.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "../sgd_args.h"
#include "../sgd_math.h"
#include "isa.h"
#include "lists.h"

namespace airank_fast {
namespace {

template <bool kMomentum, typename P, typename G, typename C>
struct SgdLoop {
  using Signature = void(const void*, void*, void*, void*, int64_t, int64_t, SgdScalars<math_t<P>>);

  HOST_DEVICE static void run(const void* grads, void* params, void* buffers, void* copies, int64_t begin,
                              int64_t end, SgdScalars<math_t<P>> scalars) {
    const G* __restrict grad = static_cast<const G*>(grads);
    P* __restrict param = static_cast<P*>(params);
    P* __restrict buffer = static_cast<P*>(buffers);
    C* __restrict copy = static_cast<C*>(copies);
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) {
      math_t<P> momentum = 0;
      if constexpr (kMomentum) momentum = load(buffer[i]);
      const math_t<P> updated =
          sgd_step<kMomentum>(newest_at(param, copy, i), math_t<P>(load(grad[i])), momentum, scalars);
      if constexpr (kMomentum) store(&buffer[i], momentum);
      store(&param[i], updated);
      if constexpr (!std::is_same_v<C, NoCopy>) store(&copy[i], updated);
    }
  }
};

template <typename P, typename G, typename C>
void run_list(const SgdArgs& args, const SgdScalars<double>& s) {
  using T = math_t<P>;
  const SgdScalars<T> scalars{T(s.lr),         T(s.factor),       T(s.momentum),
                              T(s.undampened), T(s.weight_decay), s.nesterov};
  const auto loop = args.buffers.empty() ? choose<SgdLoop<false, P, G, C>>() : choose<SgdLoop<true, P, G, C>>();
  const std::vector<void*> params = addresses(args.params, args.params), grads = addresses(args.grads, args.params),
                           buffers = addresses(args.buffers, args.params),
                           copies = addresses(args.copies, args.params);
  ElementRange(args.params).for_each([&](int64_t t, int64_t begin, int64_t end) {
    loop(grads[t], params[t], buffers[t], copies[t], begin, end, scalars);
  });
}

void sgd_cpu(TensorList params, TensorList grads, TensorList buffers, TensorList copies, Tensor lr,
             double momentum, double dampening, double weight_decay, bool nesterov, bool maximize,
             std::optional<Tensor> grad_scale, std::optional<Tensor> found_inf) {
  SgdArgs args{std::move(params), std::move(grads), std::move(buffers), std::move(copies)};
  check_sgd(args, lr, momentum, grad_scale, found_inf);
  if (args.params.empty() || (found_inf && value_of(*found_inf) != 0)) return;

  FlatViews views = flatten(args);
  const double factor = (maximize ? -1.0 : 1.0) / (grad_scale ? value_of(*grad_scale) : 1.0);
  const SgdScalars<double> scalars{value_of(lr), factor, momentum, 1.0 - dampening, weight_decay, nesterov};
  with_optimizer_types(args.params, args.grads, args.copies,
                       [&]<typename P, typename G, typename C>() { run_list<P, G, C>(args, scalars); });
  views.copy_back();
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("sgd_", TORCH_BOX(&airank_fast::sgd_cpu));
}
