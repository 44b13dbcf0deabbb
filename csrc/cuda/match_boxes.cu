// Boxes matched with truths on the GPU: chooses the kernels for the dtype. Free of torch, so that tests can compile it
// for the CPU.
#include "match_boxes.h"

#include "match_boxes.cuh"

namespace airank_fast {
namespace {

template <typename T>
cudaError_t run(const MatchLaunch& work, cudaStream_t stream) {
  using Key = typename MatchKey<T>::type;
  if (work.results == 0) return cudaSuccess;
  MatchTask<T> task{};
  task.boxes = static_cast<const T*>(work.boxes);
  task.truths = static_cast<const T*>(work.truths);
  task.box_offsets = work.box_offsets;
  task.truth_offsets = work.truth_offsets;
  task.pictures = work.pictures;
  task.boxes_each = work.boxes_each;
  task.boxes_of_all = work.boxes_of_all;
  task.results = work.results;
  task.num_truths = work.num_truths;
  task.low = T(work.low);
  task.high = T(work.high);
  task.matches = work.matches;
  task.ious = static_cast<T*>(work.ious);
  const bool is_second = work.allow_low_quality && work.num_truths > 0;
  if (is_second) {
    task.largest = static_cast<Key*>(work.largest);
    const cudaError_t error = cudaMemsetAsync(work.largest, 0, size_t(work.num_truths) * sizeof(Key), stream);
    if (error != cudaSuccess) return error;
  }
  const dim3 grid(unsigned(ceil_div(work.results, kMatchThreads))), block(kMatchThreads);
  const cudaError_t error = launch(match_boxes_kernel<T>, grid, block, 0, stream, task);
  if (error != cudaSuccess || !is_second) return error;
  return launch(match_low_quality_kernel<T>, grid, block, 0, stream, task);
}

}  // namespace

cudaError_t launch_match_boxes(const MatchLaunch& work, cudaStream_t stream) {
  return work.dtype == Dtype::kFloat64 ? run<double>(work, stream) : run<float>(work, stream);
}

}  // namespace airank_fast
