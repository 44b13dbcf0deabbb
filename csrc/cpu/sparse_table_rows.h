// What the loops over a table share: rows fetched before they are used, the grain of threads, the check of ids.
#pragma once

#include <algorithm>
#include <vector>

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

inline int64_t table_id_at(const Tensor& ids, int64_t i) {
  return ids.scalar_type() == ScalarType::Int ? static_cast<const int32_t*>(ids.data_ptr())[i]
                                              : static_cast<const int64_t*>(ids.data_ptr())[i];
}

// Throws for the first id, of contiguous ones, that is not in its slot, if there is one.
inline void check_inside(const char* op, const char* name, const Tensor& ids, const std::vector<int64_t>& sizes) {
  for (int64_t i = 0; i < ids.numel(); ++i) {
    const int64_t size = sizes[size_t(i) % sizes.size()], id = table_id_at(ids, i);
    if (id >= 0 && id < size) continue;
    std::vector<int64_t> place(size_t(ids.dim()));
    int64_t rest = i;
    for (size_t d = place.size(); d-- > 0; rest /= ids.size(int64_t(d))) place[d] = rest % ids.size(int64_t(d));
    throw_argument(op, ": ", name, text_of(Sizes(place.data(), place.size())), " must be in [0, ", size, "), got ", id);
  }
}

}  // namespace airank_fast
