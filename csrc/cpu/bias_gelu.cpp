// GELU of x + bias on the CPU: formula in bias_gelu_math.h, one pass over the rows of x.
//
// Forward moves 2e bytes per element. Backward recomputes everything from x, moves 3e bytes, and sums the bias's
// gradient in float32 (float64 for float64): per chunk of rows and tile of columns in the first cache, then over the
// chunks in order, in float64. Chunks and tiles do not depend on the number of threads, and so neither does the result.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../bias_gelu_args.h"
#include "../bias_gelu_math.h"
#include "isa.h"
#include "numbers.h"
#include "round_pairs.h"
#include "streaming.h"

namespace airank_fast {
namespace {

constexpr int64_t kTile = 2048;
constexpr int64_t kRowsPerChunk = 64;
// Fewer elements are not worth a thread.
constexpr int64_t kGrain = 1 << 13;

// Elements that are computed in float before they are rounded, where the processor rounds.
constexpr int64_t kBlock = 512;

// Calls f(begin, end, results) for blocks of [0, size), which sets results[i - begin], and rounds the results to `to`.
template <typename T, typename F>
HOST_DEVICE void in_blocks(int64_t size, T* to, bool past_cache, F f) {
  float results[kBlock];
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, size);
    f(begin, end, results);
    round_row(results, to + begin, end - begin, past_cache);
  }
}

template <bool kTanh, typename T>
struct ForwardLoop {
  using M = math_t<T>;
  using Signature = void(const void*, const M*, void*, int64_t, bool);

  HOST_DEVICE static void run(const void* from, const M* __restrict bias, void* to, int64_t size, bool past_cache) {
    const T* __restrict x = static_cast<const T*>(from);
    T* __restrict y = static_cast<T*>(to);
    if constexpr (std::is_same_v<T, bfloat16>) {
      if (rounds_pairs())
        return in_blocks(size, y, past_cache, [&](int64_t begin, int64_t end, float* __restrict results)
                             __attribute__((always_inline)) {
          for (int64_t i = begin; i < end; ++i) results[i - begin] = Gelu::value<kTanh>(load(x[i]) + bias[i]);
        });
    }
    for (int64_t i = 0; i < size; ++i) store(&y[i], Gelu::value<kTanh>(load(x[i]) + bias[i]));
  }
};

// `sums` has room for the tile; it is added to.
template <bool kTanh, typename T>
struct BackwardLoop {
  using M = math_t<T>;
  using Signature = void(const void*, const void*, const M*, void*, M*, int64_t, bool);

  HOST_DEVICE static void run(const void* grads, const void* from, const M* __restrict bias, void* to,
                              M* __restrict sums, int64_t size, bool past_cache) {
    const T* __restrict grad = static_cast<const T*>(grads);
    const T* __restrict x = static_cast<const T*>(from);
    T* __restrict dx = static_cast<T*>(to);
    if constexpr (std::is_same_v<T, bfloat16>) {
      if (rounds_pairs())
        return in_blocks(size, dx, past_cache, [&](int64_t begin, int64_t end, float* __restrict slopes)
                             __attribute__((always_inline)) {
          for (int64_t i = begin; i < end; ++i) {
            slopes[i - begin] = load(grad[i]) * Gelu::slope<kTanh>(load(x[i]) + bias[i]);
            sums[i] += slopes[i - begin];
          }
        });
    }
    for (int64_t i = 0; i < size; ++i) {
      const M slope = load(grad[i]) * Gelu::slope<kTanh>(load(x[i]) + bias[i]);
      sums[i] += slope;
      store(&dx[i], slope);
    }
  }
};

// Calls run(T{}) with the element type.
template <typename Run>
void with_type_of(const Tensor& tensor, Run run) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return run(double{});
    case ScalarType::BFloat16: return run(bfloat16{});
    case ScalarType::Half: return run(float16{});
    default: return run(float{});
  }
}

template <typename M>
std::vector<M> widened(const Tensor& bias) {
  std::vector<M> wide(static_cast<size_t>(bias.numel()));
  const Tensor dense = as_contiguous(bias);
  with_type_of(bias, [&](auto element) {
    const auto* from = static_cast<const decltype(element)*>(dense.data_ptr());
    for (size_t i = 0; i < wide.size(); ++i) wide[i] = M(load(from[i]));
  });
  return wide;
}

