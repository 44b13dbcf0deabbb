// The sum of upsampled pictures with a ReLU on the GPU, and its backward; formula in upsample_math.h.
//
// Mapping: a thread takes a number of the result, the threads of a block neighbours of a row; it reads the four numbers
// around it of each picture of lower resolution, which its neighbours read too, from the first cache. In backward a thread
// takes a number of the gradient of such a picture, and adds up what all pixels of the cells around it give, in order.
// Bytes per number from memory: e for each picture of the result's size and for the result, a fraction for others.
#pragma once

#include "vec.cuh"

#include "../upsample_math.h"

namespace airank_fast {

constexpr int kUpsampleAddThreads = 128;

struct UpsampleAddSource {
  const void* data;
  UpsampleAxis rows;
  UpsampleAxis columns;
};

struct UpsampleAddTask {
  const void* x;
  void* result;
  int64_t height;
  int64_t width;
  int64_t channels;
  UpsampleAddSource others[3];
  int num_others;
  bool relu;
};

HOST_DEVICE int64_t upsample_add_blocks(int64_t row_size) {
  return (row_size + kUpsampleAddThreads - 1) / kUpsampleAddThreads;
}

// The block's row and the thread's number in it.
struct UpsampleAddPlace {
  int64_t row;
  int64_t number;
};

__device__ __forceinline__ UpsampleAddPlace upsample_add_place(int64_t row_size) {
  const int64_t blocks = upsample_add_blocks(row_size);
  return {int64_t(blockIdx.x) / blocks, int64_t(blockIdx.x) % blocks * kUpsampleAddThreads + threadIdx.x};
}

template <typename T>
__global__ void __launch_bounds__(kUpsampleAddThreads) upsample_add_act_kernel(const UpsampleAddTask task) {
  using M = math_t<T>;
  const int64_t row_size = task.width * task.channels;
  const auto [row, number] = upsample_add_place(row_size);
  if (number >= row_size) return;
  const int64_t picture = row / task.height, y = row % task.height;
  const int64_t column = number / task.channels, channel = number % task.channels;
  M sum = load(static_cast<const T*>(task.x)[row * row_size + number]);
  for (int s = 0; s < task.num_others; ++s) {
    const UpsampleAddSource& other = task.others[s];
    const int64_t i = other.rows.cell(y), j = other.columns.cell(column);
    const T* above = static_cast<const T*>(other.data) +
                     ((picture * other.rows.in + i) * other.columns.in + j) * task.channels + channel;
    if (other.rows.per_part == 0) {  // nearest
      sum += load(above[0]);
      continue;
    }
    const T* below = i + 1 < other.rows.in ? above + other.columns.in * task.channels : above;
    const int64_t right = j + 1 < other.columns.in ? task.channels : 0;
    const M of_right = other.columns.weight<M>(column), of_below = other.rows.weight<M>(y);
    sum += upsample_between(upsample_between(M(load(above[0])), M(load(above[right])), of_right),
                            upsample_between(M(load(below[0])), M(load(below[right])), of_right), of_below);
  }
  if (task.relu && sum < M(0)) sum = 0;  // NaN stays
  store(static_cast<T*>(task.result) + row * row_size + number, sum);
}

// `rows` and `columns` of the gradient that is computed, between `grad`'s.
template <typename T>
__global__ void __launch_bounds__(kUpsampleAddThreads)
    upsample_add_act_backward_kernel(const void* grad, const UpsampleAxis rows, const UpsampleAxis columns,
                                     int64_t channels, void* result) {
  using M = math_t<T>;
  const int64_t row_size = columns.in * channels;
  const auto [row, number] = upsample_add_place(row_size);
  if (number >= row_size) return;
  const UpsampleReach<M> of_rows(rows, row % rows.in), of_columns(columns, number / channels);
  const T* picture = static_cast<const T*>(grad) + row / rows.in * rows.out * columns.out * channels + number % channels;
  M sum = 0;
  for (int64_t y = of_rows.begin; y < of_rows.end; ++y) {
    M of_row = 0;
    for (int64_t x = of_columns.begin; x < of_columns.end; ++x)
      of_row += of_columns.share(x, of_columns.weight(x)) * load(picture[(y * columns.out + x) * channels]);
    sum += of_rows.share(y, of_rows.weight(y)) * of_row;
  }
  store(static_cast<T*>(result) + row * row_size + number, sum);
}

}  // namespace airank_fast
