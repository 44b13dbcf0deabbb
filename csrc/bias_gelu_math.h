// GELU of u = x + bias and its slope, for one element; one source for the CPU and the GPU.
//
//   none:  gelu(u) = u * P(u),  slope = P(u) + u * p(u)          P, p: distribution and density of the normal law
//   tanh:  gelu(u) = u * s(u),  slope = s(u) + u * s(u) * (1 - s(u)) * 2 k (1 + 3 c u^2)
//          s(u) = (1 + tanh(k (u + c u^3))) / 2 = 1 / (1 + exp(-2 k (u + c u^3))),  k = sqrt(2 / pi), c = 0.044715
//
// In float32 P(-|u|) = exp(-u^2 / 2) * t * Q(t) with t = 1 / (1 + 0.303 |u|) and a polynomial Q, fitted to a relative
// error of 9e-8 for |u| <= 13.3, where exp becomes 0. Unlike 1 + erf it does not cancel for negative u, and the slope
// shares the exponential. The form is that of Abramowitz and Stegun 7.1.26; float64 uses the library's erfc.
// Source: torch.nn.functional.gelu (Hendrycks and Gimpel 2016).
#pragma once

#include "vector_math.h"

namespace airank_fast {

struct Gelu {
  template <typename T>
  struct Parts {
    T share;    // P(u) or s(u)
    T density;  // the derivative of `share`
  };

  HOST_DEVICE static Parts<float> erf_parts(float u) {
    const float size = u < 0.0f ? -u : u;
    const float e = exp_nonpositive(-0.5f * u * u);
    const float t = quick_reciprocal(1.0f + 0.303f * size);
    float q = 0.036723050f;
    q = q * t - 0.156434163f;
    q = q * t + 0.196773107f;
    q = q * t - 0.0466585982f;
    q = q * t + 0.125266665f;
    q = q * t + 0.101659604f;
    q = q * t + 0.121838426f;
    q = q * t + 0.120831900f;
    const float below = e * (q * t);
    const float above = 1.0f - below;
    return {u < 0.0f ? below : above, 0.398942280f * e};
  }

  HOST_DEVICE static Parts<double> erf_parts(double u) {
    return {0.5 * erfc(-0.70710678118654752440 * u), 0.39894228040143267794 * exp_nonpositive(-0.5 * u * u)};
  }

  template <typename T>
  HOST_DEVICE static Parts<T> tanh_parts(T u) {
    const T k2 = T(1.59576912160573071176);  // 2 sqrt(2 / pi)
    const T c = T(0.044715);
    const T size = u < T(0) ? -u : u;
    const T e = exp_nonpositive(-k2 * (size + c * size * size * size));
    const T one = quick_reciprocal(T(1) + e);
    const T other = e * one;
    return {u < T(0) ? other : one, one * other * (k2 * (T(1) + T(3) * c * u * u))};
  }

  template <bool kTanh, typename T>
  HOST_DEVICE static T value(T u) {
    return u * (kTanh ? tanh_parts(u) : erf_parts(u)).share;
  }

  template <bool kTanh, typename T>
  HOST_DEVICE static T slope(T u) {
    const Parts<T> parts = kTanh ? tanh_parts(u) : erf_parts(u);
    return parts.share + u * parts.density;
  }
};

// The same for 16-bit x on a GPU, where the arithmetic above would take longer than memory: half its instructions.
//
//   none:  P(-|u|) = 2^p(|u|), p a polynomial fitted to a relative error of 3e-5 for |u| <= 2, 1e-4 to 4, 1e-3 to 9
//          (P(-9) = 1e-19); its leading coefficient is negative, so P goes to 0 from there
//   tanh:  s(u) = 1 / (1 + 2^(-2 k log2(e) (u + c u^3))), which overflows to the right limit
struct GeluOf16Bits {
  template <bool kTanh>
  HOST_DEVICE static float value(float u) {
    if constexpr (kTanh) return quick_quotient(u, 1.0f + tanh_power(u, u * u));
    else return u * erf_share(u);
  }

  template <bool kTanh>
  HOST_DEVICE static float slope(float u) {
    if constexpr (kTanh) {
      const float share = quick_reciprocal(1.0f + tanh_power(u, u * u));
      return share + u * (share - share * share) * (1.59576912f + 0.214064144f * (u * u));
    } else {
      return erf_share(u) + 0.398942280f * u * exp2f(-0.721347520f * u * u);
    }
  }

 private:
  HOST_DEVICE static float erf_share(float u) {
    const float size = fabsf(u);
    float p = -1.06180380e-6f;
    p = p * size + 4.40675176e-5f;
    p = p * size - 7.79091846e-4f;
    p = p * size + 7.88502954e-3f;
    p = p * size - 0.0527100787f;
    p = p * size - 0.459585249f;
    p = p * size - 1.15091312f;
    const float below = exp2f(p * size - 1.0f);
    return u < 0.0f ? below : 1.0f - below;
  }

  // exp(-2 k (u + c u^3))
  HOST_DEVICE static float tanh_power(float u, float square) {
    return exp2f(u * (-2.30220820f - 0.102943240f * square));
  }
};

}  // namespace airank_fast
