// The second-order term of a factorization machine on the CPU; formula in fm_math.h, parallel over samples.
//
// Forward reads x once, e bytes per element; backward reads it once and writes its gradient, 2e bytes: it takes the sums
// again, while the sample is in the first cache, instead of reading them.
//
// With AVX-512 float and bfloat16 take the loops of fm_blocks.h. Without its masks an embedding may be shorter than a
// register. Sums are therefore taken over periods of several embeddings: lane l of a
// period has numbers of dimension l % dim. The upper half of the lanes is then added to the lower, until one embedding
// is left. After every 16 periods the lanes begin again, so that sums over many fields are as accurate as over few.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "../fm_args.h"
#include "../fm_math.h"
#include "fm_blocks.h"
#include "isa.h"
#include "numbers.h"

namespace airank_fast {
namespace {

constexpr int64_t kLanes = 64;
constexpr int64_t kPeriods = 16;
// Fewer elements are not worth a thread.
constexpr int64_t kGrain = 1 << 14;

// x has at least one number. The period is a power of two times dim, at most fields times dim.
FmShape fm_shape(const Tensor& x) {
  FmShape shape{x.size(x.dim() - 2), x.size(x.dim() - 1), x.size(x.dim() - 1)};
  while (shape.period < kLanes && 2 * shape.period <= shape.size()) shape.period *= 2;
  return shape;
}

// The lanes of at least a period of numbers.
template <bool kSquares, typename T, typename M>
HOST_DEVICE void fm_lanes(const T* __restrict v, int64_t size, int64_t period, M* __restrict sums,
                          M* __restrict squares) {
  for (int64_t l = 0; l < period; ++l) {
    const M x = load(v[l]);
    sums[l] = x;
    if constexpr (kSquares) squares[l] = x * x;
  }
  for (int64_t begin = period; begin < size; begin += period) {
    const int64_t count = size - begin < period ? size - begin : period;
    for (int64_t l = 0; l < count; ++l) {
      const M x = load(v[begin + l]);
      sums[l] += x;
      if constexpr (kSquares) squares[l] += x * x;
    }
  }
}

// room[d] becomes the sum of a sample's dimension d, and with kSquares room[period + d] that of its squares. There is
// room for four periods, and at least one number.
template <bool kSquares, typename T, typename M>
HOST_DEVICE void fm_sums(const T* v, const FmShape& shape, M* room) {
  const int64_t period = shape.period, size = shape.size(), segment = kPeriods * period;
  // The last segment has at least a period too.
  const int64_t first = size < segment + period ? size : segment;
  M* __restrict sums = room;
  M* __restrict squares = room + period;
  M* __restrict more = room + 2 * period;
  fm_lanes<kSquares>(v, first, period, sums, squares);
  for (int64_t begin = first; begin < size;) {
    const int64_t count = size - begin < segment + period ? size - begin : segment;
    fm_lanes<kSquares>(v + begin, count, period, more, more + period);
    for (int64_t l = 0; l < period; ++l) sums[l] += more[l];
    if constexpr (kSquares)
      for (int64_t l = 0; l < period; ++l) squares[l] += more[period + l];
    begin += count;
  }
  for (int64_t half = period / 2; half >= shape.dim; half /= 2) {
#pragma GCC ivdep
    for (int64_t l = 0; l < half; ++l) sums[l] += sums[l + half];
    if constexpr (kSquares) {
#pragma GCC ivdep
      for (int64_t l = 0; l < half; ++l) squares[l] += squares[l + half];
    }
  }
}

template <typename T>
struct ForwardLoop {
  using M = math_t<T>;
  using Signature = void(const void*, M*, int64_t, FmShape, M*);

  HOST_DEVICE static void run(const void* from, M* result, int64_t samples, FmShape shape, M* room) {
    const T* x = static_cast<const T*>(from);
    M* sums = room;
    const M* squares = room + shape.period;
    for (int64_t i = 0; i < samples; ++i, x += shape.size()) {
      fm_sums<true>(x, shape, room);
#pragma GCC ivdep
      for (int64_t d = 0; d < shape.dim; ++d) sums[d] = fm_term(sums[d], squares[d]);
      for (int64_t left = shape.dim; left > 1;) {
        const int64_t half = left / 2;
        left -= half;
#pragma GCC ivdep
        for (int64_t l = 0; l < half; ++l) sums[l] += sums[left + l];
      }
      result[i] = M(0.5) * sums[0];
    }
  }
};

template <typename T>
struct BackwardLoop {
  using M = math_t<T>;
  using Signature = void(const M*, const void*, void*, int64_t, FmShape, M*);

