// Batch norm's loops over a whole group of 8 rows of float or bfloat16, for processors that round pairs (see
// round_pairs.h): 32 channels at a time, in two registers. Widths are multiples of 32. The formulas are those of
// batch_norm_act_math.h, as in batch_norm_act_loops.h, but where a result is rounded to zero the ReLU's mask says that
// nothing passed.
//
// Beside each line that is read, the one `ahead` elements further is asked for, which will be needed a group later: a
// group is walked column by column, which the processor's own prefetching does not see through.
#pragma once

#include <type_traits>

#include "numbers.h"
#include "round_pairs.h"

#ifdef AIRANK_FAST_X86_VARIANTS

namespace airank_fast {

constexpr int64_t kLineChannels = 32;
constexpr int kLineRows = 8;
#define LINE_INLINE TARGET_AVX512_BF16 inline __attribute__((always_inline))

// Of 32 bfloat16 the even and the odd ones, as their lines give them; of 32 floats the first and the second half.
struct Channels {
  __m512 first;
  __m512 second;
};

// Numbers kept per channel, in the order of E's lines.
template <typename E>
LINE_INLINE Channels channels_at(const float* from) {
  const __m512 low = _mm512_loadu_ps(from), high = _mm512_loadu_ps(from + 16);
  if constexpr (std::is_same_v<E, float>) return {low, high};
  const __m512i evens = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  return {_mm512_permutex2var_ps(low, evens, high),
          _mm512_permutex2var_ps(low, _mm512_add_epi32(evens, _mm512_set1_epi32(1)), high)};
}

template <typename E>
LINE_INLINE void add_channels(const Channels& values, float* to) {
  Channels ordered = values;
  if constexpr (!std::is_same_v<E, float>) {
    const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    ordered = {_mm512_permutex2var_ps(values.first, low, values.second),
               _mm512_permutex2var_ps(values.first, high, values.second)};
  }
  _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), ordered.first));
  _mm512_storeu_ps(to + 16, _mm512_add_ps(_mm512_loadu_ps(to + 16), ordered.second));
}

LINE_INLINE Channels line_at(const bfloat16* from) {
  const __m512i pairs = _mm512_loadu_si512(from);
  return {evens_of(pairs), odds_of(pairs)};
}
LINE_INLINE Channels line_at(const float* from) { return {_mm512_loadu_ps(from), _mm512_loadu_ps(from + 16)}; }

// The same, zero where the mask has no bit of row k.
template <bool kMask>
LINE_INLINE Channels passed_line(const bfloat16* dy, __m256i bytes, int k) {
  __m512i pairs = _mm512_loadu_si512(dy);
  if constexpr (kMask)
    pairs = _mm512_maskz_mov_epi16(_mm256_test_epi8_mask(bytes, _mm256_set1_epi8(char(1 << k))), pairs);
  return {evens_of(pairs), odds_of(pairs)};
}
template <bool kMask>
LINE_INLINE Channels passed_line(const float* dy, __m256i bytes, int k) {
  if constexpr (!kMask) return line_at(dy);
  const __mmask32 passes = _mm256_test_epi8_mask(bytes, _mm256_set1_epi8(char(1 << k)));
  return {_mm512_maskz_loadu_ps(__mmask16(passes), dy), _mm512_maskz_loadu_ps(__mmask16(passes >> 16), dy + 16)};
}

// Stores a line, past the cache or not, and says where it is not zero.
LINE_INLINE __mmask32 store_line(bfloat16* to, const Channels& values, bool past_cache) {
  const __m512i pairs = round_pairs(values.first, values.second);
  store_pairs(to, pairs, past_cache);
  return _mm512_test_epi16_mask(pairs, _mm512_set1_epi16(0x7fff));
}
LINE_INLINE __mmask32 store_line(float* to, const Channels& values, bool past_cache) {
  if (past_cache) {
    _mm512_stream_ps(to, values.first);
    _mm512_stream_ps(to + 16, values.second);
  } else {
    _mm512_storeu_ps(to, values.first);
    _mm512_storeu_ps(to + 16, values.second);
  }
  const __m512i digits = _mm512_set1_epi32(0x7fffffff);
  const __mmask32 high = _mm512_test_epi32_mask(_mm512_castps_si512(values.second), digits);
  return _mm512_test_epi32_mask(_mm512_castps_si512(values.first), digits) | high << 16;
}

template <bool kMask>
LINE_INLINE __m256i mask_at(const uint8_t* mask) {
  if constexpr (!kMask) return _mm256_setzero_si256();
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask));
}

template <typename E>
LINE_INLINE void ask_for(const E* line) {
  for (int i = 0; i < kLineChannels * int(sizeof(E)); i += 64)
    _mm_prefetch(reinterpret_cast<const char*>(line) + i, _MM_HINT_T0);
}

