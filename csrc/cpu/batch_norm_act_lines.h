// Batch norm's loops over a whole group of 8 rows of float or bfloat16, for processors that round pairs: 32 channels
// at a time (see lines.h). Widths are multiples of 32. The formulas are those of batch_norm_act_math.h, as in
// batch_norm_act_loops.h, except that an element that is rounded to zero has not passed in the activation's mask.
//
// With each line that is read, the line `ahead` elements further is prefetched, which is needed a group later: a group
// is read column by column, a pattern that the processor's own prefetcher does not detect.
#pragma once

#include <type_traits>

#include "lines.h"
#include "numbers.h"

namespace airank_fast {

// What a loop is compiled for. With kAny the slope is an argument, which may be 0, a ReLU's.
enum class Activation { kNone, kRelu, kAny };

}  // namespace airank_fast

#ifdef AIRANK_FAST_X86_VARIANTS

namespace airank_fast {

constexpr int kLineRows = 8;

// Numbers kept per channel, in the order of E's lines.
template <typename E>
IN_LINES Line channels_at(const float* from) {
  const __m512 low = _mm512_loadu_ps(from), high = _mm512_loadu_ps(from + 16);
  if constexpr (std::is_same_v<E, float>) return {low, high};
  const __m512i evens = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  return {_mm512_permutex2var_ps(low, evens, high),
          _mm512_permutex2var_ps(low, _mm512_add_epi32(evens, _mm512_set1_epi32(1)), high)};
}

template <typename E>
IN_LINES void add_channels(Line values, float* to) {
  Line ordered = values;
  if constexpr (!std::is_same_v<E, float>) {
    const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    ordered = {_mm512_permutex2var_ps(values.first, low, values.second),
               _mm512_permutex2var_ps(values.first, high, values.second)};
  }
  _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), ordered.first));
  _mm512_storeu_ps(to + 16, _mm512_add_ps(_mm512_loadu_ps(to + 16), ordered.second));
}

// A line of numbers, zero where the mask has no bit.
IN_LINES Line masked_line(const bfloat16* from, __mmask32 mask) {
  const __m512i pairs = _mm512_maskz_mov_epi16(mask, _mm512_loadu_si512(from));
  return {evens_of(pairs), odds_of(pairs)};
}
IN_LINES Line masked_line(const float* from, __mmask32 mask) {
  return {_mm512_maskz_loadu_ps(__mmask16(mask), from), _mm512_maskz_loadu_ps(__mmask16(mask >> 16), from + 16)};
}

// The gradient of z in row k.
template <Activation kActivation, typename E>
IN_LINES Line passed_line(const E* dy, __m256i bytes, int k, float negative_slope) {
  if constexpr (kActivation == Activation::kNone) return line_at(dy);
  const __mmask32 passes = _mm256_test_epi8_mask(bytes, _mm256_set1_epi8(char(1 << k)));
  if (kActivation == Activation::kRelu || negative_slope == 0) return masked_line(dy, passes);
  return masked_line(dy, passes) + masked_line(dy, ~passes) * every(negative_slope);
}

template <Activation kActivation>
IN_LINES __m256i mask_at(const uint8_t* mask, int64_t channel) {
  if constexpr (kActivation == Activation::kNone) return _mm256_setzero_si256();
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask + channel));
}

// The numbers above zero, or below, and zero for the others; of NaN max and min return the second argument.
IN_LINES Line above_zero(Line z) { return {_mm512_max_ps(every(0), z.first), _mm512_max_ps(every(0), z.second)}; }
IN_LINES Line below_zero(Line z) { return {_mm512_min_ps(every(0), z.first), _mm512_min_ps(every(0), z.second)}; }

