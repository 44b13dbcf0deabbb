// 32 numbers of a row at a time, float or bfloat16, in two registers: for loops written out for processors that round
// pairs (see round_pairs.h).
#pragma once

#include <type_traits>

#include "numbers.h"
#include "round_pairs.h"

namespace airank_fast {

constexpr int64_t kLineNumbers = 32;

// Whether loops over lines may run, and have a type.
template <typename E>
constexpr bool kHasLines = std::is_same_v<E, float> || std::is_same_v<E, bfloat16>;

template <typename E>
bool walks_lines(int64_t width) {
#ifdef AIRANK_FAST_X86_VARIANTS
  return kHasLines<E> && rounds_pairs() && width % kLineNumbers == 0;
#else
  return false;
#endif
}

#ifdef AIRANK_FAST_X86_VARIANTS
#define IN_LINES TARGET_AVX512_BF16 inline __attribute__((always_inline))

// Of 32 bfloat16 the even and the odd ones, as they lie in memory; of 32 floats the first and the second half.
struct Line {
  __m512 first;
  __m512 second;
};

IN_LINES Line zeros() { return {_mm512_setzero_ps(), _mm512_setzero_ps()}; }
IN_LINES __m512 every(float x) { return _mm512_set1_ps(x); }
IN_LINES Line operator+(Line a, Line b) { return {_mm512_add_ps(a.first, b.first), _mm512_add_ps(a.second, b.second)}; }
IN_LINES Line operator-(Line a, Line b) { return {_mm512_sub_ps(a.first, b.first), _mm512_sub_ps(a.second, b.second)}; }
IN_LINES Line operator*(Line a, Line b) { return {_mm512_mul_ps(a.first, b.first), _mm512_mul_ps(a.second, b.second)}; }
IN_LINES Line operator-(Line a, __m512 b) { return {_mm512_sub_ps(a.first, b), _mm512_sub_ps(a.second, b)}; }
IN_LINES Line operator*(Line a, __m512 b) { return {_mm512_mul_ps(a.first, b), _mm512_mul_ps(a.second, b)}; }
// a * b + c and c - a * b, rounded once.
IN_LINES Line fma(Line a, Line b, Line c) {
  return {_mm512_fmadd_ps(a.first, b.first, c.first), _mm512_fmadd_ps(a.second, b.second, c.second)};
}
IN_LINES Line fnma(Line a, Line b, Line c) {
  return {_mm512_fnmadd_ps(a.first, b.first, c.first), _mm512_fnmadd_ps(a.second, b.second, c.second)};
}
IN_LINES Line fnma(Line a, __m512 b, Line c) {
  return {_mm512_fnmadd_ps(a.first, b, c.first), _mm512_fnmadd_ps(a.second, b, c.second)};
}
IN_LINES float sum_of(Line a) { return _mm512_reduce_add_ps(_mm512_add_ps(a.first, a.second)); }

IN_LINES Line line_at(const bfloat16* from) {
  const __m512i pairs = _mm512_loadu_si512(from);
  return {evens_of(pairs), odds_of(pairs)};
}
IN_LINES Line line_at(const float* from) { return {_mm512_loadu_ps(from), _mm512_loadu_ps(from + 16)}; }

// The mask of a line's nonzero numbers, of bfloat16 after rounding.
IN_LINES __mmask32 nonzeros(__m512i pairs) { return _mm512_test_epi16_mask(pairs, _mm512_set1_epi16(0x7fff)); }
template <typename E>
IN_LINES __mmask32 nonzeros(Line values) {
  if constexpr (!std::is_same_v<E, float>) return nonzeros(round_pairs(values.first, values.second));
  const __m512i digits = _mm512_set1_epi32(0x7fffffff);
  const __mmask32 high = _mm512_test_epi32_mask(_mm512_castps_si512(values.second), digits);
  return _mm512_test_epi32_mask(_mm512_castps_si512(values.first), digits) | high << 16;
}

// Stores a line, past the cache or not, and returns the mask of its nonzero numbers.
IN_LINES __mmask32 store_line(bfloat16* to, Line values, bool past_cache) {
  const __m512i pairs = round_pairs(values.first, values.second);
  store_pairs(to, pairs, past_cache);
  return nonzeros(pairs);
}
IN_LINES __mmask32 store_line(float* to, Line values, bool past_cache) {
  if (past_cache) {
    _mm512_stream_ps(to, values.first);
    _mm512_stream_ps(to + 16, values.second);
  } else {
    _mm512_storeu_ps(to, values.first);
    _mm512_storeu_ps(to + 16, values.second);
  }
  return nonzeros<float>(values);
}

template <typename E>
IN_LINES void ask_for(const E* line) {
  for (int i = 0; i < kLineNumbers * int(sizeof(E)); i += 64)
    _mm_prefetch(reinterpret_cast<const char*>(line) + i, _MM_HINT_T0);
}

#endif

}  // namespace airank_fast
