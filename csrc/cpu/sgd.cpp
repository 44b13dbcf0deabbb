// SGD on the CPU: one pass over the memory of a whole parameter list, formula in sgd_math.h.
//
// The elements of all tensors form one range, divided evenly among the threads, so that a list of many small
// tensors needs one parallel region. Per element it moves 16 bytes (parameter and buffer, read and
// written), the gradient, and 4 for a 16-bit copy of the parameter, read and written, where there is one.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "../sgd_args.h"
#include "../sgd_math.h"
#include "isa.h"
#include "numbers.h"

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

struct Piece {
  const void* grad;
  void* param;
  void* buffer;
  void* copy;
  int64_t first;  // position of element 0 in the range of all elements
  int64_t size;
};

// Boundaries between two threads are multiples of this, so that both have aligned vectors.
constexpr int64_t kAlignment = 64;
// Fewer are not worth a thread.
constexpr int64_t kGrain = 1 << 14;

template <typename P, typename G, typename C>
void run_pieces(const std::vector<Piece>& pieces, bool has_momentum, const SgdScalars<double>& s) {
  using T = math_t<P>;
  const SgdScalars<T> scalars{T(s.lr),         T(s.factor),       T(s.momentum),
                              T(s.undampened), T(s.weight_decay), s.nesterov};
  const auto loop = has_momentum ? choose<SgdLoop<true, P, G, C>>() : choose<SgdLoop<false, P, G, C>>();
  const int64_t total = pieces.back().first + pieces.back().size;
  torch::stable::parallel_for(0, total, kGrain, [&](int64_t begin, int64_t end) {
    auto piece = std::upper_bound(pieces.begin(), pieces.end(), begin,
                                  [](int64_t at, const Piece& p) { return at < p.first + p.size; });
    for (; piece != pieces.end() && piece->first < end; ++piece) {
      const auto inside = [&](int64_t at) {
        return at >= piece->first + piece->size ? piece->size
                                                : std::max<int64_t>(0, at - piece->first) / kAlignment * kAlignment;
      };
      loop(piece->grad, piece->param, piece->buffer, piece->copy, inside(begin), inside(end), scalars);
    }
  });
}

template <typename P, typename G>
void run_with_copies(const SgdArgs& args, const std::vector<Piece>& pieces, const SgdScalars<double>& s) {
  const bool has_momentum = !args.buffers.empty();
  if (args.copies.empty()) return run_pieces<P, G, NoCopy>(pieces, has_momentum, s);
  if constexpr (std::is_same_v<P, float>) {
    if (args.copies[0].scalar_type() == ScalarType::BFloat16)
      return run_pieces<P, G, bfloat16>(pieces, has_momentum, s);
    return run_pieces<P, G, float16>(pieces, has_momentum, s);
  }
}

void run_list(const SgdArgs& args, const std::vector<Piece>& pieces, const SgdScalars<double>& s) {
  switch (args.params[0].scalar_type()) {
    case ScalarType::Double: return run_with_copies<double, double>(args, pieces, s);
    case ScalarType::BFloat16: return run_with_copies<bfloat16, bfloat16>(args, pieces, s);
    case ScalarType::Half: return run_with_copies<float16, float16>(args, pieces, s);
    default: break;
  }
  switch (args.grads[0].scalar_type()) {
    case ScalarType::BFloat16: return run_with_copies<float, bfloat16>(args, pieces, s);
    case ScalarType::Half: return run_with_copies<float, float16>(args, pieces, s);
    default: return run_with_copies<float, float>(args, pieces, s);
  }
}

double value_of(const Tensor& scalar) {
  return scalar.scalar_type() == ScalarType::Double ? *static_cast<const double*>(scalar.data_ptr())
                                                    : *static_cast<const float*>(scalar.data_ptr());
}

void sgd_cpu(TensorList params, TensorList grads, TensorList buffers, TensorList copies, Tensor lr,
             double momentum, double dampening, double weight_decay, bool nesterov, bool maximize,
             std::optional<Tensor> grad_scale, std::optional<Tensor> found_inf) {
  SgdArgs args{std::move(params), std::move(grads), std::move(buffers), std::move(copies)};
  check_sgd(args, lr, momentum, grad_scale, found_inf);
  if (args.params.empty() || (found_inf && value_of(*found_inf) != 0)) return;

  FlatViews views = flatten(args);
  std::vector<Piece> pieces;
  int64_t total = 0;
  for (size_t i = 0; i < args.params.size(); ++i) {
    const int64_t size = args.params[i].numel();
    if (size == 0) continue;
    pieces.push_back({args.grads[i].data_ptr(), args.params[i].data_ptr(),
                      args.buffers.empty() ? nullptr : args.buffers[i].data_ptr(),
                      args.copies.empty() ? nullptr : args.copies[i].data_ptr(), total, size});
    total += size;
  }
  if (pieces.empty()) return;
  const double factor = (maximize ? -1.0 : 1.0) / (grad_scale ? value_of(*grad_scale) : 1.0);
  run_list(args, pieces, {value_of(lr), factor, momentum, 1.0 - dampening, weight_decay, nesterov});
  views.copy_back();
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("sgd_", TORCH_BOX(&airank_fast::sgd_cpu));
}
