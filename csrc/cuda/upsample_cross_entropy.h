// The launchers of cross entropy, classes and confusion counts of upsampled logits as plain C++, for the torch
// registration and the tests.
#pragma once

#include "arguments.h"

namespace airank_fast {

// Loss, gradient, scale and count are float32, or float64 of float64 logits. Strides in elements.
struct UpsampleLaunch {
  Dtype dtype = Dtype::kFloat32;  // of the logits
  int64_t pictures = 0;
  int64_t classes = 0;
  int64_t in_height = 0;
  int64_t in_width = 0;
  int64_t height = 0;
  int64_t width = 0;
  bool align_corners = false;
  const void* logits = nullptr;
  int64_t strides[4] = {};       // of picture, class, row, column
  const void* labels = nullptr;  // [pictures, height, width]; for classes alone null
  bool labels_are_bytes = false;  // uint8, else int64
  int64_t ignore_index = 255;
  // Cross entropy:
  const void* count = nullptr;       // null: of the labels
  void* loss = nullptr;
  void* scale = nullptr;             // 1 / count, or 0
  void* gradient = nullptr;          // contiguous or channels_last; null: only the loss
  bool channels_last = false;        // the gradient
  void* statistics = nullptr;        // room for [pictures, height, width, 2] numbers of the loss's dtype
  double* partial_sums = nullptr;    // room for upsample_partial_sums(work) numbers
  // Classes, either may be null:
  int64_t* predicted = nullptr;  // [pictures, height, width]
  int64_t* confusion = nullptr;  // [classes, classes], added to
};

int64_t upsample_partial_sums(const UpsampleLaunch& work);

// Enqueue on `stream` of the current device, without waiting. Classes are of at least one pixel.
cudaError_t launch_upsample_cross_entropy(const UpsampleLaunch& work, cudaStream_t stream);
cudaError_t launch_upsample_classes(const UpsampleLaunch& work, cudaStream_t stream);

}  // namespace airank_fast
