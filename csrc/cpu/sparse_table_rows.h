// What the loops over a table share: rows fetched before they are used, the grain of threads.
#pragma once

#include <algorithm>

#include "../sparse_table_math.h"
#include "../tensors.h"
#include "numbers.h"
#include "streaming.h"

namespace airank_fast {

// Look-ups whose rows are fetched together.
constexpr int64_t kTableBlock = 64;
// Rows that are fetched ahead where they are added one by one.
constexpr int64_t kTableAhead = 8;
// Fewer numbers are not worth a thread.
constexpr int64_t kTableGrain = 1 << 13;

inline int64_t table_rows_per_thread(int64_t dim) {
  return std::max<int64_t>(1, kTableGrain / std::max<int64_t>(1, dim));
}

HOST_DEVICE void fetch_row(const void* row, int64_t num_bytes) {
  constexpr int64_t kMostBytes = 512;  // the processor sees by itself how a longer row goes on
  const char* at = static_cast<const char*>(row);
  for (int64_t i = 0; i < std::min(num_bytes, kMostBytes); i += kLineBytes) __builtin_prefetch(at + i);
  __builtin_prefetch(at + num_bytes - 1);
}

// The sum of the gradients [begin, end), at least one, in their order. gradient(i) is the address of gradient i, of
// `dim` numbers, and its factor; `last` is the last one that may be fetched.
template <typename M, typename Gradient>
HOST_DEVICE void sum_of_run(int64_t begin, int64_t end, int64_t last, int64_t dim, Gradient gradient,
                            M* __restrict sum) {
  for (int64_t i = begin; i < end; ++i) {
    const auto* ahead = gradient(std::min(i + kTableAhead, last)).first;
    fetch_row(ahead, dim * int64_t(sizeof(*ahead)));
    const auto* __restrict numbers = gradient(i).first;
    const M factor = gradient(i).second;
    if (i == begin)
      for (int64_t d = 0; d < dim; ++d) sum[d] = factor * load(numbers[d]);
    else
      for (int64_t d = 0; d < dim; ++d) sum[d] += factor * load(numbers[d]);
  }
}

// The same in partial sums of kTableRun; `partial` has room for one.
template <typename M, typename Gradient>
HOST_DEVICE void sum_of_row(int64_t begin, int64_t end, int64_t last, int64_t dim, Gradient gradient,
                            M* __restrict sum, M* __restrict partial) {
  sum_of_run(begin, std::min(begin + kTableRun, end), last, dim, gradient, sum);
  for (int64_t i = begin + kTableRun; i < end; i += kTableRun) {
    sum_of_run(i, std::min(i + kTableRun, end), last, dim, gradient, partial);
    for (int64_t d = 0; d < dim; ++d) sum[d] += partial[d];
  }
}

// Calls run(T{}) with the type of the tensor's numbers.
template <typename Run>
void with_table_type(const Tensor& tensor, Run run) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double: return run(double{});
    case ScalarType::BFloat16: return run(bfloat16{});
    case ScalarType::Half: return run(float16{});
    default: return run(float{});
  }
}

inline int64_t number_bytes(const Tensor& tensor) {
  int64_t num_bytes = 0;
  with_table_type(tensor, [&](auto number) { num_bytes = sizeof(number); });
  return num_bytes;
}

}  // namespace airank_fast
