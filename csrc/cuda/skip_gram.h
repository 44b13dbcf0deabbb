// The launchers of skip-gram as plain C++, for the torch registration and the tests.
//
// The number of touched rows depends on the words, and the caller makes the results of so many rows: it calls
// launch_skip_gram_draws, which waits for the device, and then launch_skip_gram_training.
#pragma once

#include "arguments.h"

namespace airank_fast {

struct SkipGramLaunch {
  const float* tables[2] = {};  // input and output, [rows, dim]
  int64_t rows = 0;
  int64_t dim = 0;
  const void* words = nullptr;  // [num_words], int64 or int32
  bool is_int64 = true;
  int64_t num_words = 0;
  const int64_t* offsets = nullptr;  // [sentences + 1]
  int64_t sentences = 0;
  const int64_t* negatives = nullptr;  // [rows]
  double lr = 0;
  int64_t window = 1;
  int64_t num_negatives = 0;
  int64_t seed = 0;
  int64_t parts = 1;
  bool unlocked = false;
  void* draws = nullptr;  // skip_gram_draws_bytes(), at a multiple of 16
};

// What the draws have shown. Where an argument is wrong, nothing else is meant.
struct SkipGramFound {
  bool wrong_offsets = false;
  bool wrong_words = false;
  bool wrong_negatives = false;
  int64_t num_pairs = 0;
  int64_t most_inputs = 0;  // context words of a window
  int64_t num_rows[2] = {};  // that the words touch in input and output
};

struct SkipGramResults {
  int64_t* rows[2] = {};     // [num_rows]
  float* deltas[2] = {};     // [num_rows, dim]
  double* loss_sum = nullptr;
  void* workspace = nullptr;  // skip_gram_training_bytes(), at a multiple of 16
};

int64_t skip_gram_draws_bytes(const SkipGramLaunch& work);
int64_t skip_gram_training_bytes(const SkipGramLaunch& work, const SkipGramFound& found);

// Draws windows and negatives, checks the contents of the arguments and finds the touched rows. Waits for `stream`.
cudaError_t launch_skip_gram_draws(const SkipGramLaunch& work, SkipGramFound& found, cudaStream_t stream);

// Trains; enqueues on `stream` of the current device, without waiting.
cudaError_t launch_skip_gram_training(const SkipGramLaunch& work, const SkipGramFound& found,
                                      const SkipGramResults& results, cudaStream_t stream);

}  // namespace airank_fast
