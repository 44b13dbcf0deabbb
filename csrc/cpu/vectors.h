// Vectors as the compiler's own types, for loops written out by hand and compiled for every width (choose_lanes() in
// isa.h): the type by its element and its bytes, loads, and whether any lane of a comparison holds.
#pragma once

#include <cstdint>
#include <cstring>

#include "../host_device.h"

#if defined(__GNUC__) && !defined(__clang__)
// Vectors are passed to inlined functions only. No push and pop: templates are compiled at the end of the file.
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace airank_fast {

// Spelt out, because an attribute that depends on a template's parameter is lost in a template's argument.
template <typename T, int kBytes> struct VectorType;
template <> struct VectorType<float, 16> { typedef float type __attribute__((vector_size(16))); };
template <> struct VectorType<float, 32> { typedef float type __attribute__((vector_size(32))); };
template <> struct VectorType<float, 64> { typedef float type __attribute__((vector_size(64))); };
template <> struct VectorType<double, 16> { typedef double type __attribute__((vector_size(16))); };
template <> struct VectorType<double, 32> { typedef double type __attribute__((vector_size(32))); };
template <> struct VectorType<double, 64> { typedef double type __attribute__((vector_size(64))); };

template <typename V, typename T>
HOST_DEVICE V vector_at(const T* from) {
  V vector;
  std::memcpy(&vector, from, sizeof(V));
  return vector;
}

template <typename V, typename T>
HOST_DEVICE V vector_of(T x) {
  return V{} + x;  // x + 0; of -0 it is +0
}

// `mask` is a comparison of vectors, or such combined.
template <typename Mask>
HOST_DEVICE bool any_of(Mask mask) {
  constexpr int kWords = sizeof(Mask) / sizeof(int64_t);
  int64_t words[kWords], all = 0;
  std::memcpy(words, &mask, sizeof(mask));
  for (int i = 0; i < kWords; ++i) all |= words[i];
  return all != 0;
}

}  // namespace airank_fast
