// What torch does for the kernels of a table: it sorts look-ups by row, and finds where rows begin.
#pragma once

#include <array>
#include <optional>
#include <utility>

#include "binding.h"
#include "sparse_table_rows.h"

namespace airank_fast {

inline IdsAddress table_ids_of(const Tensor& ids) { return {ids.data_ptr(), ids.scalar_type() == ScalarType::Int}; }

// The ids in ascending order, and where each was, int64; equal ones stay in their order.
inline std::pair<Tensor, Tensor> sorted_table_ids(const Tensor& ids) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 4> stack{from(ids), from(std::optional<bool>(true)), from(int64_t(0)), from(false)};
  check_torch(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
}

// The places of the numbers that are not 0, [places, 1]. The host waits for their number.
inline Tensor places_of_flags(const Tensor& flags) {
  std::array<StableIValue, 1> stack{torch::stable::detail::from(flags)};
  check_torch(torch_call_dispatcher("aten::nonzero", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// Sorted look-ups and their gradients; valid as long as the tensors.
inline SortedGradients sorted_gradients(const Tensor& rows, const Tensor& order, const Tensor& grads,
                                        const Tensor& partials, int64_t absent) {
  SortedGradients of;
  of.dtype = dtype_of(grads);
  of.num_ids = rows.numel();
  of.dim = grads.size(1);
  of.rows = table_ids_of(rows);
  of.order = static_cast<const int64_t*>(order.data_ptr());
  of.absent = absent;
  of.grads = grads.data_ptr();
  of.partials = partials.data_ptr();
  return of;
}

}  // namespace airank_fast
