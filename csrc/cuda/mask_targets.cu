// Masks of polygons in boxes on the GPU: the grid. Free of torch, so that tests can compile it for the CPU.
#include "mask_targets.h"

#include "mask_targets.cuh"

namespace airank_fast {

cudaError_t launch_mask_targets(const MaskTargetsLaunch& work, cudaStream_t stream) {
  if (work.num_boxes == 0) return cudaSuccess;
  const MaskTask task{work.boxes,          work.matched,        work.points, work.polygon_offsets,
                      work.object_offsets, work.objects, int32_t(work.size), work.result};
  return launch(mask_targets_kernel, dim3(unsigned(work.num_boxes)), dim3(kMaskThreads), 0, stream, task);
}

}  // namespace airank_fast
