// airank_fast::mask_targets for CUDA tensors: checks, addresses, the current stream; the work is in mask_targets.cu.
#include "mask_targets.h"

#include "../mask_targets_args.h"
#include "binding.h"

namespace airank_fast {
namespace {

Tensor mask_targets_cuda(Tensor boxes, Tensor matched, Tensor points, Tensor polygon_offsets, Tensor object_offsets,
                         int64_t size) {
  check_mask_targets(boxes, matched, points, polygon_offsets, object_offsets, size);
  const OnDevice device(boxes);
  boxes = as_contiguous(boxes), matched = as_contiguous(matched), points = as_contiguous(points);
  polygon_offsets = as_contiguous(polygon_offsets), object_offsets = as_contiguous(object_offsets);
  Tensor result = empty_beside(boxes, {boxes.size(0), size, size});
  MaskTargetsLaunch work;
  work.num_boxes = boxes.size(0);
  work.size = size;
  work.objects = object_offsets.numel() - 1;
  work.boxes = static_cast<const float*>(boxes.data_ptr());
  work.matched = static_cast<const int64_t*>(matched.data_ptr());
  work.points = static_cast<const float*>(points.data_ptr());
  work.polygon_offsets = static_cast<const int64_t*>(polygon_offsets.data_ptr());
  work.object_offsets = static_cast<const int64_t*>(object_offsets.data_ptr());
  work.result = static_cast<float*>(result.data_ptr());
  check_launch("mask_targets", launch_mask_targets(work, device.stream()));
  return result;
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("mask_targets", TORCH_BOX(&airank_fast::mask_targets_cuda));
}