template <bool kTanh, typename T>
void forward(const Tensor& x, const Tensor& bias, const Tensor& y) {
  const std::vector<math_t<T>> wide = widened<math_t<T>>(bias);
  const auto loop = choose<ForwardLoop<kTanh, T>>();
  const T* from = static_cast<const T*>(x.data_ptr());
  T* to = static_cast<T*>(y.data_ptr());
  const int64_t features = bias.size(0);
  const bool past_cache = streams(to, 1, x.numel() * int64_t(sizeof(T)));
  torch::stable::parallel_for(0, x.numel(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end;) {
      const int64_t column = i % features, size = std::min(end - i, features - column);
      loop(from + i, wide.data() + column, to + i, size, past_cache);
      i += size;
    }
    if (past_cache) stream_end();
  });
}

// `partial` is [chunks, features].
template <bool kTanh, typename T>
void backward(const Tensor& grad, const Tensor& x, const Tensor& bias, const Tensor& dx, int64_t rows,
              int64_t rows_per_chunk, int64_t num_chunks, math_t<T>* partial) {
  const std::vector<math_t<T>> wide = widened<math_t<T>>(bias);
  const auto loop = choose<BackwardLoop<kTanh, T>>();
  const T* grads = static_cast<const T*>(grad.data_ptr());
  const T* from = static_cast<const T*>(x.data_ptr());
  T* to = static_cast<T*>(dx.data_ptr());
  const int64_t features = bias.size(0), num_tiles = (features + kTile - 1) / kTile;
  const bool past_cache = streams(to, rows, features * int64_t(sizeof(T)));
  torch::stable::parallel_for(0, num_chunks * num_tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task / num_tiles, column = task % num_tiles * kTile;
      const int64_t size = std::min(kTile, features - column);
      math_t<T>* sums = partial + chunk * features + column;
      std::fill_n(sums, size, math_t<T>(0));
      for (int64_t row = chunk * rows_per_chunk; row < std::min(rows, (chunk + 1) * rows_per_chunk); ++row) {
        const int64_t at = row * features + column;
        loop(grads + at, from + at, wide.data() + column, to + at, sums, size, past_cache);
      }
    }
    if (past_cache) stream_end();
  });
}

// The chunks' sums, which are large compared with their terms, are added in float64.
template <typename M>
void add_chunks(const M* partial, int64_t num_chunks, int64_t features, const Tensor& bias_gradient) {
  std::vector<double> sums(partial, partial + features);
  for (int64_t chunk = 1; chunk < num_chunks; ++chunk)
    for (int64_t i = 0; i < features; ++i) sums[static_cast<size_t>(i)] += double(partial[chunk * features + i]);
  with_type_of(bias_gradient, [&](auto element) {
    using B = decltype(element);
    B* to = static_cast<B*>(bias_gradient.data_ptr());
    for (int64_t i = 0; i < features; ++i) store(&to[i], math_t<B>(sums[static_cast<size_t>(i)]));
  });
}

Tensor bias_gelu_cpu(Tensor x, Tensor bias, std::string approximate) {
  check_bias_gelu(x, bias, approximate);
  x = as_contiguous(x);
  Tensor y = empty_beside(x, x.sizes());
  if (x.numel() == 0) return y;
  with_type_of(x, [&](auto element) {
    using T = decltype(element);
    return approximate == "tanh" ? forward<true, T>(x, bias, y) : forward<false, T>(x, bias, y);
  });
  return y;
}

std::tuple<Tensor, Tensor> bias_gelu_backward_cpu(Tensor grad, Tensor x, Tensor bias, std::string approximate) {
  check_bias_gelu_backward(grad, x, bias, approximate);
  grad = as_contiguous(grad);
  x = as_contiguous(x);
  const int64_t features = bias.size(0);
  if (x.numel() == 0) return {empty_beside(x, x.sizes()), torch::stable::new_zeros(bias, {features})};
  Tensor dx = empty_beside(x, x.sizes());
  Tensor bias_gradient = empty_beside(bias, {features});
  const int64_t rows = x.numel() / features;
  const int64_t rows_per_chunk = std::max(kRowsPerChunk, (rows + 255) / 256);
  const int64_t num_chunks = (rows + rows_per_chunk - 1) / rows_per_chunk;
  with_type_of(x, [&](auto element) {
    using T = decltype(element);
    std::vector<math_t<T>> partial(static_cast<size_t>(num_chunks * features));
    const auto run = approximate == "tanh" ? &backward<true, T> : &backward<false, T>;
    run(grad, x, bias, dx, rows, rows_per_chunk, num_chunks, partial.data());
    add_chunks(partial.data(), num_chunks, features, bias_gradient);
  });
  return {dx, bias_gradient};
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("bias_gelu", TORCH_BOX(&airank_fast::bias_gelu_cpu));
  m.impl("bias_gelu_backward", TORCH_BOX(&airank_fast::bias_gelu_backward_cpu));
}
