// bfloat16 and float16 on the CPU: load to float, store from float, rounding to nearest even.
//
// Written as integer arithmetic without branches, so that the compiler vectorises the loops around them in any
// instruction set. NaN stays NaN, infinities and subnormals are exact. The float16 paths do not depend on the
// processor's flush-to-zero mode.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../host_device.h"

namespace airank_fast {

struct bfloat16 { uint16_t bits; };
struct float16 { uint16_t bits; };

// The type in which arithmetic on T is done.
template <typename T>
using math_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename To, typename From>
HOST_DEVICE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(To));
  return to;
}

// Not `condition ? yes : no`: the compiler may make that a branch, and then does not vectorise the loop.
HOST_DEVICE uint32_t select(bool condition, uint32_t yes, uint32_t no) {
  const uint32_t mask = -uint32_t(condition);
  return (yes & mask) | (no & ~mask);
}

HOST_DEVICE float load(float x) { return x; }
HOST_DEVICE double load(double x) { return x; }
HOST_DEVICE float load(bfloat16 x) { return bits_as<float>(uint32_t(x.bits) << 16); }

HOST_DEVICE float load(float16 x) {
  constexpr uint32_t kRebias = (127 - 15) << 23;
  const uint32_t exponent = x.bits & 0x7c00u;
  uint32_t value = (uint32_t(x.bits & 0x7fffu) << 13) + kRebias;
  value = select(exponent == 0x7c00u, value + kRebias, value);  // infinity and NaN: exponent 255
  const float subnormal = float(int32_t(x.bits & 0x03ffu)) * 0x1p-24f;
  value = select(exponent == 0, bits_as<uint32_t>(subnormal), value);
  return bits_as<float>(value | (uint32_t(x.bits & 0x8000u) << 16));
}

HOST_DEVICE void store(float* to, float x) { *to = x; }
HOST_DEVICE void store(double* to, double x) { *to = x; }

// The upper 16 bits are x as bfloat16; the lower have no meaning. The choice is made on 32 bits and narrowed once: half
// as many instructions as choosing between 16-bit halves.
HOST_DEVICE uint32_t bfloat16_above(float x) {
  const uint32_t bits = bits_as<uint32_t>(x);
  const uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  // `?:` between integers is a blend. With select(), or keeping the NaN's own bits, loops run a fifth slower.
  return x != x ? 0x7fc00000u : rounded;
}

HOST_DEVICE void store(bfloat16* to, float x) { to->bits = uint16_t(bfloat16_above(x) >> 16); }

HOST_DEVICE void store(float16* to, float x) {
  constexpr uint32_t kRebias = (127 - 15) << 23;
  const uint32_t bits = bits_as<uint32_t>(x);
  const uint32_t size = bits & 0x7fffffffu;
  uint32_t value = (size - kRebias + 0xfffu + ((size >> 13) & 1u)) >> 13;
  // Below 2^-14 the result is subnormal: adding 0.5 aligns its last bit with the float's, and rounds.
  const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(size) + 0.5f) - bits_as<uint32_t>(0.5f);
  value = select(size < 0x38800000u, subnormal, value);
  value = select(size >= 0x47800000u, 0x7c00u, value);  // 65536 and above: infinity
  value = select(size > 0x7f800000u, 0x7e00u, value);   // NaN
  to->bits = uint16_t(value | ((bits >> 16) & 0x8000u));
}

struct NoCopy {};

// The parameter of a 16-bit copy: the master, or the copy where that differs from the rounded master. Then other code
// has written the copy since the last step, as by loading a checkpoint.
template <typename C>
HOST_DEVICE float newest(float master, C copy) {
  C rounded;
  store(&rounded, master);
  const float written = load(copy);
  return load(rounded) == written ? master : written;
}

// The address of element i; null where there is no array.
template <typename T>
HOST_DEVICE T* element(T* array, int64_t i) {
  if constexpr (std::is_same_v<T, NoCopy>) return nullptr;
  else return array + i;
}

// Parameter i: the master where there are copies.
template <typename P, typename C>
HOST_DEVICE math_t<P> newest_at(const P* params, const C* copies, int64_t i) {
  if constexpr (std::is_same_v<std::remove_const_t<C>, NoCopy>) return load(params[i]);
  else return newest(load(params[i]), copies[i]);
}

}  // namespace airank_fast