  HOST_DEVICE static void run(const M* grads, const void* from, void* to, int64_t samples, FmShape shape, M* room) {
    const T* x = static_cast<const T*>(from);
    T* dx = static_cast<T*>(to);
    for (int64_t i = 0; i < samples; ++i, x += shape.size(), dx += shape.size()) {
      fm_sums<false>(x, shape, room);
      for (int64_t half = shape.dim; half < shape.period; half *= 2) {
#pragma GCC ivdep
        for (int64_t l = 0; l < half; ++l) room[half + l] = room[l];
      }
      const M grad = grads[i];
      for (int64_t begin = 0; begin < shape.size(); begin += shape.period) {
        const int64_t left = shape.size() - begin, count = left < shape.period ? left : shape.period;
        const T* __restrict v = x + begin;
        const M* __restrict sums = room;
        T* __restrict dv = dx + begin;
        for (int64_t l = 0; l < count; ++l) store(&dv[l], fm_gradient(grad, sums[l], M(load(v[l]))));
      }
    }
  }
};

template <typename T>
auto forward_loop() {
#ifdef AIRANK_FAST_X86_VARIANTS
  if constexpr (kFmHasBlocks<T>)
    if (isa() >= Isa::avx512) return &fm_forward_blocks<T>;
#endif
  return choose<ForwardLoop<T>>();
}

template <typename T>
auto backward_loop() {
#ifdef AIRANK_FAST_X86_VARIANTS
  if constexpr (kFmHasBlocks<T>)
    if (isa() >= Isa::avx512) return &fm_backward_blocks<T>;
#endif
  return choose<BackwardLoop<T>>();
}

// Calls run(T{}) with the element type.
template <typename Run>
void with_fm_type(const Tensor& x, Run run) {
  switch (x.scalar_type()) {
    case ScalarType::Double: return run(double{});
    case ScalarType::BFloat16: return run(bfloat16{});
    case ScalarType::Half: return run(float16{});
    default: return run(float{});
  }
}

// Calls work(first sample, samples, room for four periods) for every thread's part.
template <typename M, typename Work>
void over_samples(int64_t samples, const FmShape& shape, Work work) {
  const int64_t grain = std::max<int64_t>(1, kGrain / shape.size());
  torch::stable::parallel_for(0, samples, grain, [&](int64_t begin, int64_t end) {
    std::vector<M> room(static_cast<size_t>(4 * shape.period));
    work(begin, end - begin, room.data());
  });
}

Tensor fm_cpu(Tensor x) {
  check_fm(x);
  if (x.numel() == 0) return torch::stable::new_zeros(x, fm_sizes(x), fm_dtype(x));
  const FmShape shape = fm_shape(x);
  x = as_contiguous(x);
  Tensor result = empty_beside(x, fm_sizes(x), fm_dtype(x));
  with_fm_type(x, [&](auto element) {
    using T = decltype(element);
    using M = math_t<T>;
    const auto loop = forward_loop<T>();
    const T* from = static_cast<const T*>(x.data_ptr());
    M* to = static_cast<M*>(result.data_ptr());
    over_samples<M>(fm_samples(x), shape, [&](int64_t first, int64_t samples, M* room) {
      loop(from + first * shape.size(), to + first, samples, shape, room);
    });
  });
  return result;
}

Tensor fm_backward_cpu(Tensor grad, Tensor x) {
  check_fm_backward(grad, x);
  grad = as_contiguous(grad);
  x = as_contiguous(x);
  Tensor dx = empty_beside(x, x.sizes());
  if (x.numel() == 0) return dx;
  const FmShape shape = fm_shape(x);
  with_fm_type(x, [&](auto element) {
    using T = decltype(element);
    using M = math_t<T>;
    const auto loop = backward_loop<T>();
    const M* grads = static_cast<const M*>(grad.data_ptr());
    const T* from = static_cast<const T*>(x.data_ptr());
    T* to = static_cast<T*>(dx.data_ptr());
    over_samples<M>(fm_samples(x), shape, [&](int64_t first, int64_t samples, M* room) {
      loop(grads + first, from + first * shape.size(), to + first * shape.size(), samples, shape, room);
    });
  });
  return dx;
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("fm", TORCH_BOX(&airank_fast::fm_cpu));
  m.impl("fm_backward", TORCH_BOX(&airank_fast::fm_backward_cpu));
}
