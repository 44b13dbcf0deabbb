// Non-maximum suppression on the GPU; formula in box_iou_math.h.
//
// A bit for each pair of boxes tells whether the one of the higher score removes the other: a block has a tile of 64 x
// 64 pairs, a thread a row of it, which is a word. Then one block goes through the tiles on the diagonal in order. Its
// first thread finds which boxes of a tile are kept, from the words on the diagonal and from what earlier boxes have
// removed; all threads together add what the kept ones remove. No number leaves the device.
//
// Bytes: n^2 / 16 written, half of them read again by the one block, which is what takes long for many boxes.
#pragma once

#include "compat.cuh"

#include "../box_iou_math.h"

namespace airank_fast {

constexpr int kNmsTile = 64;         // boxes, as many as bits in a word
constexpr int kNmsScanThreads = 256;

template <typename T>
struct NmsTask {
  const T* boxes;
  const int64_t* order;
  const int64_t* groups;  // may be null
  int64_t count;
  int64_t tiles;
  T threshold;
  unsigned long long* pairs;    // [count, tiles]; words left of the diagonal are not written
  unsigned long long* removed;  // [tiles]
  int64_t* kept;
  int64_t* num_kept;
};

template <typename T>
__device__ __forceinline__ IouBox<T> nms_box(const NmsTask<T>& task, int64_t i) {
  const T* at = task.boxes + 4 * i;
  return iou_box(at[0], at[1], at[2], at[3]);
}

template <typename T>
__global__ void __launch_bounds__(kNmsTile) nms_pairs_kernel(const NmsTask<T> task) {
  const int64_t row = blockIdx.y, column = blockIdx.x;
  if (column < row) return;  // the whole block
  SHARED(T, corners, [4 * kNmsTile]);
  SHARED(T, areas, [kNmsTile]);
  SHARED(int64_t, groups, [kNmsTile]);
  const int thread = int(threadIdx.x);
  const int64_t first = column * kNmsTile, left = task.count - first;
  const int here = left < kNmsTile ? int(left) : kNmsTile;
  if (thread < here) {
    const int64_t other = task.order[first + thread];
    const IouBox<T> box = nms_box(task, other);
    corners[4 * thread] = box.x1;
    corners[4 * thread + 1] = box.y1;
    corners[4 * thread + 2] = box.x2;
    corners[4 * thread + 3] = box.y2;
    areas[thread] = box.area;
    groups[thread] = task.groups == nullptr ? 0 : task.groups[other];
  }
  __syncthreads();
  const int64_t rank = row * kNmsTile + thread;
  if (rank >= task.count) return;
  const int64_t mine = task.order[rank];
  const IouBox<T> box = nms_box(task, mine);
  const int64_t group = task.groups == nullptr ? 0 : task.groups[mine];
  unsigned long long word = 0;
  for (int i = row == column ? thread + 1 : 0; i < here; ++i) {
    if (groups[i] != group) continue;
    const T* corner = corners + 4 * i;
    const IouBox<T> other{corner[0], corner[1], corner[2], corner[3], areas[i]};
    if (box_iou(box, other) > task.threshold) word |= 1ull << i;
  }
  task.pairs[rank * task.tiles + column] = word;
}

template <typename T>
__global__ void __launch_bounds__(kNmsScanThreads) nms_scan_kernel(const NmsTask<T> task) {
  SHARED(unsigned long long, diagonal, [kNmsTile]);
  SHARED(unsigned long long, shared_kept, [1]);
  const int thread = int(threadIdx.x);
  for (int64_t word = thread; word < task.tiles; word += kNmsScanThreads) task.removed[word] = 0;
  int64_t num_kept = 0;
  for (int64_t tile = 0; tile < task.tiles; ++tile) {
    const int64_t first = tile * kNmsTile, left = task.count - first;
    const int here = left < kNmsTile ? int(left) : kNmsTile;
    if (thread < here) diagonal[thread] = task.pairs[(first + thread) * task.tiles + tile];
    __syncthreads();
    if (thread == 0) {
      unsigned long long removed = task.removed[tile], kept = 0;
      for (int i = 0; i < here; ++i)
        if ((removed >> i & 1) == 0) {
          kept |= 1ull << i;
          removed |= diagonal[i];
        }
      shared_kept[0] = kept;
    }
    __syncthreads();
    const unsigned long long kept = shared_kept[0];
    for (int64_t word = tile + 1 + thread; word < task.tiles; word += kNmsScanThreads) {
      const unsigned long long* pairs = task.pairs + first * task.tiles + word;
      unsigned long long removed = task.removed[word];
#pragma unroll 8
      for (int i = 0; i < kNmsTile; ++i)
        if (kept >> i & 1) removed |= pairs[i * task.tiles];
      task.removed[word] = removed;
    }
    if (thread < here && (kept >> thread & 1))
      task.kept[num_kept + __popcll(kept & ((1ull << thread) - 1))] = task.order[first + thread];
    num_kept += __popcll(kept);
  }
  if (thread == 0) *task.num_kept = num_kept;
}

}  // namespace airank_fast
