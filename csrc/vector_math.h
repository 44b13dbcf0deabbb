// Roots, reciprocals, and exp in float32 for loops that the compiler vectorises, which it does not with the C library's
// exp.
//
//   exp(x) = 2^n * exp(r),  n = round(x / ln 2),  |r| <= ln(2) / 2, polynomial of degree 6 (S. Moshier, Cephes)
//
// Error at most 1 ulp. No branches and no table: adding 1.5 * 2^23 gives n, and 2^n is composed of its bits.
// A GPU has an instruction for it, and float64 uses the library.
#pragma once

#include "host_device.h"

#ifndef __CUDACC_RTC__
#include <cmath>
#include <cstdint>
#endif

namespace airank_fast {

HOST_DEVICE float square_root(float x) { return sqrtf(x); }
HOST_DEVICE double square_root(double x) { return sqrt(x); }

HOST_DEVICE double exp_nonpositive(double x) { return exp(x); }
HOST_DEVICE double quick_reciprocal(double x) { return 1.0 / x; }

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
HOST_DEVICE float exp_nonpositive(float x) { return expf(x); }
#ifdef __CUDA_ARCH__
HOST_DEVICE float quick_quotient(float x, float y) { return __fdividef(x, y); }  // within 2 ulp; 0 for y >= 2^126
#else
HOST_DEVICE float quick_quotient(float x, float y) { return x / y; }
#endif
HOST_DEVICE float quick_reciprocal(float x) { return quick_quotient(1.0f, x); }
#else
HOST_DEVICE float quick_quotient(float x, float y) { return x / y; }
HOST_DEVICE float quick_reciprocal(float x) { return 1.0f / x; }

// exp(x) for x <= 0, NaN for NaN. Below -87.3, where float32 has only subnormal numbers left, it is 0. Of a float, or of
// the compiler's vectors of floats, with their bits as unsigned integers.
template <typename Float, typename Bits>
HOST_DEVICE Float exp_nonpositive_in(Float x) {
  constexpr float kLowest = -87.3f;
  constexpr float kShift = 0x1.8p23f;
  const Float inside = x < kLowest ? kLowest : x;
  const Float shifted = inside * 1.44269504f + kShift;
  const Float n = shifted - kShift;
  const Float r = inside - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts, the first exact times n
  Float p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  Bits bits;
  __builtin_memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits + 127) << 23;  // the low bits of `shifted` are n; n + 127 in the exponent is 2^n
  bits = x < kLowest ? 0 : bits;
  Float power;
  __builtin_memcpy(&power, &bits, sizeof(power));
  return p * power;
}

HOST_DEVICE float exp_nonpositive(float x) { return exp_nonpositive_in<float, uint32_t>(x); }
#endif

}  // namespace airank_fast
