// Boxes as an array of each number, for IoUs of a vector of boxes at a time.
#pragma once

#include <limits>
#include <vector>

#include "vectors.h"

#include "../box_iou_math.h"

namespace airank_fast {

// What is not put there, such as the rest of a last vector, is NaN, as are IoUs with it.
template <typename T>
class BoxArrays {
 public:
  void reset(int64_t size) {
    size_ = size;
    numbers_.assign(size_t(5 * size), std::numeric_limits<T>::quiet_NaN());
  }

  void put(int64_t at, const IouBox<T>& box) {
    T* to = numbers_.data() + at;
    for (const T number : {box.x1, box.y1, box.x2, box.y2, box.area}) {
      *to = number;
      to += size_;
    }
  }

  // Of the boxes from `at` on.
  template <typename V>
  HOST_DEVICE IouBox<V> vectors_at(int64_t at) const {
    const T* from = numbers_.data() + at;
    return {vector_at<V>(from), vector_at<V>(from + size_), vector_at<V>(from + 2 * size_),
            vector_at<V>(from + 3 * size_), vector_at<V>(from + 4 * size_)};
  }

 private:
  std::vector<T> numbers_;
  int64_t size_ = 0;
};

// Box i of [n, 4].
template <typename T>
HOST_DEVICE IouBox<T> box_at(const T* boxes, int64_t i) {
  const T* at = boxes + 4 * i;
  return iou_box(at[0], at[1], at[2], at[3]);
}

// The same box in every lane.
template <typename V, typename T>
HOST_DEVICE IouBox<V> box_in_lanes(const IouBox<T>& box) {
  return {vector_of<V>(box.x1), vector_of<V>(box.y1), vector_of<V>(box.x2), vector_of<V>(box.y2),
          vector_of<V>(box.area)};
}

// So many, and as many more as fill the last vector.
inline int64_t whole_vectors(int64_t count, int64_t lanes) { return (count + lanes - 1) / lanes * lanes; }

}  // namespace airank_fast
