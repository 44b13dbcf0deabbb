// Cross entropy, classes and confusion counts of bilinearly upsampled logits on the GPU; formulas in upsample_math.h and
// cross_entropy_math.h.
//
// Mapping: a thread takes a pixel, and reads the four logits around it of one class after the other, which its
// neighbours read too, from the first cache. It stores the maximum and the sum of exponentials; the gradient's thread
// takes a logit, and adds up what all pixels of the cells around it give, in order, from nine logits in registers. So
// there are no atomics, and exponentials are taken four times where memory would be read and written as often. Bytes per
// pixel from memory: 8 written and read for the two numbers, twice those of a label, and the logits, a fraction.
//
// A label outside of the classes makes its pixel's loss and gradient NaN; it is in no confusion count.
#pragma once

#include "tensor_sums.cuh"

#include "../cross_entropy_math.h"
#include "../upsample_math.h"

namespace airank_fast {

constexpr int kUpsampleThreads = 128;
// Blocks per multiprocessor, which leaves a thread 64 registers or, for float64, 128.
template <typename T>
constexpr int kUpsampleBlocks = sizeof(T) == 8 ? 4 : 8;
// Classes whose counts fit into a block's shared memory.
constexpr int64_t kUpsampleSharedClasses = 100;

// math_t<T> numbers behind the pointers to void, but for logits and labels.
struct UpsampleTask {
  const void* logits;
  int64_t picture_stride;
  int64_t class_stride;
  int64_t row_stride;
  int64_t column_stride;
  int64_t pictures;
  int64_t classes;
  UpsampleAxis rows;
  UpsampleAxis columns;
  const void* labels;
  bool labels_are_bytes;
  int64_t ignore_index;
  void* statistics;  // of each pixel: maximum, 1 / sum of exponentials
};

HOST_DEVICE int64_t upsample_label(const UpsampleTask& task, int64_t pixel) {
  return task.labels_are_bytes ? int64_t(static_cast<const uint8_t*>(task.labels)[pixel])
                               : static_cast<const int64_t*>(task.labels)[pixel];
}

// The four logits around a pixel, of any class.
template <typename T>
struct UpsampleCorners {
  using M = math_t<T>;
  const T* above;  // of class 0
  const T* below;
  int64_t right;  // elements from the left column
  M of_below;
  M of_right;

