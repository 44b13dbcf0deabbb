// Skip-gram with negative sampling (Mikolov et al., "Distributed representations of words and phrases and their
// compositionality", 2013): the draws of one centre word, and loss and gradient of one pair of rows.
//
//   x = input row of a context word . output row of a word
//   t = x for the centre word, -x for a negative          loss = log(1 + exp(-t))
//
// The centre word at position p of the batch has the Philox counters p * blocks to (p + 1) * blocks - 1 under the seed.
// Of their numbers the first gives the window, each of the next ones a negative. A negative is drawn from an alias table
// (Vose, 1991): word * rows has a row in its upper half and a fraction in its lower; the entry of the row has in its
// upper half the least fraction, in units of 2^-31, at which the row in its lower half is drawn instead.
#pragma once

#include "philox.h"
#include "vector_math.h"

namespace airank_fast {

constexpr int kPhiloxNumbers = 4;
constexpr int32_t kSkipGramSkipped = -1;  // in place of a negative

// Counters for the window and the negatives of a centre word.
HOST_DEVICE int64_t skip_gram_blocks(int64_t num_negatives) {
  return (1 + num_negatives + kPhiloxNumbers - 1) / kPhiloxNumbers;
}

// Uniform in 1 .. largest.
HOST_DEVICE int64_t skip_gram_window(uint32_t number, int64_t largest) {
  return 1 + int64_t((uint64_t(number) * uint64_t(largest)) >> 32);
}

HOST_DEVICE int64_t skip_gram_negative(uint32_t number, const int64_t* table, int64_t rows) {
  const uint64_t product = uint64_t(number) * uint64_t(rows);
  const int64_t row = int64_t(product >> 32);
  const uint64_t entry = uint64_t(table[row]);
  return (uint32_t(product) >> 1) < (entry >> 32) ? row : int64_t(uint32_t(entry));
}

// Skips those of the rows drawn for a centre word that equal it or an earlier one.
HOST_DEVICE void skip_gram_skip_equals(int32_t centre, int32_t* drawn, int64_t count) {
  for (int64_t k = count; k-- > 0;) {
    bool equal = drawn[k] == centre;
    for (int64_t j = 0; j < k; ++j) equal |= drawn[k] == drawn[j];
    drawn[k] = equal ? kSkipGramSkipped : drawn[k];
  }
}

// Of a pair with dot product x; sign is 1 for the centre word, -1 for a negative, 0 for none. The loss is
// log(factor) + linear, so that many logarithms become one of a product.
struct SkipGramPair {
  float slope;  // -sign * d loss / dx, at least 0
  float factor;
  float linear;
};

HOST_DEVICE SkipGramPair skip_gram_pair(float x, float sign) {
  const float t = sign * x;
  const float size = fabsf(t);
  const float small = exp_nonpositive(-size);
  const float part = quick_reciprocal(1.0f + small);
  const float there = sign * sign;
  return {there * (t < 0 ? part : small * part), 1.0f + there * small, t < 0 ? size : 0.0f};
}

}  // namespace airank_fast
