// Masks of polygons in boxes on the CPU, parallel over boxes; rule in mask_targets_math.h.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <limits>

#include "../mask_targets_args.h"

namespace airank_fast {
namespace {

constexpr int64_t kBoxesPerThread = 8;

Tensor mask_targets_cpu(Tensor boxes, Tensor matched, Tensor points, Tensor polygon_offsets, Tensor object_offsets,
                        int64_t size) {
  check_mask_targets(boxes, matched, points, polygon_offsets, object_offsets, size);
  boxes = as_contiguous(boxes), matched = as_contiguous(matched), points = as_contiguous(points);
  polygon_offsets = as_contiguous(polygon_offsets), object_offsets = as_contiguous(object_offsets);
  const int64_t num_boxes = boxes.size(0), polygons = polygon_offsets.numel() - 1;
  const int64_t objects = object_offsets.numel() - 1;
  const int64_t* of_polygons = static_cast<const int64_t*>(polygon_offsets.data_ptr());
  const int64_t* of_objects = static_cast<const int64_t*>(object_offsets.data_ptr());
  const int64_t* of_boxes = static_cast<const int64_t*>(matched.data_ptr());
  check_mask_offsets("polygon_offsets", of_polygons, polygons, points.size(0));
  check_mask_offsets("object_offsets", of_objects, objects, polygons);
  for (int64_t k = 0; k < num_boxes; ++k) check_mask_match(k, of_boxes[k], objects);
  Tensor result = empty_beside(boxes, {num_boxes, size, size});
  torch::stable::parallel_for(0, num_boxes, kBoxesPerThread, [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      float* targets = static_cast<float*>(result.data_ptr()) + k * size * size;
      const MaskWindow window = mask_window(static_cast<const float*>(boxes.data_ptr()) + 4 * k, int32_t(size));
      if (!window.is_finite) {
        std::fill_n(targets, size * size, std::numeric_limits<float>::quiet_NaN());
        continue;
      }
      uint64_t object[kMaskMostSize] = {};
      for (int64_t p = of_objects[of_boxes[k]]; p < of_objects[of_boxes[k] + 1]; ++p) {
        const int64_t count = of_polygons[p + 1] - of_polygons[p];
        const float* from = static_cast<const float*>(points.data_ptr()) + 2 * of_polygons[p];
        uint64_t polygon[kMaskMostSize] = {};
        for (int64_t i = 0; i < count; ++i)
          mask_edge(mask_vertex(window, from + 2 * i), mask_vertex(window, from + 2 * (i + 1 < count ? i + 1 : 0)),
                    int32_t(size), [&](int32_t c, uint64_t pixels) { polygon[c] ^= pixels; });
        for (int64_t c = 0; c < size; ++c) object[c] |= polygon[c];
      }
      for (int64_t y = 0; y < size; ++y)
        for (int64_t x = 0; x < size; ++x) targets[y * size + x] = float(object[x] >> y & 1);
    }
  });
  return result;
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("mask_targets", TORCH_BOX(&airank_fast::mask_targets_cpu));
}