template <bool kResidual, bool kRelu, bool kMask, typename E>
TARGET_AVX512_BF16 void act_lines(const E* __restrict x, const E* __restrict residual, E* __restrict y,
                                  uint8_t* __restrict mask, int64_t width, int64_t ahead, const float* mean,
                                  const float* scale, const float* bias, bool past_cache) {
  for (int64_t c = 0; c < width; c += kLineChannels) {
    const Channels means = channels_at<E>(mean + c), scales = channels_at<E>(scale + c);
    const Channels biases = channels_at<E>(bias + c);
    __m256i bytes = _mm256_setzero_si256();
    for (int k = 0; k < kLineRows; ++k) {
      const int64_t at = k * width + c;
      ask_for(x + at + ahead);
      const Channels row = line_at(x + at);
      Channels z = {_mm512_fmadd_ps(_mm512_sub_ps(row.first, means.first), scales.first, biases.first),
                    _mm512_fmadd_ps(_mm512_sub_ps(row.second, means.second), scales.second, biases.second)};
      if constexpr (kResidual) {
        ask_for(residual + at + ahead);
        const Channels added = line_at(residual + at);
        z = {_mm512_add_ps(z.first, added.first), _mm512_add_ps(z.second, added.second)};
      }
      if constexpr (kRelu)  // of NaN it is the second argument
        z = {_mm512_max_ps(_mm512_setzero_ps(), z.first), _mm512_max_ps(_mm512_setzero_ps(), z.second)};
      if (!past_cache) ask_for(y + at + ahead);
      const __mmask32 passes = store_line(y + at, z, past_cache);
      if constexpr (kMask) bytes = _mm256_or_si256(bytes, _mm256_maskz_set1_epi8(passes, char(1 << k)));
    }
    if constexpr (kMask) _mm256_storeu_si256(reinterpret_cast<__m256i*>(mask + c), bytes);
  }
}

template <typename E>
TARGET_AVX512_BF16 void moments_lines(const E* __restrict x, int64_t stride, int64_t width, int64_t ahead,
                                      const float* pivot, float* sum, float* squares) {
  for (int64_t c = 0; c < width; c += kLineChannels) {
    const Channels pivots = channels_at<E>(pivot + c);
    Channels of_rows = {_mm512_setzero_ps(), _mm512_setzero_ps()}, squares_of_rows = of_rows;
    for (int k = 0; k < kLineRows; ++k) {
      const int64_t at = k * stride + c;
      ask_for(x + at + ahead);
      const Channels row = line_at(x + at);
      const Channels distance = {_mm512_sub_ps(row.first, pivots.first), _mm512_sub_ps(row.second, pivots.second)};
      of_rows = {_mm512_add_ps(of_rows.first, distance.first), _mm512_add_ps(of_rows.second, distance.second)};
      squares_of_rows = {_mm512_fmadd_ps(distance.first, distance.first, squares_of_rows.first),
                         _mm512_fmadd_ps(distance.second, distance.second, squares_of_rows.second)};
    }
    add_channels<E>(of_rows, sum + c);
    add_channels<E>(squares_of_rows, squares + c);
  }
}

template <bool kMask, typename E>
TARGET_AVX512_BF16 void sums_lines(const E* __restrict dy, const E* __restrict x, const uint8_t* __restrict mask,
                                   int64_t stride, int64_t width, int64_t ahead, const float* mean, float* sum,
                                   float* products) {
  for (int64_t c = 0; c < width; c += kLineChannels) {
    const Channels means = channels_at<E>(mean + c);
    const __m256i bytes = mask_at<kMask>(mask + (kMask ? c : 0));
    Channels of_rows = {_mm512_setzero_ps(), _mm512_setzero_ps()}, products_of_rows = of_rows;
    for (int k = 0; k < kLineRows; ++k) {
      const int64_t at = k * stride + c;
      ask_for(dy + at + ahead);
      ask_for(x + at + ahead);
      const Channels dz = passed_line<kMask>(dy + at, bytes, k), row = line_at(x + at);
      of_rows = {_mm512_add_ps(of_rows.first, dz.first), _mm512_add_ps(of_rows.second, dz.second)};
      products_of_rows = {
          _mm512_fmadd_ps(dz.first, _mm512_sub_ps(row.first, means.first), products_of_rows.first),
          _mm512_fmadd_ps(dz.second, _mm512_sub_ps(row.second, means.second), products_of_rows.second)};
    }
    add_channels<E>(of_rows, sum + c);
    add_channels<E>(products_of_rows, products + c);
  }
}

template <bool kResidual, bool kMask, typename E>
TARGET_AVX512_BF16 void backward_lines(const E* __restrict dy, const E* __restrict x, const uint8_t* __restrict mask,
                                       E* __restrict dx, E* __restrict dresidual, int64_t width, int64_t ahead,
                                       const float* mean, const float* scale, const float* mean_dz, const float* slope,
                                       bool past_cache) {
  for (int64_t c = 0; c < width; c += kLineChannels) {
    const Channels means = channels_at<E>(mean + c), scales = channels_at<E>(scale + c);
    const Channels mean_dzs = channels_at<E>(mean_dz + c), slopes = channels_at<E>(slope + c);
    const __m256i bytes = mask_at<kMask>(mask + (kMask ? c : 0));
    for (int k = 0; k < kLineRows; ++k) {
      const int64_t at = k * width + c;
      ask_for(dy + at + ahead);
      ask_for(x + at + ahead);
      const Channels dz = passed_line<kMask>(dy + at, bytes, k), row = line_at(x + at);
      if constexpr (kResidual) {
        if (!past_cache) ask_for(dresidual + at + ahead);
        store_line(dresidual + at, dz, past_cache);
      }
      const __m512 first = _mm512_fnmadd_ps(_mm512_sub_ps(row.first, means.first), slopes.first,
                                            _mm512_sub_ps(dz.first, mean_dzs.first));
      const __m512 second = _mm512_fnmadd_ps(_mm512_sub_ps(row.second, means.second), slopes.second,
                                             _mm512_sub_ps(dz.second, mean_dzs.second));
      if (!past_cache) ask_for(dx + at + ahead);
      store_line(dx + at, {_mm512_mul_ps(first, scales.first), _mm512_mul_ps(second, scales.second)}, past_cache);
    }
  }
}

#undef LINE_INLINE

}  // namespace airank_fast
#endif
