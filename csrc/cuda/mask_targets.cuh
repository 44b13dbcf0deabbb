// Masks of polygons in boxes on the GPU; rule in mask_targets_math.h.
//
// Mapping: a block takes a box, a thread edges of a polygon. The columns of the polygon and of the object are words in
// shared memory, in which atomics flip bits: their order does not matter.
#pragma once

#include "compat.cuh"

#include "../mask_targets_math.h"

namespace airank_fast {

constexpr int kMaskThreads = 128;

struct MaskTask {
  const float* boxes;
  const int64_t* matched;
  const float* points;
  const int64_t* polygon_offsets;
  const int64_t* object_offsets;
  int64_t objects;
  int32_t size;
  float* result;
};

__global__ void __launch_bounds__(kMaskThreads) mask_targets_kernel(const MaskTask task) {
  SHARED(unsigned long long, polygon, [kMaskMostSize]);
  SHARED(unsigned long long, object, [kMaskMostSize]);
  const int32_t size = task.size, thread = int32_t(threadIdx.x);
  const MaskWindow window = mask_window(task.boxes + 4 * int64_t(blockIdx.x), size);
  const int64_t matched = task.matched[blockIdx.x];
  const bool is_there = window.is_finite && matched >= 0 && matched < task.objects;
  if (thread < kMaskMostSize) object[thread] = polygon[thread] = 0;
  __syncthreads();
  const int64_t last = is_there ? task.object_offsets[matched + 1] : 0;
  for (int64_t p = is_there ? task.object_offsets[matched] : 0; p < last; ++p) {
    const int64_t first = task.polygon_offsets[p], count = task.polygon_offsets[p + 1] - first;
    for (int64_t i = thread; i < count; i += kMaskThreads)
      mask_edge(mask_vertex(window, task.points + 2 * (first + i)),
                mask_vertex(window, task.points + 2 * (first + (i + 1 < count ? i + 1 : 0))), size,
                [&](int32_t c, uint64_t pixels) { atomicXor(polygon + c, static_cast<unsigned long long>(pixels)); });
    __syncthreads();
    if (thread < kMaskMostSize) {
      object[thread] |= polygon[thread];
      polygon[thread] = 0;
    }
    __syncthreads();
  }
  float* targets = task.result + int64_t(blockIdx.x) * size * size;
  for (int32_t i = thread; i < size * size; i += kMaskThreads)
    targets[i] = is_there ? float(object[i % size] >> (i / size) & 1) : __builtin_nanf("");
}

}  // namespace airank_fast
