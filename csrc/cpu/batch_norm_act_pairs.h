// Batch norm's loops over a whole group of 8 rows of bfloat16, for processors that round pairs (see round_pairs.h):
// 32 channels at a time, those of even number in one register and those of odd number in another. Widths are
// multiples of 32. The formulas are those of batch_norm_act_math.h, as in batch_norm_act_loops.h, but where a result
// is rounded to zero the ReLU's mask says that nothing passed.
#pragma once

#include <type_traits>

#include "numbers.h"
#include "round_pairs.h"

#ifdef AIRANK_FAST_X86_VARIANTS

namespace airank_fast {

constexpr int64_t kPairsWidth = 32;
constexpr int kPairsRows = 8;

// 32 numbers, one a channel.
struct Channels {
  __m512 evens;
  __m512 odds;
};

TARGET_AVX512_BF16 inline __attribute__((always_inline)) Channels channels_at(const float* from) {
  const __m512i evens = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512 low = _mm512_loadu_ps(from), high = _mm512_loadu_ps(from + 16);
  return {_mm512_permutex2var_ps(low, evens, high),
          _mm512_permutex2var_ps(low, _mm512_add_epi32(evens, _mm512_set1_epi32(1)), high)};
}

TARGET_AVX512_BF16 inline __attribute__((always_inline)) void add_channels(const Channels& values, float* to) {
  const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  const __m512 first = _mm512_permutex2var_ps(values.evens, low, values.odds);
  const __m512 second = _mm512_permutex2var_ps(values.evens, high, values.odds);
  _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), first));
  _mm512_storeu_ps(to + 16, _mm512_add_ps(_mm512_loadu_ps(to + 16), second));
}

TARGET_AVX512_BF16 inline __attribute__((always_inline)) Channels wide(__m512i pairs) {
  return {evens_of(pairs), odds_of(pairs)};
}

// dy of 32 channels of row k, zero where the mask says so.
template <bool kMask>
TARGET_AVX512_BF16 inline __attribute__((always_inline)) __m512i passed_pairs(const bfloat16* dy, __m256i bytes, int k) {
  const __m512i pairs = _mm512_loadu_si512(dy);
  if constexpr (!kMask) return pairs;
  return _mm512_maskz_mov_epi16(_mm256_test_epi8_mask(bytes, _mm256_set1_epi8(char(1 << k))), pairs);
}

template <bool kMask>
TARGET_AVX512_BF16 inline __attribute__((always_inline)) __m256i mask_at(const uint8_t* mask) {
  if constexpr (!kMask) return _mm256_setzero_si256();
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask));
}

template <bool kResidual, bool kRelu, bool kMask>
TARGET_AVX512_BF16 void act_pairs(const bfloat16* __restrict x, const bfloat16* __restrict residual,
                                  bfloat16* __restrict y, uint8_t* __restrict mask, int64_t width, const float* mean,
                                  const float* scale, const float* bias, bool past_cache) {
  for (int64_t c = 0; c < width; c += kPairsWidth) {
    const Channels means = channels_at(mean + c), scales = channels_at(scale + c), biases = channels_at(bias + c);
    __m256i bytes = _mm256_setzero_si256();
    for (int k = 0; k < kPairsRows; ++k) {
      const Channels row = wide(_mm512_loadu_si512(x + k * width + c));
      Channels z = {_mm512_fmadd_ps(_mm512_sub_ps(row.evens, means.evens), scales.evens, biases.evens),
                    _mm512_fmadd_ps(_mm512_sub_ps(row.odds, means.odds), scales.odds, biases.odds)};
      if constexpr (kResidual) {
        const Channels added = wide(_mm512_loadu_si512(residual + k * width + c));
        z = {_mm512_add_ps(z.evens, added.evens), _mm512_add_ps(z.odds, added.odds)};
      }
      if constexpr (kRelu)  // of NaN it is the second argument
        z = {_mm512_max_ps(_mm512_setzero_ps(), z.evens), _mm512_max_ps(_mm512_setzero_ps(), z.odds)};
      const __m512i pairs = round_pairs(z.evens, z.odds);
      if constexpr (kMask) {
        const __mmask32 passes = _mm512_test_epi16_mask(pairs, _mm512_set1_epi16(0x7fff));
        bytes = _mm256_or_si256(bytes, _mm256_maskz_set1_epi8(passes, char(1 << k)));
      }
      store_pairs(y + k * width + c, pairs, past_cache);
    }
    if constexpr (kMask) _mm256_storeu_si256(reinterpret_cast<__m256i*>(mask + c), bytes);
  }
}

template <bool kMask>
TARGET_AVX512_BF16 void sums_pairs(const bfloat16* __restrict dy, const bfloat16* __restrict x,
                                   const uint8_t* __restrict mask, int64_t stride, int64_t width, const float* mean,
                                   float* sum, float* products) {
  for (int64_t c = 0; c < width; c += kPairsWidth) {
    const Channels means = channels_at(mean + c);
    const __m256i bytes = mask_at<kMask>(mask + (kMask ? c : 0));
    Channels of_rows = {_mm512_setzero_ps(), _mm512_setzero_ps()}, products_of_rows = of_rows;
    for (int k = 0; k < kPairsRows; ++k) {
      const Channels dz = wide(passed_pairs<kMask>(dy + k * stride + c, bytes, k));
      const Channels row = wide(_mm512_loadu_si512(x + k * stride + c));
      of_rows = {_mm512_add_ps(of_rows.evens, dz.evens), _mm512_add_ps(of_rows.odds, dz.odds)};
      products_of_rows = {
          _mm512_fmadd_ps(dz.evens, _mm512_sub_ps(row.evens, means.evens), products_of_rows.evens),
          _mm512_fmadd_ps(dz.odds, _mm512_sub_ps(row.odds, means.odds), products_of_rows.odds)};
    }
    add_channels(of_rows, sum + c);
    add_channels(products_of_rows, products + c);
  }
}

template <bool kResidual, bool kMask>
TARGET_AVX512_BF16 void backward_pairs(const bfloat16* __restrict dy, const bfloat16* __restrict x,
                                       const uint8_t* __restrict mask, bfloat16* __restrict dx,
                                       bfloat16* __restrict dresidual, int64_t width, const float* mean,
                                       const float* scale, const float* mean_dz, const float* slope,
                                       bool past_cache) {
  for (int64_t c = 0; c < width; c += kPairsWidth) {
    const Channels means = channels_at(mean + c), scales = channels_at(scale + c), slopes = channels_at(slope + c);
    const Channels mean_dzs = channels_at(mean_dz + c);
    const __m256i bytes = mask_at<kMask>(mask + (kMask ? c : 0));
    for (int k = 0; k < kPairsRows; ++k) {
      const int64_t at = k * width + c;
      const __m512i pairs = passed_pairs<kMask>(dy + at, bytes, k);
      if constexpr (kResidual) store_pairs(dresidual + at, pairs, past_cache);
      const Channels dz = wide(pairs), row = wide(_mm512_loadu_si512(x + at));
      const __m512 evens = _mm512_fnmadd_ps(_mm512_sub_ps(row.evens, means.evens), slopes.evens,
                                            _mm512_sub_ps(dz.evens, mean_dzs.evens));
      const __m512 odds = _mm512_fnmadd_ps(_mm512_sub_ps(row.odds, means.odds), slopes.odds,
                                           _mm512_sub_ps(dz.odds, mean_dzs.odds));
      store_pairs(dx + at, round_pairs(_mm512_mul_ps(evens, scales.evens), _mm512_mul_ps(odds, scales.odds)), past_cache);
    }
  }
}

}  // namespace airank_fast
#endif
