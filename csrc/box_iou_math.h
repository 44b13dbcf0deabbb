// Intersection over union of two boxes, corners x1, y1, x2, y2; one source for the CPU and the GPU.
//
//   iou = intersection / (area of a + area of b - intersection)
//
// Every operation is rounded by itself, in this order, as in torchvision's box_iou and nms: their results depend on the
// last bit where an IoU is at a threshold, or where two are equal. V is a number, or on the CPU a vector of them.
#pragma once

#include "host_device.h"

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

namespace airank_fast {

template <typename V>
struct IouBox {
  V x1, y1, x2, y2, area;
};

// The product, rounded: the compiler must not fuse it with an addition.
template <typename V>
HOST_DEVICE V iou_product(const V& a, const V& b) {
#ifdef __CUDA_ARCH__
  if constexpr (sizeof(V) == sizeof(float)) return __fmul_rn(a, b);
  else return __dmul_rn(a, b);
#else
  V product = a * b;
#ifdef __x86_64__
  asm("" : "+v"(product));
#else
  asm("" : "+m"(product));
#endif
  return product;
#endif
}

// As std::min and std::max of (b, a).
template <typename V>
HOST_DEVICE V iou_smaller(const V& a, const V& b) {
  return a < b ? a : b;
}
template <typename V>
HOST_DEVICE V iou_larger(const V& a, const V& b) {
  return a > b ? a : b;
}

template <typename V>
HOST_DEVICE V iou_area(const V& x1, const V& y1, const V& x2, const V& y2) {
  return iou_product(x2 - x1, y2 - y1);
}

template <typename V>
HOST_DEVICE IouBox<V> iou_box(const V& x1, const V& y1, const V& x2, const V& y2) {
  return {x1, y1, x2, y2, iou_area(x1, y1, x2, y2)};
}

// Box i of [n, 4].
template <typename T>
HOST_DEVICE IouBox<T> box_at(const T* boxes, int64_t i) {
  const T* at = boxes + 4 * i;
  return iou_box(at[0], at[1], at[2], at[3]);
}

// NaN where a coordinate is, and for two boxes without area.
template <typename V>
HOST_DEVICE V box_iou(const IouBox<V>& a, const IouBox<V>& b) {
  const V zero = {};
  const V width = iou_larger(iou_smaller(a.x2, b.x2) - iou_larger(a.x1, b.x1), zero);
  const V height = iou_larger(iou_smaller(a.y2, b.y2) - iou_larger(a.y1, b.y1), zero);
  const V intersection = iou_product(width, height);
  return intersection / (a.area + b.area - intersection);
}

}  // namespace airank_fast
