// Boxes matched with the truths of their picture on the GPU; formulas in box_iou_math.h and match_boxes_math.h.
//
// Mapping: a thread has a box and goes through the truths of its picture, which all threads of a warp read together.
// For low-quality matches the largest IoU of each truth is raised atomically, which does not depend on the order; a
// second kernel computes the IoUs again instead of reading a matrix of them. Bytes: 28 per box of float32, once or
// twice.
#pragma once

#include "compat.cuh"

#include "../box_iou_math.h"
#include "../match_boxes_math.h"

namespace airank_fast {

constexpr int kMatchThreads = 256;

// An IoU as a number that rises with it; of NaN the largest, of nothing 0.
HOST_DEVICE uint32_t match_key(float iou) {
  if (iou != iou) return 0xffffffffu;
  const float positive_zero = iou + 0.0f;
  uint32_t bits;
  memcpy(&bits, &positive_zero, sizeof(bits));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
HOST_DEVICE unsigned long long match_key(double iou) {
  if (iou != iou) return ~0ull;
  const double positive_zero = iou + 0.0;
  unsigned long long bits;
  memcpy(&bits, &positive_zero, sizeof(bits));
  return bits >> 63 ? ~bits : bits | 1ull << 63;
}

__device__ __forceinline__ void match_raise(uint32_t* largest, uint32_t key) {
  if (load_relaxed(largest) < key) atomicMax(largest, key);
}
__device__ __forceinline__ void match_raise(unsigned long long* largest, unsigned long long key) {
  atomicMax(largest, key);
}

template <typename T> struct MatchKey { using type = uint32_t; };
template <> struct MatchKey<double> { using type = unsigned long long; };

template <typename T>
struct MatchTask {
  const T* boxes;
  const T* truths;
  const int64_t* box_offsets;  // null: boxes_each of every picture
  const int64_t* truth_offsets;
  int64_t pictures;
  int64_t boxes_each;
  bool boxes_of_all;
  int64_t results;
  int64_t num_truths;
  T low;
  T high;
  typename MatchKey<T>::type* largest;  // of each truth, zeros at first; null: not needed
  int64_t* matches;
  T* ious;
};

template <typename T>
__device__ __forceinline__ IouBox<T> match_box(const T* boxes, int64_t i) {
  const T* at = boxes + 4 * i;
  return iou_box(at[0], at[1], at[2], at[3]);
}

// A result's box and the truths of its picture. Offsets that are wrong are cut to the number of truths.
struct MatchPlace {
  int64_t box;
  int64_t begin;
  int64_t end;
};

template <typename T>
__device__ __forceinline__ MatchPlace match_place(const MatchTask<T>& task, int64_t result) {
  int64_t picture = 0;
  MatchPlace place{result, 0, 0};
  if (task.box_offsets == nullptr) {
    picture = result / task.boxes_each;
    if (task.boxes_of_all) place.box = result - picture * task.boxes_each;
  } else {
    int64_t high = task.pictures;  // the first picture that ends after the box
    while (picture < high) {
      const int64_t middle = picture + (high - picture) / 2;
      if (task.box_offsets[middle + 1] > result) high = middle;
      else picture = middle + 1;
    }
  }
  if (picture >= task.pictures) return place;
  const int64_t begin = task.truth_offsets[picture], end = task.truth_offsets[picture + 1];
  place.begin = begin < 0 ? 0 : begin;
  place.end = end < task.num_truths ? end : task.num_truths;
  return place;
}

template <typename T>
__global__ void __launch_bounds__(kMatchThreads) match_boxes_kernel(const MatchTask<T> task) {
  const int64_t result = int64_t(blockIdx.x) * kMatchThreads + threadIdx.x;
  if (result >= task.results) return;
  const MatchPlace place = match_place(task, result);
  const IouBox<T> box = match_box(task.boxes, place.box);
  int64_t best = kMatchBelowLow;
  T largest = 0;
  for (int64_t truth = place.begin; truth < place.end; ++truth) {
    const T iou = box_iou(match_box(task.truths, truth), box);
    if (truth == place.begin || match_is_larger(iou, largest)) {
      largest = iou;
      best = truth - place.begin;
    }
    if (task.largest != nullptr) match_raise(task.largest + truth, match_key(iou));
  }
  task.ious[result] = largest;
  task.matches[result] = place.begin < place.end ? match_of(best, largest, task.low, task.high) : best;
}

// Gives each truth the boxes of its largest IoU.
template <typename T>
__global__ void __launch_bounds__(kMatchThreads) match_low_quality_kernel(const MatchTask<T> task) {
  const int64_t result = int64_t(blockIdx.x) * kMatchThreads + threadIdx.x;
  if (result >= task.results || task.matches[result] >= 0) return;
  const MatchPlace place = match_place(task, result);
  const IouBox<T> box = match_box(task.boxes, place.box);
  int64_t best = 0;
  T largest = 0;
  bool is_matched = false;
  for (int64_t truth = place.begin; truth < place.end; ++truth) {
    const T iou = box_iou(match_box(task.truths, truth), box);
    if (truth == place.begin || match_is_larger(iou, largest)) {
      largest = iou;
      best = truth - place.begin;
    }
    is_matched |= iou == iou && match_key(iou) == task.largest[truth];
  }
  if (is_matched) task.matches[result] = best;
}

}  // namespace airank_fast
