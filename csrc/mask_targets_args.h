// The arguments of airank_fast::mask_targets, with the same checks on every device.
#pragma once

#include "mask_targets_math.h"
#include "tensors.h"

namespace airank_fast {

inline void check_mask_offsets_type(const char* name, const Tensor& tensor, const Tensor& like, const char* shape) {
  const char* op = "mask_targets";
  CHECK_ARGUMENT(same_device(tensor, like), op, ": ", name, " must be on ", device_of(like), ", got ",
                 device_of(tensor));
  CHECK_ARGUMENT(tensor.scalar_type() == ScalarType::Long, op, ": ", name, " must be int64, got ",
                 name_of(tensor.scalar_type()));
  CHECK_ARGUMENT(tensor.dim() == 1 && (shape[1] == 'K' || tensor.size(0) >= 1), op, ": ", name, " must have shape ",
                 shape, ", got ", shape_of(tensor));
}

inline void check_mask_targets(const Tensor& boxes, const Tensor& matched, const Tensor& points,
                               const Tensor& polygon_offsets, const Tensor& object_offsets, int64_t size) {
  const char* op = "mask_targets";
  CHECK_ARGUMENT(boxes.scalar_type() == ScalarType::Float, op, ": boxes must be float32, got ",
                 name_of(boxes.scalar_type()));
  CHECK_ARGUMENT(boxes.dim() == 2 && boxes.size(1) == 4, op, ": boxes must have shape [K, 4], got ", shape_of(boxes));
  check_mask_offsets_type("matched", matched, boxes, "[K]");
  CHECK_ARGUMENT(matched.size(0) == boxes.size(0), op, ": matched must have shape [", boxes.size(0), "], got ",
                 shape_of(matched));
  CHECK_ARGUMENT(same_device(points, boxes), op, ": points must be on ", device_of(boxes), ", got ",
                 device_of(points));
  CHECK_ARGUMENT(points.scalar_type() == ScalarType::Float, op, ": points must be float32, got ",
                 name_of(points.scalar_type()));
  CHECK_ARGUMENT(points.dim() == 2 && points.size(1) == 2, op, ": points must have shape [P, 2], got ",
                 shape_of(points));
  check_mask_offsets_type("polygon_offsets", polygon_offsets, boxes, "[polygons + 1]");
  check_mask_offsets_type("object_offsets", object_offsets, boxes, "[objects + 1]");
  CHECK_ARGUMENT(size >= 1 && size <= kMaskMostSize, op, ": size must be in [1, ", kMaskMostSize, "], got ", size);
}

// The contents of the arguments, on the CPU.
inline void check_mask_offsets(const char* name, const int64_t* offsets, int64_t count, int64_t end) {
  const char* op = "mask_targets";
  CHECK_ARGUMENT(offsets[0] == 0, op, ": ", name, "[0] must be 0, got ", offsets[0]);
  for (int64_t i = 0; i < count; ++i)
    CHECK_ARGUMENT(offsets[i + 1] >= offsets[i] && offsets[i + 1] <= end, op, ": ", name, "[", i + 1,
                   "] must be in [", offsets[i], ", ", end, "], got ", offsets[i + 1]);
  CHECK_ARGUMENT(offsets[count] == end, op, ": ", name, "[", count, "] must be ", end, ", got ", offsets[count]);
}

inline void check_mask_match(int64_t i, int64_t object, int64_t objects) {
  CHECK_ARGUMENT(object >= 0 && object < objects, "mask_targets: matched[", i, "] must be in [0, ", objects,
                 "), got ", object);
}

}  // namespace airank_fast
