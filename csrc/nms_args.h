// The arguments of airank_fast::nms and nms_padded, with the same checks on every device.
#pragma once

#include "tensors.h"

namespace airank_fast {

inline void check_nms(const char* op, const Tensor& boxes, const Tensor& scores, const OptionalTensor& idxs) {
  CHECK_ARGUMENT(boxes.dim() == 2 && boxes.size(1) == 4, op, ": boxes must have shape [n, 4], got ", shape_of(boxes));
  const ScalarType dtype = boxes.scalar_type();
  CHECK_ARGUMENT(dtype == ScalarType::Float || dtype == ScalarType::Double, op,
                 ": boxes must be float32 or float64, got ", name_of(dtype));
  const auto check_of_boxes = [&](const char* name, const Tensor& tensor, ScalarType required) {
    CHECK_ARGUMENT(same_device(tensor, boxes), op, ": ", name, " must be on ", device_of(boxes), ", got ",
                   device_of(tensor));
    CHECK_ARGUMENT(tensor.scalar_type() == required, op, ": ", name, " must be ", name_of(required), ", got ",
                   name_of(tensor.scalar_type()));
    CHECK_ARGUMENT(tensor.dim() == 1 && tensor.size(0) == boxes.size(0), op, ": ", name, " must have shape [",
                   boxes.size(0), "], got ", shape_of(tensor));
  };
  check_of_boxes("scores", scores, dtype);
  if (idxs) check_of_boxes("idxs", *idxs, ScalarType::Long);
}

}  // namespace airank_fast
