// fm's loops for AVX-512, written out: a block of 16 dimensions is one masked register, whatever the embedding's length,
// and its sums over the fields stay in registers.
#pragma once

#include <type_traits>

#include "../fm_math.h"
#include "numbers.h"
#include "round_pairs.h"

namespace airank_fast {

struct FmShape {
  int64_t fields;
  int64_t dim;
  int64_t period;  // see fm.cpp

  int64_t size() const { return fields * dim; }
};

// Whether there are such loops for x of type T.
template <typename T>
constexpr bool kFmHasBlocks = std::is_same_v<T, float> || std::is_same_v<T, bfloat16>;

#ifdef AIRANK_FAST_X86_VARIANTS
#define IN_BLOCKS TARGET_AVX512 inline __attribute__((always_inline))

constexpr int64_t kFmBlock = 16;
// Fields after which partial sums begin again, so that sums over many are as accurate as over few.
constexpr int64_t kFmSegment = 64;

IN_BLOCKS __mmask16 fm_mask(int64_t dims) { return dims < kFmBlock ? __mmask16((1u << dims) - 1) : __mmask16(0xffff); }

IN_BLOCKS __m512 fm_load(const float* from, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, from); }
IN_BLOCKS __m512 fm_load(const bfloat16* from, __mmask16 mask) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

IN_BLOCKS void fm_store(float* to, __mmask16 mask, __m512 x) { _mm512_mask_storeu_ps(to, mask, x); }
IN_BLOCKS void fm_store(bfloat16* to, __mmask16 mask, __m512 x) {  // as bfloat16_above() rounds
  const __m512i bits = _mm512_castps_si512(x), one = _mm512_set1_epi32(1);
  const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), even);
  const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i above = _mm512_mask_mov_epi32(rounded, is_nan, _mm512_set1_epi32(0x7fc00000));
  _mm256_mask_storeu_epi16(to, mask, _mm512_cvtepi32_epi16(_mm512_srli_epi32(above, 16)));
}

IN_BLOCKS __m512 fm_sum(__m512 a, __m512 b, __m512 c, __m512 d) {
  return _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
}

struct FmBlock {
  __m512 sums;
  __m512 squares;
};

// Of the dimensions of the mask, the first of them at v.
template <bool kSquares, typename T>
IN_BLOCKS FmBlock fm_block(const T* v, const FmShape& shape, __mmask16 mask) {
  constexpr int kParts = 4;  // so that additions need not wait for each other
  FmBlock total{_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (int64_t first = 0; first < shape.fields; first += kFmSegment) {
    const int64_t last = shape.fields < first + kFmSegment ? shape.fields : first + kFmSegment;
    FmBlock parts[kParts] = {};
    int64_t f = first;
    for (; f + kParts <= last; f += kParts) {
#pragma GCC unroll 4
      for (int p = 0; p < kParts; ++p) {
        const __m512 x = fm_load(v + (f + p) * shape.dim, mask);
        parts[p].sums = _mm512_add_ps(parts[p].sums, x);
        if (kSquares) parts[p].squares = _mm512_fmadd_ps(x, x, parts[p].squares);
      }
    }
    for (; f < last; ++f) {
      const __m512 x = fm_load(v + f * shape.dim, mask);
      parts[1].sums = _mm512_add_ps(parts[1].sums, x);
      if (kSquares) parts[1].squares = _mm512_fmadd_ps(x, x, parts[1].squares);
    }
    total.sums = _mm512_add_ps(total.sums, fm_sum(parts[0].sums, parts[1].sums, parts[2].sums, parts[3].sums));
    if (kSquares)
      total.squares = _mm512_add_ps(
          total.squares, fm_sum(parts[0].squares, parts[1].squares, parts[2].squares, parts[3].squares));
  }
  return total;
}

template <typename T>
TARGET_AVX512 void fm_forward_blocks(const void* from, float* result, int64_t samples, FmShape shape, float*) {
  const T* x = static_cast<const T*>(from);
  for (int64_t i = 0; i < samples; ++i, x += shape.size()) {
    __m512 terms = _mm512_setzero_ps();
    for (int64_t d = 0; d < shape.dim; d += kFmBlock) {
      const FmBlock block = fm_block<true>(x + d, shape, fm_mask(shape.dim - d));
      terms = _mm512_add_ps(terms, _mm512_fmsub_ps(block.sums, block.sums, block.squares));
    }
    result[i] = 0.5f * _mm512_reduce_add_ps(terms);
  }
}

template <typename T>
TARGET_AVX512 void fm_backward_blocks(const float* grads, const void* from, void* to, int64_t samples, FmShape shape,
                                      float*) {
  const T* x = static_cast<const T*>(from);
  T* dx = static_cast<T*>(to);
  for (int64_t i = 0; i < samples; ++i, x += shape.size(), dx += shape.size()) {
    const __m512 grad = _mm512_set1_ps(grads[i]);
    for (int64_t d = 0; d < shape.dim; d += kFmBlock) {
      const __mmask16 mask = fm_mask(shape.dim - d);
      const __m512 sums = fm_block<false>(x + d, shape, mask).sums;
      for (int64_t f = 0; f < shape.fields; ++f) {
        const int64_t at = f * shape.dim + d;
        fm_store(dx + at, mask, _mm512_mul_ps(grad, _mm512_sub_ps(sums, fm_load(x + at, mask))));
      }
    }
  }
}
#endif

}  // namespace airank_fast
