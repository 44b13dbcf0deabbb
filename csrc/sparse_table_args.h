// The arguments of airank_fast::sparse_table_lookup, _bag and _bag_backward, with the same checks on every device.
#pragma once

#include <vector>

#include "tensors.h"

namespace airank_fast {

inline void check_table(const char* op, const Tensor& table) {
  const ScalarType dtype = table.scalar_type();
  CHECK_ARGUMENT(table.dim() == 2, op, ": table must have shape [rows, dim], got ", shape_of(table));
  CHECK_ARGUMENT(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
                     dtype == ScalarType::Half,
                 op, ": table must be float32, float64, bfloat16 or float16, got ", name_of(dtype));
  CHECK_ARGUMENT(table.is_contiguous(), op, ": table must be contiguous, got strides ", text_of(table.strides()));
}

inline void check_table_ids(const char* op, const Tensor& ids, const Tensor& like) {
  CHECK_ARGUMENT(same_device(ids, like), op, ": ids must be on ", device_of(like), ", got ", device_of(ids));
  CHECK_ARGUMENT(ids.scalar_type() == ScalarType::Long || ids.scalar_type() == ScalarType::Int, op,
                 ": ids must be int64 or int32, got ", name_of(ids.scalar_type()));
}

inline void check_int64(const char* op, const char* name, const Tensor& tensor, const Tensor& like) {
  CHECK_ARGUMENT(same_device(tensor, like), op, ": ", name, " must be on ", device_of(like), ", got ",
                 device_of(tensor));
  CHECK_ARGUMENT(tensor.scalar_type() == ScalarType::Long, op, ": ", name, " must be int64, got ",
                 name_of(tensor.scalar_type()));
}

inline void check_sparse_table_lookup(const Tensor& table, const Tensor& ids, const OptionalTensor& first_rows) {
  const char* op = "sparse_table_lookup";
  check_table(op, table);
  check_table_ids(op, ids, table);
  if (!first_rows) return;
  CHECK_ARGUMENT(ids.dim() >= 1, op, ": ids must have shape [..., slots], got []");
  check_int64(op, "first_rows", *first_rows, table);
  const int64_t slots = ids.size(ids.dim() - 1);
  CHECK_ARGUMENT(first_rows->dim() == 1 && first_rows->size(0) == slots, op, ": first_rows must have shape [", slots,
                 "], got ", shape_of(*first_rows));
}

inline void check_bag_ids(const char* op, const Tensor& ids, const Tensor& offsets, const OptionalTensor& weights,
                          const Tensor& like) {
  check_table_ids(op, ids, like);
  CHECK_ARGUMENT(ids.dim() == 1, op, ": ids must have shape [ids], got ", shape_of(ids));
  check_int64(op, "offsets", offsets, like);
  CHECK_ARGUMENT(offsets.dim() == 1 && offsets.size(0) >= 1, op, ": offsets must have shape [bags + 1], got ",
                 shape_of(offsets));
  if (!weights) return;
  const ScalarType math = like.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  CHECK_ARGUMENT(same_device(*weights, like), op, ": weights must be on ", device_of(like), ", got ",
                 device_of(*weights));
  CHECK_ARGUMENT(weights->scalar_type() == math, op, ": weights must be ", name_of(math), ", got ",
                 name_of(weights->scalar_type()));
  CHECK_ARGUMENT(same_shape(*weights, ids), op, ": weights must have shape ", shape_of(ids), ", got ",
                 shape_of(*weights));
}

inline void check_sparse_table_bag(const Tensor& table, const Tensor& ids, const Tensor& offsets,
                                   const OptionalTensor& weights) {
  const char* op = "sparse_table_bag";
  check_table(op, table);
  check_bag_ids(op, ids, offsets, weights, table);
}

inline void check_sparse_table_bag_backward(const Tensor& grad, const Tensor& ids, const Tensor& offsets,
                                            const OptionalTensor& weights) {
  const char* op = "sparse_table_bag_backward";
  const ScalarType dtype = grad.scalar_type();
  CHECK_ARGUMENT(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
                     dtype == ScalarType::Half,
                 op, ": grad must be float32, float64, bfloat16 or float16, got ", name_of(dtype));
  check_bag_ids(op, ids, offsets, weights, grad);
  CHECK_ARGUMENT(grad.dim() == 2 && grad.size(0) == offsets.size(0) - 1, op, ": grad must have shape [",
                 offsets.size(0) - 1, ", dim], got ", shape_of(grad));
}

// On the CPU; on a GPU the check would wait for the device.
inline void check_bag_offsets(const char* op, const int64_t* offsets, int64_t bags, int64_t num_ids) {
  CHECK_ARGUMENT(offsets[0] == 0, op, ": offsets[0] must be 0, got ", offsets[0]);
  for (int64_t i = 0; i < bags; ++i)
    CHECK_ARGUMENT(offsets[i + 1] >= offsets[i] && offsets[i + 1] <= num_ids, op, ": offsets[", i + 1,
                   "] must be in [", offsets[i], ", ", num_ids, "], got ", offsets[i + 1]);
  CHECK_ARGUMENT(offsets[bags] == num_ids, op, ": offsets[", bags, "] must be the number of ids, ", num_ids,
                 ", got ", offsets[bags]);
}

// The rows of the slots, likewise on the CPU: slot s has size[s] rows from first[s] on.
struct Slots {
  std::vector<int64_t> first;
  std::vector<int64_t> size;
};

// Without first_rows there is one slot.
inline Slots slots_of(const OptionalTensor& first_rows, int64_t num_rows) {
  if (!first_rows) return {{0}, {num_rows}};
  const int64_t* first = static_cast<const int64_t*>(first_rows->data_ptr());
  const int64_t count = first_rows->numel();
  Slots slots{{first, first + count}, {}};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t least = i ? first[i - 1] : 0, next = i + 1 < count ? first[i + 1] : num_rows;
    CHECK_ARGUMENT(first[i] >= least && first[i] <= num_rows, "sparse_table_lookup: first_rows[", i, "] must be in [",
                   least, ", ", num_rows, "], got ", first[i]);
    slots.size.push_back(next - first[i]);
  }
  return slots;
}

inline int64_t table_id_at(const Tensor& ids, int64_t i) {
  return ids.scalar_type() == ScalarType::Int ? static_cast<const int32_t*>(ids.data_ptr())[i]
                                              : static_cast<const int64_t*>(ids.data_ptr())[i];
}

// Throws for the first id, of contiguous ones on the CPU, that is not in its slot, if there is one.
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
