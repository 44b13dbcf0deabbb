// The arguments of airank_fast::upsample_cross_entropy, upsample_argmax and upsample_confusion, with the same checks on
// every device.
#pragma once

#include "tensors.h"

namespace airank_fast {

inline void check_upsample_logits(const char* op, const Tensor& logits) {
  CHECK_ARGUMENT(logits.dim() == 4 && logits.size(1) > 0 && logits.size(2) > 0 && logits.size(3) > 0, op,
                 ": logits must have shape [N, C, h, w] with at least one class and one pixel, got ", shape_of(logits));
  const ScalarType dtype = logits.scalar_type();
  CHECK_ARGUMENT(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
                     dtype == ScalarType::Half,
                 op, ": logits must be float32, float64, bfloat16 or float16, got ", name_of(dtype));
}

inline void check_upsample_labels(const char* op, const Tensor& logits, const Tensor& labels) {
  check_upsample_logits(op, logits);
  CHECK_ARGUMENT(same_device(labels, logits), op, ": labels must be on ", device_of(logits), ", got ",
                 device_of(labels));
  CHECK_ARGUMENT(labels.scalar_type() == ScalarType::Long || labels.scalar_type() == ScalarType::Byte, op,
                 ": labels must be int64 or uint8, got ", name_of(labels.scalar_type()));
  CHECK_ARGUMENT(labels.dim() == 3 && labels.size(0) == logits.size(0), op, ": labels must have shape [",
                 logits.size(0), ", H, W], got ", shape_of(labels));
}

inline ScalarType upsample_loss_dtype(const Tensor& logits) {
  return logits.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_upsample_cross_entropy(const Tensor& logits, const Tensor& labels, const OptionalTensor& count) {
  const char* op = "upsample_cross_entropy";
  check_upsample_labels(op, logits, labels);
  if (!count) return;
  const ScalarType wide = upsample_loss_dtype(logits);
  CHECK_ARGUMENT(same_device(*count, logits), op, ": count must be on ", device_of(logits), ", got ",
                 device_of(*count));
  CHECK_ARGUMENT(count->scalar_type() == wide, op, ": count must be ", name_of(wide), ", got ",
                 name_of(count->scalar_type()));
  CHECK_ARGUMENT(count->dim() == 0, op, ": count must have shape [], got ", shape_of(*count));
}

inline void check_upsample_argmax(const Tensor& logits, int64_t height, int64_t width) {
  const char* op = "upsample_argmax";
  check_upsample_logits(op, logits);
  CHECK_ARGUMENT(height >= 0 && width >= 0, op, ": size must be at least 0, got [", height, ", ", width, "]");
}

// The gradient before its scale, of the shape of the logits: channels_last where their classes are neighbours.
inline Tensor upsample_gradient(const Tensor& logits, ScalarType dtype) {
  const int64_t classes = logits.size(1), height = logits.size(2), width = logits.size(3);
  if (classes == 1 || logits.stride(1) != 1) return empty_beside(logits, logits.sizes(), dtype);
  const std::array<int64_t, 4> strides{classes * height * width, 1, classes * width, classes};
  return empty_strided(logits, logits.sizes(), Sizes(strides.data(), strides.size()), dtype);
}

}  // namespace airank_fast