  HOST_DEVICE M at(int64_t element) const {
    const M at_left = upsample_between(load(above[element]), load(below[element]), of_below);
    const M at_right = upsample_between(load(above[element + right]), load(below[element + right]), of_below);
    return upsample_between(at_left, at_right, of_right);
  }
};

// Row `row` of all pictures' pixels, column x.
template <typename T>
HOST_DEVICE UpsampleCorners<T> upsample_corners(const UpsampleTask& task, int64_t row, int64_t x) {
  using M = math_t<T>;
  const int64_t y = row % task.rows.out, i = task.rows.cell(y), j = task.columns.cell(x);
  const T* above = static_cast<const T*>(task.logits) + row / task.rows.out * task.picture_stride +
                   i * task.row_stride + j * task.column_stride;
  return {above, i + 1 < task.rows.in ? above + task.row_stride : above,
          j + 1 < task.columns.in ? task.column_stride : 0, task.rows.weight<M>(y), task.columns.weight<M>(x)};
}

// The largest, the first of equal ones; NaN is larger than any number.
template <typename T>
HOST_DEVICE int64_t upsample_class(const UpsampleTask& task, const UpsampleCorners<T>& corners) {
  math_t<T> max = corners.at(0);
  int64_t best = 0;
  for (int64_t c = 1; c < task.classes; ++c) {
    const math_t<T> x = corners.at(c * task.class_stride);
    if (x > max || (x != x && max == max)) max = x, best = c;
  }
  return best;
}

// The block's row of pixels and the thread's column.
struct UpsamplePixel {
  int64_t row;
  int64_t x;
};

HOST_DEVICE int64_t upsample_blocks(int64_t row_size) { return (row_size + kUpsampleThreads - 1) / kUpsampleThreads; }

__device__ __forceinline__ UpsamplePixel upsample_place(int64_t row_size) {
  const int64_t blocks = upsample_blocks(row_size);
  return {int64_t(blockIdx.x) / blocks, int64_t(blockIdx.x) % blocks * kUpsampleThreads + threadIdx.x};
}

template <typename T>
__global__ void __launch_bounds__(kUpsampleThreads) upsample_loss_kernel(const UpsampleTask task, Sums* of_blocks) {
  using M = math_t<T>;
  const auto [row, x] = upsample_place(task.columns.out);
  Sums sums{0, 0};
  if (x < task.columns.out) {
    const int64_t pixel = row * task.columns.out + x, label = upsample_label(task, pixel);
    if (label != task.ignore_index) {
      M max = minus_infinity<M>(), sum = M(__builtin_nan(""));
      M loss = sum;
      if (label >= 0 && label < task.classes) {
        const UpsampleCorners<T> corners = upsample_corners<T>(task, row, x);
        for (int64_t c = 0; c < task.classes; ++c) max = larger(corners.at(c * task.class_stride), max);
        sum = 0;
        const M below = finite_max(max);
        for (int64_t c = 0; c < task.classes; ++c) sum += exp_nonpositive(corners.at(c * task.class_stride) - below);
        loss = log(sum) + (max - corners.at(label * task.class_stride));
      }
      M* statistics = static_cast<M*>(task.statistics) + 2 * pixel;
      statistics[0] = finite_max(max);
      statistics[1] = M(1) / sum;
      sums = {double(loss), 1};
    }
  }
  sums = block_sums<kUpsampleThreads>(sums);
  if (threadIdx.x == 0) of_blocks[blockIdx.x] = sums;
}

// One block; a null `count` stands for the number of labels that count.
template <typename M>
__global__ void __launch_bounds__(kUpsampleThreads)
    upsample_reduce_kernel(const Sums* of_blocks, int64_t blocks, const M* count, M* loss, M* scale) {
  Sums sums{0, 0};
  for (int64_t i = threadIdx.x; i < blocks; i += kUpsampleThreads) {
    sums.first += of_blocks[i].first;
    sums.second += of_blocks[i].second;
  }
  sums = block_sums<kUpsampleThreads>(sums);
  if (threadIdx.x != 0) return;
  const double divisor = count != nullptr ? double(*count) : sums.second;
  *loss = M(sums.first / divisor);
  *scale = divisor != 0 ? M(1 / divisor) : M(0);
}

template <typename T>
__global__ void __launch_bounds__(kUpsampleThreads)
    upsample_gradient_kernel(const UpsampleTask task, void* gradient, bool channels_last) {
  using M = math_t<T>;
  const int64_t width = task.columns.in, row_size = task.classes * width;
  const auto [row, number] = upsample_place(row_size);
  if (number >= row_size) return;
  const int64_t picture = row / task.rows.in;
  const int64_t c = channels_last ? number % task.classes : number / width;
  const UpsampleReach<M> rows(task.rows, row % task.rows.in);
  const UpsampleReach<M> columns(task.columns, channels_last ? number / task.classes : number % width);
  M x[3][3];
  const T* logits = static_cast<const T*>(task.logits) + picture * task.picture_stride + c * task.class_stride;
  const int64_t from_rows[3] = {rows.before(), rows.at, rows.after()};
  const int64_t from_columns[3] = {columns.before(), columns.at, columns.after()};
#pragma unroll
  for (int r = 0; r < 3; ++r)
#pragma unroll
    for (int k = 0; k < 3; ++k)
      x[r][k] = load(logits[from_rows[r] * task.row_stride + from_columns[k] * task.column_stride]);

  M sum = 0;
  for (int64_t y = rows.begin; y < rows.end; ++y) {
    const M of_below = rows.weight(y);
    M between[3];
#pragma unroll
    for (int k = 0; k < 3; ++k)
      between[k] = y < rows.middle ? upsample_between(x[0][k], x[1][k], of_below)
                                   : upsample_between(x[1][k], x[2][k], of_below);
    const int64_t first = (picture * task.rows.out + y) * task.columns.out;
    M of_row = 0;
    for (int64_t p = columns.begin; p < columns.end; ++p) {
      const int64_t label = upsample_label(task, first + p);
      if (label == task.ignore_index) continue;
      const M* statistics = static_cast<const M*>(task.statistics) + 2 * (first + p);
      const M of_right = columns.weight(p);
      const M value = p < columns.middle ? upsample_between(between[0], between[1], of_right)
                                         : upsample_between(between[1], between[2], of_right);
      const M probability = exp_nonpositive(value - statistics[0]) * statistics[1];
      of_row += columns.share(p, of_right) * (probability - (label == c ? M(1) : M(0)));
    }
    sum += rows.share(y, of_below) * of_row;
  }
  const int64_t picture_size = task.rows.in * row_size;
  const int64_t at = channels_last ? row * row_size + number
                                   : picture * picture_size + (c * task.rows.in + rows.at) * width + columns.at;
  static_cast<M*>(gradient)[at] = sum;
}

// The classes of all pixels, and how many of each label have which: either may be null. Each block takes every
// gridDim.x-th row of pixels; with `in_shared` it counts in its dynamic shared memory first.
template <typename T>
__global__ void __launch_bounds__(kUpsampleThreads, kUpsampleBlocks<T>)
    upsample_classes_kernel(const UpsampleTask task, int64_t* predicted, unsigned long long* counts, bool in_shared) {
  DYN_SMEM(unsigned, of_block);
  const int64_t pairs = task.classes * task.classes;
  if (in_shared) {
    for (int64_t i = threadIdx.x; i < pairs; i += kUpsampleThreads) of_block[i] = 0;
    __syncthreads();
  }
  for (int64_t row = blockIdx.x; row < task.pictures * task.rows.out; row += gridDim.x)
    for (int64_t x = threadIdx.x; x < task.columns.out; x += kUpsampleThreads) {
      const int64_t pixel = row * task.columns.out + x;
      const int64_t label = counts != nullptr ? upsample_label(task, pixel) : -1;
      const bool is_counted = label != task.ignore_index && label >= 0 && label < task.classes;
      if (!is_counted && predicted == nullptr) continue;
      const int64_t best = upsample_class(task, upsample_corners<T>(task, row, x));
      if (predicted != nullptr) predicted[pixel] = best;
      if (!is_counted) continue;
      const int64_t pair = label * task.classes + best;
      if (in_shared) atomicAdd(of_block + pair, 1u);
      else atomicAdd(counts + pair, 1ull);
    }
  if (!in_shared) return;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < pairs; i += kUpsampleThreads)
    if (of_block[i] != 0) atomicAdd(counts + i, static_cast<unsigned long long>(of_block[i]));
}

}  // namespace airank_fast