template <bool kResidual, Activation kActivation, bool kMask, typename E>
TARGET_AVX512_BF16 void act_lines(const E* __restrict x, const E* __restrict residual, E* __restrict y,
                                  uint8_t* __restrict mask, int64_t width, int64_t ahead, const float* mean,
                                  const float* scale, const float* bias, float negative_slope, bool past_cache) {
  for (int64_t c = 0; c < width; c += kLineNumbers) {
    const Line means = channels_at<E>(mean + c), scales = channels_at<E>(scale + c), biases = channels_at<E>(bias + c);
    __m256i bytes = _mm256_setzero_si256();
    for (int k = 0; k < kLineRows; ++k) {
      const int64_t at = k * width + c;
      ask_for(x + at + ahead);
      Line z = fma(line_at(x + at) - means, scales, biases);
      if constexpr (kResidual) {
        ask_for(residual + at + ahead);
        z = z + line_at(residual + at);
      }
      const bool leaky = kActivation == Activation::kAny && negative_slope != 0;
      __mmask32 passes = 0;
      if (leaky) {
        if constexpr (kMask) passes = nonzeros<E>(above_zero(z));
        z = above_zero(z) + below_zero(z) * every(negative_slope);
      } else if (kActivation != Activation::kNone) {
        z = above_zero(z);
      }
      if (!past_cache) ask_for(y + at + ahead);
      const __mmask32 stored = store_line(y + at, z, past_cache);
      if (!leaky) passes = stored;
      if constexpr (kMask) bytes = _mm256_or_si256(bytes, _mm256_maskz_set1_epi8(passes, char(1 << k)));
    }
    if constexpr (kMask) _mm256_storeu_si256(reinterpret_cast<__m256i*>(mask + c), bytes);
  }
}

template <typename E>
TARGET_AVX512_BF16 void moments_lines(const E* __restrict x, int64_t stride, int64_t width, int64_t ahead,
                                      const float* pivot, float* sum, float* squares) {
  for (int64_t c = 0; c < width; c += kLineNumbers) {
    const Line pivots = channels_at<E>(pivot + c);
    Line of_rows = zeros(), squares_of_rows = zeros();
    for (int k = 0; k < kLineRows; ++k) {
      const int64_t at = k * stride + c;
      ask_for(x + at + ahead);
      const Line distance = line_at(x + at) - pivots;
      of_rows = of_rows + distance;
      squares_of_rows = fma(distance, distance, squares_of_rows);
    }
    add_channels<E>(of_rows, sum + c);
    add_channels<E>(squares_of_rows, squares + c);
  }
}

template <Activation kActivation, typename E>
TARGET_AVX512_BF16 void sums_lines(const E* __restrict dy, const E* __restrict x, const uint8_t* __restrict mask,
                                   int64_t stride, int64_t width, int64_t ahead, const float* mean,
                                   float negative_slope, float* sum, float* products) {
  for (int64_t c = 0; c < width; c += kLineNumbers) {
    const Line means = channels_at<E>(mean + c);
    const __m256i bytes = mask_at<kActivation>(mask, c);
    Line of_rows = zeros(), products_of_rows = zeros();
    for (int k = 0; k < kLineRows; ++k) {
      const int64_t at = k * stride + c;
      ask_for(dy + at + ahead);
      ask_for(x + at + ahead);
      const Line dz = passed_line<kActivation>(dy + at, bytes, k, negative_slope);
      of_rows = of_rows + dz;
      products_of_rows = fma(dz, line_at(x + at) - means, products_of_rows);
    }
    add_channels<E>(of_rows, sum + c);
    add_channels<E>(products_of_rows, products + c);
  }
}

template <bool kResidual, Activation kActivation, bool kFixed, typename E>
TARGET_AVX512_BF16 void backward_lines(const E* __restrict dy, const E* __restrict x, const uint8_t* __restrict mask,
                                       E* __restrict dx, E* __restrict dresidual, int64_t width, int64_t ahead,
                                       const float* mean, const float* scale, const float* mean_dz, const float* slope,
                                       float negative_slope, bool past_cache) {
  for (int64_t c = 0; c < width; c += kLineNumbers) {
    const Line scales = channels_at<E>(scale + c);
    const Line means = kFixed ? zeros() : channels_at<E>(mean + c);
    const Line mean_dzs = kFixed ? zeros() : channels_at<E>(mean_dz + c);
    const Line slopes = kFixed ? zeros() : channels_at<E>(slope + c);
    const __m256i bytes = mask_at<kActivation>(mask, c);
    for (int k = 0; k < kLineRows; ++k) {
      const int64_t at = k * width + c;
      ask_for(dy + at + ahead);
      if constexpr (!kFixed) ask_for(x + at + ahead);
      const Line dz = passed_line<kActivation>(dy + at, bytes, k, negative_slope);
      if constexpr (kResidual) {
        if (!past_cache) ask_for(dresidual + at + ahead);
        store_line(dresidual + at, dz, past_cache);
      }
      if (!past_cache) ask_for(dx + at + ahead);
      Line through = dz;
      if constexpr (!kFixed) through = fnma(line_at(x + at) - means, slopes, dz - mean_dzs);
      store_line(dx + at, through * scales, past_cache);
    }
  }
}

}  // namespace airank_fast
#endif
