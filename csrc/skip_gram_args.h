// The arguments of airank_fast::skip_gram, with the same checks on every device.
#pragma once

#include <cmath>

#include "tensors.h"

namespace airank_fast {

struct SkipGramOptions {
  double lr;
  int64_t window;
  int64_t num_negatives;
  int64_t seed;
  int64_t threads;
  bool unlocked;
};

inline void check_skip_gram_table(const char* name, const Tensor& table) {
  const char* op = "skip_gram";
  CHECK_ARGUMENT(table.dim() == 2, op, ": ", name, " must have shape [rows, dim], got ", shape_of(table));
  CHECK_ARGUMENT(table.scalar_type() == ScalarType::Float, op, ": ", name, " must be float32, got ",
                 name_of(table.scalar_type()));
  CHECK_ARGUMENT(table.is_contiguous(), op, ": ", name, " must be contiguous, got strides ", text_of(table.strides()));
}

inline void check_skip_gram_int64(const char* name, const Tensor& tensor, const Tensor& like) {
  const char* op = "skip_gram";
  CHECK_ARGUMENT(same_device(tensor, like), op, ": ", name, " must be on ", device_of(like), ", got ",
                 device_of(tensor));
  CHECK_ARGUMENT(tensor.scalar_type() == ScalarType::Long, op, ": ", name, " must be int64, got ",
                 name_of(tensor.scalar_type()));
}

inline void check_skip_gram(const Tensor& input, const Tensor& output, const Tensor& words, const Tensor& offsets,
                            const Tensor& negatives, const SkipGramOptions& options) {
  const char* op = "skip_gram";
  constexpr int64_t kMost = (int64_t(1) << 31) - 1;
  check_skip_gram_table("input", input);
  CHECK_ARGUMENT(input.size(0) <= kMost, op, ": input must have at most ", kMost, " rows, got ", input.size(0));
  CHECK_ARGUMENT(same_device(output, input), op, ": output must be on ", device_of(input), ", got ",
                 device_of(output));
  check_skip_gram_table("output", output);
  CHECK_ARGUMENT(same_shape(output, input), op, ": output must have shape ", shape_of(input), ", got ",
                 shape_of(output));
  CHECK_ARGUMENT(same_device(words, input), op, ": words must be on ", device_of(input), ", got ", device_of(words));
  CHECK_ARGUMENT(words.scalar_type() == ScalarType::Long || words.scalar_type() == ScalarType::Int, op,
                 ": words must be int64 or int32, got ", name_of(words.scalar_type()));
  CHECK_ARGUMENT(words.dim() == 1, op, ": words must have shape [words], got ", shape_of(words));
  check_skip_gram_int64("offsets", offsets, input);
  CHECK_ARGUMENT(offsets.dim() == 1 && offsets.size(0) >= 1, op, ": offsets must have shape [sentences + 1], got ",
                 shape_of(offsets));
  check_skip_gram_int64("negatives", negatives, input);
  CHECK_ARGUMENT(negatives.dim() == 1 && negatives.size(0) == input.size(0), op, ": negatives must have shape [",
                 input.size(0), "], got ", shape_of(negatives));
  CHECK_ARGUMENT(options.lr > 0 && std::isfinite(options.lr), op, ": lr must be finite and above 0, got ", options.lr);
  CHECK_ARGUMENT(options.window >= 1 && options.window <= kMost, op, ": window must be in [1, ", kMost, "], got ",
                 options.window);
  CHECK_ARGUMENT(options.num_negatives >= 0, op, ": num_negatives must be at least 0, got ", options.num_negatives);
  CHECK_ARGUMENT(options.threads >= 1, op, ": threads must be at least 1, got ", options.threads);
}

// The contents of the arguments, on the CPU.
inline void check_skip_gram_offsets(const int64_t* offsets, int64_t sentences, int64_t num_words) {
  const char* op = "skip_gram";
  CHECK_ARGUMENT(offsets[0] == 0, op, ": offsets[0] must be 0, got ", offsets[0]);
  for (int64_t i = 0; i < sentences; ++i)
    CHECK_ARGUMENT(offsets[i + 1] >= offsets[i] && offsets[i + 1] <= num_words, op, ": offsets[", i + 1,
                   "] must be in [", offsets[i], ", ", num_words, "], got ", offsets[i + 1]);
  CHECK_ARGUMENT(offsets[sentences] == num_words, op, ": offsets[", sentences, "] must be the number of words, ",
                 num_words, ", got ", offsets[sentences]);
}

inline void check_skip_gram_word(int64_t i, int64_t id, int64_t rows) {
  CHECK_ARGUMENT(id >= 0 && id < rows, "skip_gram: words[", i, "] must be in [0, ", rows, "), got ", id);
}

inline void check_skip_gram_negatives(bool wrong) {
  CHECK_ARGUMENT(!wrong, "skip_gram: negatives must be a table of negative_table, got other numbers");
}

}  // namespace airank_fast
