// Intersection over union of two boxes, corners x1, y1, x2, y2; one source for the CPU and the GPU.
//
//   iou = intersection / (area of a + area of b - intersection)
//
// Every operation is rounded by itself, in this order, as in torchvision's box_iou and nms: their results depend on the
// last bit where an IoU is at a threshold, or where two are equal. V is a number, or on the CPU a vector of them.
#pragma once

#include "host_device.h"

namespace airank_fast {

template <typename V>
struct IouBox {
  V x1, y1, x2, y2, area;
};

// The product, rounded: the compiler must not fuse it with an addition.
template <typename V>
HOST_DEVICE V iou_product(V a, V b) {
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
HOST_DEVICE V iou_smaller(V a, V b) {
  return a < b ? a : b;
}
template <typename V>
HOST_DEVICE V iou_larger(V a, V b) {
  return a > b ? a : b;
}

template <typename V>
HOST_DEVICE V iou_area(V x1, V y1, V x2, V y2) {
  return iou_product(x2 - x1, y2 - y1);
}

template <typename V>
HOST_DEVICE IouBox<V> iou_box(V x1, V y1, V x2, V y2) {
  return {x1, y1, x2, y2, iou_area(x1, y1, x2, y2)};
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
