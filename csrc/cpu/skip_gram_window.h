// One window of skip-gram on the CPU: the dot products of all its input rows with all its output rows, the slopes of
// their losses, and one step of both sides from the rows as they were.
//
// Rows are padded with zeros to whole vectors of 16 floats and lie on cache lines of their own, so that no loop has a
// rest. Output rows are taken 6 at a time (or 3, the last ones): 4 x 6 sums fit in the 32 registers of AVX-512, 2 x 6 in
// the 16 of older processors. Sums stay in 4 lanes each until the loop over pairs adds them, which the compiler
// vectorises. Per pair and dimension there are 3 multiply-adds.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "../skip_gram_math.h"
#include "isa.h"
#include "streaming.h"

#if defined(__GNUC__) && !defined(__clang__)
// Vectors are passed to inlined functions only. No push and pop: templates are compiled at the end of the file.
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

namespace airank_fast {

constexpr int64_t kSkipGramRow = 16;     // floats to which rows are padded
constexpr int64_t kSkipGramOutputs = 6;  // output rows at a time
constexpr int64_t kSkipGramFewOutputs = 3;
constexpr int64_t kSkipGramSums = 4;  // lanes in which a dot product is left
constexpr int64_t kSkipGramPairs = 16;  // pairs at a time

inline int64_t skip_gram_padded(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

// The output rows of a window, with room for a last tile.
inline int64_t skip_gram_outputs(int64_t num_negatives) {
  return skip_gram_padded(1 + num_negatives, kSkipGramFewOutputs);
}

// What a thread keeps from window to window.
struct SkipGramState {
  // For windows of up to `most_inputs` input rows.
  SkipGramState(int64_t num_negatives, int64_t most_inputs)
      : outputs(skip_gram_outputs(num_negatives)),
        most_pairs(skip_gram_padded(outputs * most_inputs, kSkipGramPairs)),
        input_rows(size_t(most_inputs)),
        output_rows(size_t(outputs)),
        usual_signs(most_pairs),
        signs(most_pairs),
        sums(most_pairs * kSkipGramSums),
        steps(most_pairs),
        factors(kSkipGramPairs),
        linears(kSkipGramPairs),
        changed(outputs * kSkipGramRow) {
    for (int64_t i = 0; i < most_pairs; ++i) {
      const int64_t k = i % outputs;
      signs.data()[i] = usual_signs.data()[i] = k > num_negatives ? 0.0f : k == 0 ? 1.0f : -1.0f;
    }
    for (int64_t i = 0; i < kSkipGramPairs; ++i) factors.data()[i] = 1;
  }

  // Adds the logarithms of the factors to the loss: before they overflow, and at the end.
  void settle() {
    for (int64_t i = 0; i < kSkipGramPairs; ++i) {
      loss += std::log(double(factors.data()[i])) + double(linears.data()[i]);
      factors.data()[i] = 1;
      linears.data()[i] = 0;
    }
    unsettled = 0;
  }

  int64_t outputs;
  int64_t most_pairs;
  std::vector<float*> input_rows;
  std::vector<float*> output_rows;
  Scratch<float> usual_signs;  // those of a window in which no draw is skipped
  Scratch<float> signs;
  Scratch<float> sums;
  Scratch<float> steps;
  Scratch<float> factors;
  Scratch<float> linears;
  Scratch<float> changed;
  static constexpr int64_t kMostUnsettled = 96;  // a factor is at most 2
  int64_t unsettled = 0;
  double loss = 0;
  int64_t num_pairs = 0;  // of a context word and a centre word
};

// The addresses of a state, for the loops.
struct SkipGramView {
  float* const* inputs;   // the rows of the context words
  float* const* outputs;  // the rows of the centre word and of the negatives; rows of zeros fill the last tile
  int64_t num_inputs;
  int64_t num_outputs;
  int64_t num_pairs;
  int64_t width;      // of a row, padded
  const float* signs;
  float* sums;
  float* steps;
  float* factors;
  float* linears;
  float* changed;
  float lr;
};

template <int kLanes>
struct SkipGramWindow {
  typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), may_alias));
  static constexpr int kInputs = kLanes == 16 ? 4 : 2;

  HOST_DEVICE static void run(const SkipGramView& w) {
    const int64_t whole = w.num_outputs / kSkipGramOutputs * kSkipGramOutputs;
    for (int64_t k = 0; k < whole; k += kSkipGramOutputs) dots_of_all<kSkipGramOutputs>(w, k);
    if (whole < w.num_outputs) dots_of_all<kSkipGramFewOutputs>(w, whole);
    slopes(w);
    if (w.num_outputs == kSkipGramOutputs) {
      step_one_tile<kSkipGramOutputs>(w);
    } else if (w.num_outputs == kSkipGramFewOutputs) {
      step_one_tile<kSkipGramFewOutputs>(w);
    } else {
      step_tiles(w, whole);
    }
  }

  HOST_DEVICE static Vector at(const float* row, int64_t d) { return *reinterpret_cast<const Vector*>(row + d); }
  HOST_DEVICE static void put(float* row, int64_t d, Vector value) { *reinterpret_cast<Vector*>(row + d) = value; }

  template <int kOutputs>
  HOST_DEVICE static void dots_of_all(const SkipGramView& w, int64_t k) {
    int64_t c = 0;
    for (; c + kInputs <= w.num_inputs; c += kInputs) dots<kInputs, kOutputs>(w, c, k);
    if (kInputs == 4 && c + 2 <= w.num_inputs) {
      dots<2, kOutputs>(w, c, k);
      c += 2;
    }
    if (c < w.num_inputs) dots<1, kOutputs>(w, c, k);
  }

  template <int kCount, int kOutputs>
  HOST_DEVICE static void dots(const SkipGramView& w, int64_t c, int64_t k) {
    const float* inputs[kCount];
    const float* outputs[kOutputs];
    for (int i = 0; i < kCount; ++i) inputs[i] = w.inputs[c + i];
    for (int j = 0; j < kOutputs; ++j) outputs[j] = w.outputs[k + j];
    Vector sums[kCount][kOutputs];
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i)
#pragma GCC unroll 6
      for (int j = 0; j < kOutputs; ++j) sums[i][j] = Vector{};
    for (int64_t d = 0; d < w.width; d += kLanes) {
      Vector x[kCount];
#pragma GCC unroll 4
      for (int i = 0; i < kCount; ++i) x[i] = at(inputs[i], d);
#pragma GCC unroll 6
      for (int j = 0; j < kOutputs; ++j) {
        const Vector y = at(outputs[j], d);
#pragma GCC unroll 4
        for (int i = 0; i < kCount; ++i) sums[i][j] += x[i] * y;
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kCount; ++i)
#pragma GCC unroll 6
      for (int j = 0; j < kOutputs; ++j)
        leave(w.sums + ((c + i) * w.num_outputs + k + j) * kSkipGramSums, sums[i][j]);
  }

  // Adds the lanes to four.
  HOST_DEVICE static void leave(float* to, Vector sum) {
    typedef float Half __attribute__((vector_size(32)));
    typedef float Quarter __attribute__((vector_size(16)));
    Quarter four;
    if constexpr (kLanes == 16) {
      Half parts[2];
      __builtin_memcpy(parts, &sum, sizeof(sum));
      const Half eight = parts[0] + parts[1];
      Quarter quarters[2];
      __builtin_memcpy(quarters, &eight, sizeof(eight));
      four = quarters[0] + quarters[1];
    } else if constexpr (kLanes == 8) {
      Quarter quarters[2];
      __builtin_memcpy(quarters, &sum, sizeof(sum));
      four = quarters[0] + quarters[1];
    } else {
      four = sum;
    }
    __builtin_memcpy(to, &four, sizeof(four));
  }

  // The step's factor of each pair, lr * slope * sign, and its part of the loss.
  HOST_DEVICE static void slopes(const SkipGramView& w) {
    float* __restrict factors = w.factors;
    float* __restrict linears = w.linears;
    float* __restrict steps = w.steps;
    const float* __restrict sums = w.sums;
    const float* __restrict signs = w.signs;
    for (int64_t p = 0; p < w.num_pairs; p += kSkipGramPairs) {
      const int32_t left = int32_t(w.num_pairs - p);
      for (int32_t l = 0; l < kSkipGramPairs; ++l) {
        const float* lanes = sums + (p + l) * kSkipGramSums;
        const float x = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
        const float sign = l < left ? signs[p + l] : 0.0f;
        const SkipGramPair pair = skip_gram_pair(x, sign);
        steps[p + l] = w.lr * (sign * pair.slope);
        factors[l] *= pair.factor;
        linears[l] += pair.linear;
      }
    }
  }

  // For windows of one tile: old and new output rows stay in registers.
  template <int kOutputs>
  HOST_DEVICE static void step_one_tile(const SkipGramView& w) {
    float* outputs[kOutputs];
    for (int j = 0; j < kOutputs; ++j) outputs[j] = w.outputs[j];
    for (int64_t d = 0; d < w.width; d += kLanes) {
      Vector old[kOutputs], changed[kOutputs];
#pragma GCC unroll 6
      for (int j = 0; j < kOutputs; ++j) changed[j] = old[j] = at(outputs[j], d);
      for (int64_t c = 0; c < w.num_inputs; ++c) add_input<kOutputs>(at(w.inputs[c], d), w.steps + c * kOutputs, changed);
      for (int64_t c = 0; c < w.num_inputs; ++c)
        put(w.inputs[c], d, moved<kOutputs>(at(w.inputs[c], d), w.steps + c * kOutputs, old));
#pragma GCC unroll 6
      for (int j = 0; j < kOutputs; ++j) put(outputs[j], d, changed[j]);
    }
  }

  HOST_DEVICE static void step_tiles(const SkipGramView& w, int64_t whole) {
    for (int64_t d = 0; d < w.width; d += kLanes) {
      for (int64_t k = 0; k < whole; k += kSkipGramOutputs) change_tile<kSkipGramOutputs>(w, k, d);
      if (whole < w.num_outputs) change_tile<kSkipGramFewOutputs>(w, whole, d);
      for (int64_t k = 0; k < whole; k += kSkipGramOutputs) move_inputs<kSkipGramOutputs>(w, k, d);
      if (whole < w.num_outputs) move_inputs<kSkipGramFewOutputs>(w, whole, d);
      for (int64_t k = 0; k < w.num_outputs; ++k) put(w.outputs[k], d, at(w.changed, k * kLanes));
    }
  }

  template <int kOutputs>
  HOST_DEVICE static void change_tile(const SkipGramView& w, int64_t k, int64_t d) {
    Vector changed[kOutputs];
#pragma GCC unroll 6
    for (int j = 0; j < kOutputs; ++j) changed[j] = at(w.outputs[k + j], d);
    for (int64_t c = 0; c < w.num_inputs; ++c)
      add_input<kOutputs>(at(w.inputs[c], d), w.steps + c * w.num_outputs + k, changed);
#pragma GCC unroll 6
    for (int j = 0; j < kOutputs; ++j) put(w.changed, (k + j) * kLanes, changed[j]);
  }

  template <int kOutputs>
  HOST_DEVICE static void move_inputs(const SkipGramView& w, int64_t k, int64_t d) {
    Vector old[kOutputs];
#pragma GCC unroll 6
    for (int j = 0; j < kOutputs; ++j) old[j] = at(w.outputs[k + j], d);
    for (int64_t c = 0; c < w.num_inputs; ++c)
      put(w.inputs[c], d, moved<kOutputs>(at(w.inputs[c], d), w.steps + c * w.num_outputs + k, old));
  }

  template <int kOutputs>
  HOST_DEVICE static void add_input(Vector input, const float* steps, Vector* changed) {
#pragma GCC unroll 6
    for (int j = 0; j < kOutputs; ++j) changed[j] += steps[j] * input;
  }

  template <int kOutputs>
  HOST_DEVICE static Vector moved(Vector input, const float* steps, const Vector* old) {
#pragma GCC unroll 6
    for (int j = 0; j < kOutputs; ++j) input += steps[j] * old[j];
    return input;
  }
};

}  // namespace airank_fast
