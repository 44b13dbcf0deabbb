// Non-maximum suppression on the GPU: divides the workspace and chooses the kernels for the dtype. Free of torch, so
// that tests can compile it for the CPU.
#include "nms.h"

#include "../nms_math.h"
#include "nms.cuh"

namespace airank_fast {
namespace {

template <typename T>
cudaError_t run(const NmsLaunch& work, cudaStream_t stream) {
  NmsTask<T> task{};
  task.boxes = static_cast<const T*>(work.boxes);
  task.order = work.order;
  task.groups = work.groups;
  task.count = work.count;
  task.tiles = ceil_div(work.count, kNmsTile);
  task.threshold = nms_threshold<T>(work.threshold);
  task.removed = reinterpret_cast<unsigned long long*>(work.workspace);
  task.pairs = task.removed + task.tiles;
  task.kept = work.kept;
  task.num_kept = work.num_kept;
  const unsigned tiles = unsigned(task.tiles);
  if (tiles > 65535) return cudaErrorInvalidValue;  // the pairs of as many boxes fit in no memory
  cudaError_t error = cudaMemsetAsync(work.kept, 0xff, size_t(work.count) * sizeof(int64_t), stream);
  if (error != cudaSuccess) return error;
  if (tiles > 0) error = launch(nms_pairs_kernel<T>, dim3(tiles, tiles), dim3(kNmsTile), 0, stream, task);
  if (error != cudaSuccess) return error;
  return launch(nms_scan_kernel<T>, dim3(1), dim3(kNmsScanThreads), 0, stream, task);
}

}  // namespace

int64_t nms_workspace(int64_t count) {
  const int64_t tiles = ceil_div(count, kNmsTile);
  return tiles + count * tiles;
}

cudaError_t launch_nms(const NmsLaunch& work, cudaStream_t stream) {
  return work.dtype == Dtype::kFloat64 ? run<double>(work, stream) : run<float>(work, stream);
}

}  // namespace airank_fast
