// The arguments of airank_fast::match_boxes, with the same checks on every device; those of the offsets' contents are
// the CPU's, as a GPU's would have to be waited for.
#pragma once

#include "tensors.h"

namespace airank_fast {

constexpr int64_t kMostTruths = 1 << 24;  // their numbers are exact as floats

struct MatchOptions {
  double high_threshold;
  double low_threshold;
  bool allow_low_quality_matches;
};

inline void check_match_offsets(const Tensor& boxes, const char* name, const Tensor& offsets) {
  const char* op = "match_boxes";
  CHECK_ARGUMENT(same_device(offsets, boxes), op, ": ", name, " must be on ", device_of(boxes), ", got ",
                 device_of(offsets));
  CHECK_ARGUMENT(offsets.scalar_type() == ScalarType::Long, op, ": ", name, " must be int64, got ",
                 name_of(offsets.scalar_type()));
  CHECK_ARGUMENT(offsets.dim() == 1 && offsets.size(0) >= 1, op, ": ", name, " must have shape [pictures + 1], got ",
                 shape_of(offsets));
}

inline void check_match_boxes(const Tensor& boxes, const OptionalTensor& box_offsets, const Tensor& truths,
                              const Tensor& truth_offsets, const MatchOptions& options) {
  const char* op = "match_boxes";
  const ScalarType dtype = boxes.scalar_type();
  CHECK_ARGUMENT(dtype == ScalarType::Float || dtype == ScalarType::Double, op,
                 ": boxes must be float32 or float64, got ", name_of(dtype));
  CHECK_ARGUMENT(same_device(truths, boxes), op, ": truths must be on ", device_of(boxes), ", got ",
                 device_of(truths));
  CHECK_ARGUMENT(truths.scalar_type() == dtype, op, ": truths must be ", name_of(dtype), ", got ",
                 name_of(truths.scalar_type()));
  CHECK_ARGUMENT(truths.dim() == 2 && truths.size(1) == 4, op, ": truths must have shape [t, 4], got ",
                 shape_of(truths));
  CHECK_ARGUMENT(truths.size(0) <= kMostTruths, op, ": truths must be at most ", kMostTruths, " boxes, got ",
                 truths.size(0));
  check_match_offsets(boxes, "truth_offsets", truth_offsets);
  const int64_t pictures = truth_offsets.size(0) - 1;
  const bool has_four = boxes.dim() >= 2 && boxes.size(boxes.dim() - 1) == 4;
  if (box_offsets) {
    CHECK_ARGUMENT(has_four && boxes.dim() == 2, op, ": boxes must have shape [b, 4], got ", shape_of(boxes));
    check_match_offsets(boxes, "box_offsets", *box_offsets);
    CHECK_ARGUMENT(box_offsets->size(0) == pictures + 1, op, ": box_offsets must have shape [", pictures + 1,
                   "], got ", shape_of(*box_offsets));
  } else {
    CHECK_ARGUMENT(has_four && (boxes.dim() == 2 || (boxes.dim() == 3 && boxes.size(0) == pictures)), op,
                   ": boxes must have shape [b, 4] or [", pictures, ", b, 4], got ", shape_of(boxes));
  }
  CHECK_ARGUMENT(options.low_threshold <= options.high_threshold, op, ": low_threshold must be at most ",
                 options.high_threshold, ", the high_threshold, got ", options.low_threshold);
}

inline void check_match_contents(const char* name, const int64_t* offsets, int64_t pictures, int64_t total) {
  const char* op = "match_boxes";
  CHECK_ARGUMENT(offsets[0] == 0, op, ": ", name, "[0] must be 0, got ", offsets[0]);
  for (int64_t i = 1; i <= pictures; ++i)
    CHECK_ARGUMENT(offsets[i - 1] <= offsets[i] && offsets[i] <= total, op, ": ", name, "[", i, "] must be in [",
                   offsets[i - 1], ", ", total, "], got ", offsets[i]);
  CHECK_ARGUMENT(offsets[pictures] == total, op, ": ", name, "[", pictures, "] must be ", total, ", got ",
                 offsets[pictures]);
}

}  // namespace airank_fast
