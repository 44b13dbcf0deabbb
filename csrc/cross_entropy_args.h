// The arguments of airank_fast::cross_entropy and its backward, with the same checks on every device.
#pragma once

#include "tensors.h"

namespace airank_fast {

enum class Reduction : int64_t { kNone = 0, kMean = 1, kSum = 2 };

inline ScalarType loss_dtype(const Tensor& logits) {
  return logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_cross_entropy(const Tensor& logits, const Tensor& target, double label_smoothing,
                                int64_t reduction) {
  const char* op = "cross_entropy";
  CHECK_ARGUMENT(logits.dim() == 2 && logits.size(1) > 0, op,
                 ": logits must have shape [rows, classes] with at least one class, got ", shape_of(logits));
  const ScalarType dtype = logits.scalar_type();
  CHECK_ARGUMENT(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
                     dtype == ScalarType::Half,
                 op, ": logits must be float32, float64, bfloat16 or float16, got ", name_of(dtype));
  CHECK_ARGUMENT(same_device(target, logits), op, ": target must be on ", device_of(logits), ", got ",
                 device_of(target));
  CHECK_ARGUMENT(target.scalar_type() == ScalarType::Long, op, ": target must be int64, got ",
                 name_of(target.scalar_type()));
  CHECK_ARGUMENT(target.dim() == 1 && target.size(0) == logits.size(0), op, ": target must have shape [",
                 logits.size(0), "], got ", shape_of(target));
  CHECK_ARGUMENT(label_smoothing >= 0 && label_smoothing <= 1, op, ": label_smoothing must be in [0, 1], got ",
                 label_smoothing);
  CHECK_ARGUMENT(reduction >= 0 && reduction <= 2, op, ": reduction must be 0 (none), 1 (mean) or 2 (sum), got ",
                 reduction);
}

// Only on the CPU: on a GPU the check would wait for the device, and the row's loss is NaN instead.
inline void check_targets(const Tensor& target, int64_t num_classes, int64_t ignore_index) {
  if (!target.is_cpu()) return;
  const int64_t* at = static_cast<const int64_t*>(target.data_ptr());
  for (int64_t i = 0; i < target.numel(); ++i)
    CHECK_ARGUMENT((at[i] >= 0 && at[i] < num_classes) || at[i] == ignore_index, "cross_entropy: target[", i,
                   "] must be in [0, ", num_classes, ") or the ignore_index ", ignore_index, ", got ", at[i]);
}

inline void check_cross_entropy_backward(const Tensor& grad, const Tensor& logits, const Tensor& target,
                                         const Tensor& statistics, const Tensor& scale, double label_smoothing) {
  const char* op = "cross_entropy_backward";
  check_cross_entropy(logits, target, label_smoothing, 0);
  const ScalarType wide = loss_dtype(logits);
  const int64_t rows = logits.size(0);
  for (const auto& [name, tensor] : {std::pair<const char*, const Tensor*>{"grad", &grad},
                                     {"statistics", &statistics}, {"scale", &scale}}) {
    CHECK_ARGUMENT(same_device(*tensor, logits), op, ": ", name, " must be on ", device_of(logits), ", got ",
                   device_of(*tensor));
    CHECK_ARGUMENT(tensor->scalar_type() == wide, op, ": ", name, " must be ", name_of(wide), ", got ",
                   name_of(tensor->scalar_type()));
  }
  CHECK_ARGUMENT(grad.dim() == 0 || (grad.dim() == 1 && grad.size(0) == rows), op, ": grad must have shape [] or [",
                 rows, "], got ", shape_of(grad));
  CHECK_ARGUMENT(statistics.dim() == 2 && statistics.size(0) == rows && statistics.size(1) == 2, op,
                 ": statistics must have shape [", rows, ", 2], got ", shape_of(statistics));
  CHECK_ARGUMENT(scale.dim() == 0, op, ": scale must have shape [], got ", shape_of(scale));
}

// Rows may have gaps between them, elements within a row may not.
inline Tensor with_dense_rows(const Tensor& tensor) {
  return tensor.size(1) <= 1 || tensor.stride(1) == 1 ? tensor : as_contiguous(tensor);
}

}  // namespace airank_fast
