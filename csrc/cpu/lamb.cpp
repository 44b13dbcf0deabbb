// LAMB on the CPU; formula in lamb_math.h.
//
// Two passes over each batch of tensors (see chunks.h): moments, and the norms of parameter and update; then the
// update, which is recomputed from the moments instead of stored. From memory a parameter moves, in float32,
// 24 bytes in the first pass (gradient, parameter, both moments read, moments written) and 4 to 16 in the second
// (parameter and moments from the cache where the batch fits, parameter written). A 16-bit copy is read twice and
// written. The norm over all gradients, 4 bytes more, is the op global_norm.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <optional>
#include <vector>

#include "../lamb_args.h"
#include "chunks.h"
#include "isa.h"

namespace airank_fast {
namespace {

// First pass over a chunk: new moments; sums[0] of the squares of the parameters, sums[1] of the updates.
template <LambDecay kDecay, typename P, typename G, typename C>
struct MomentsLoop {
  using T = math_t<P>;
  using Signature = void(const void*, const void*, const void*, void*, void*, int64_t, int64_t, LambScalars<T>, double*);
  static constexpr int kBlock = Squares<T>::kLanes;

  HOST_DEVICE static void block(const P* __restrict param, const G* __restrict grad, const C* __restrict copy,
                                T* __restrict m, T* __restrict v, int size, const LambScalars<T>& s,
                                Squares<T>& params, Squares<T>& updates) {
#pragma GCC ivdep
    for (int k = 0; k < size; ++k) {
      const T w = newest_at(param, copy, k);
      T new_m = m[k], new_v = v[k];
      lamb_moments(w, T(load(grad[k])), new_m, new_v, kDecay, s);
      m[k] = new_m;
      v[k] = new_v;
      const T u = lamb_update(w, new_m, new_v, kDecay, s);
      params.lane[k] += w * w;
      updates.lane[k] += u * u;
    }
  }

  HOST_DEVICE static void run(const void* params, const void* grads, const void* copies, void* ms, void* vs,
                              int64_t begin, int64_t end, LambScalars<T> scalars, double* sums) {
    const P* param = static_cast<const P*>(params);
    const G* grad = static_cast<const G*>(grads);
    const C* copy = static_cast<const C*>(copies);
    T *m = static_cast<T*>(ms), *v = static_cast<T*>(vs);
    Squares<T> of_params, of_updates;
    int64_t i = begin;
    for (; i + kBlock <= end; i += kBlock)
      block(param + i, grad + i, element(copy, i), m + i, v + i, kBlock, scalars, of_params, of_updates);
    block(param + i, grad + i, element(copy, i), m + i, v + i, int(end - i), scalars, of_params, of_updates);
    sums[0] = of_params.total();
    sums[1] = of_updates.total();
  }
};

// Second pass: the new parameters, and their 16-bit copies.
template <LambDecay kDecay, typename P, typename C>
struct UpdateLoop {
  using T = math_t<P>;
  using Signature = void(void*, const void*, const void*, void*, int64_t, int64_t, LambScalars<T>, T);

  HOST_DEVICE static void run(void* params, const void* ms, const void* vs, void* copies, int64_t begin, int64_t end,
                              LambScalars<T> scalars, T rate) {
    P* __restrict param = static_cast<P*>(params);
    const T* __restrict m = static_cast<const T*>(ms);
    const T* __restrict v = static_cast<const T*>(vs);
    C* __restrict copy = static_cast<C*>(copies);
#pragma GCC ivdep
    for (int64_t i = begin; i < end; ++i) {
      const T old = newest_at(param, copy, i);
      const T updated = old - rate * lamb_update(old, m[i], v[i], kDecay, scalars);
      store(&param[i], updated);
      if constexpr (!std::is_same_v<C, NoCopy>) store(&copy[i], updated);
    }
  }
};

template <typename P, typename G, typename C>
void run_chunks(const LambArgs& args, const LambOptions& options, double lr, const LambScalars<math_t<P>>& scalars) {
  using T = math_t<P>;
  const LambDecay decay = lamb_decay(options);
  const auto moments = decay == LambDecay::kNone       ? choose<MomentsLoop<LambDecay::kNone, P, G, C>>()
                       : decay == LambDecay::kGradient ? choose<MomentsLoop<LambDecay::kGradient, P, G, C>>()
                                                       : choose<MomentsLoop<LambDecay::kUpdate, P, G, C>>();
  const auto update = decay == LambDecay::kUpdate ? choose<UpdateLoop<LambDecay::kUpdate, P, C>>()
                                                  : choose<UpdateLoop<LambDecay::kNone, P, C>>();
  const Chunks chunks(args.params);
  const std::vector<void*> params = addresses(args.params, args.params), grads = addresses(args.grads, args.params),
                           ms = addresses(args.exp_avgs, args.params), vs = addresses(args.exp_avg_sqs, args.params),
                           copies = addresses(args.copies, args.params);
  std::vector<double> param_squares(chunks.count()), update_squares(chunks.count());
  std::vector<T> rates(params.size());
  chunks.for_each_batch([&](int64_t first, int64_t last) {
    chunks.for_each(first, last, false, [&](int64_t chunk, int64_t t, int64_t begin, int64_t end) {
      double sums[2];
      moments(params[t], grads[t], copies[t], ms[t], vs[t], begin, end, scalars, sums);
      param_squares[chunk] = sums[0];
      update_squares[chunk] = sums[1];
    });
    for (int64_t t = first; t < last; ++t)
      rates[t] = T(lamb_scales_tensors(options)
                       ? lr * lamb_trust(chunks.sum(param_squares, t), chunks.sum(update_squares, t))
                       : lr);
    chunks.for_each(first, last, true, [&](int64_t, int64_t t, int64_t begin, int64_t end) {
      update(params[t], ms[t], vs[t], copies[t], begin, end, scalars, rates[t]);
    });
  });
}

void lamb_cpu(TensorList params, TensorList grads, TensorList exp_avgs, TensorList exp_avg_sqs, TensorList copies,
              Tensor lr, Tensor step, double beta1, double beta2, double eps, double weight_decay,
              bool bias_correction, bool grad_averaging, bool adam_w_mode, bool use_nvlamb, double max_grad_norm,
              std::optional<Tensor> grad_norm, std::optional<Tensor> grad_scale, std::optional<Tensor> found_inf) {
  LambArgs args{std::move(params), std::move(grads), std::move(exp_avgs), std::move(exp_avg_sqs), std::move(copies)};
  check_lamb(args, {lr, step, grad_norm, grad_scale, found_inf});
  if (args.params.empty() || (found_inf && value_of(*found_inf) != 0)) return;

  FlatViews views = flatten(args);
  const LambOptions options{beta1,           beta2,          eps,         weight_decay, max_grad_norm,
                            bias_correction, grad_averaging, adam_w_mode, use_nvlamb};
  const double scale = grad_scale ? value_of(*grad_scale) : 1.0, norm = grad_norm ? value_of(*grad_norm) : 0.0;
  with_optimizer_types(args.params, args.grads, args.copies, [&]<typename P, typename G, typename C>() {
    run_chunks<P, G, C>(args, options, value_of(lr),
                        lamb_scalars<math_t<P>>(options, value_of(step), scale, norm));
  });
  views.copy_back();
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("lamb_", TORCH_BOX(&airank_fast::lamb_cpu));
}
