// Rounding to bfloat16 by the processor (AVX512_BF16: Zen 4, Cooper Lake and later), where a loop spends most of its
// instructions on rounding. One instruction for 32 numbers instead of eleven; but it reads and writes subnormals as
// zero, an error below 1.2e-38.
#pragma once

#include <cstdint>

#include "isa.h"
#include "numbers.h"

#ifdef AIRANK_FAST_X86_VARIANTS
// GCC 12 warns of the operands that these intrinsics leave undefined (its bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#define TARGET_AVX512_BF16 \
  __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,prefer-vector-width=512")))

namespace airank_fast {

// Whether the functions below may be called.
inline bool rounds_pairs() { return isa() >= Isa::avx512_bf16; }

// 32 bfloat16 in order, from the 16 of even and the 16 of odd number as floats.
TARGET_AVX512_BF16 inline __attribute__((always_inline)) __m512i round_pairs(__m512 evens, __m512 odds) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                                         23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odds, evens));
}

TARGET_AVX512_BF16 inline __attribute__((always_inline)) __m512 evens_of(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
}

TARGET_AVX512_BF16 inline __attribute__((always_inline)) __m512 odds_of(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(int32_t(0xffff0000))));
}

// Past the cache (see streaming.h) or not.
TARGET_AVX512_BF16 inline __attribute__((always_inline)) void store_pairs(bfloat16* to, __m512i pairs, bool past_cache) {
  if (past_cache) _mm512_stream_si512(reinterpret_cast<__m512i*>(to), pairs);
  else _mm512_storeu_si512(to, pairs);
}

// Rounds `count` floats, the results of loops that the compiler vectorises. Past the cache on request, if `to` begins a
// line.
TARGET_AVX512_BF16 inline __attribute__((noinline)) void round_row(const float* from, bfloat16* to, int64_t count,
                                                                   bool past_cache) {
  past_cache = past_cache && reinterpret_cast<uintptr_t>(to) % 64 == 0;
  int64_t i = 0;
  for (; i + 32 <= count; i += 32)
    store_pairs(to + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(from + i + 16), _mm512_loadu_ps(from + i)),
                past_cache);
  for (; i < count; ++i) store(to + i, from[i]);
}

}  // namespace airank_fast
#else
namespace airank_fast {

inline bool rounds_pairs() { return false; }
inline void round_row(const float*, bfloat16*, int64_t, bool) {}

}  // namespace airank_fast
#endif
