// The launcher of non-maximum suppression as plain C++, for the torch registration and the tests.
#pragma once

#include "arguments.h"

namespace airank_fast {

struct NmsLaunch {
  Dtype dtype = Dtype::kFloat32;  // of the boxes, or float64
  int64_t count = 0;
  const void* boxes = nullptr;       // [count, 4]
  const int64_t* order = nullptr;    // [count], by falling score
  const int64_t* groups = nullptr;   // [count] of the boxes; null: one group
  double threshold = 0;
  uint64_t* workspace = nullptr;     // room for nms_workspace(count) numbers
  int64_t* kept = nullptr;           // [count], the indices of the kept boxes, then -1
  int64_t* num_kept = nullptr;       // one number
};

int64_t nms_workspace(int64_t count);

// Enqueues on `stream` of the current device, without waiting.
cudaError_t launch_nms(const NmsLaunch& work, cudaStream_t stream);

}  // namespace airank_fast
