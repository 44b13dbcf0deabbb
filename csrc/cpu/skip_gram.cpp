// Skip-gram with negative sampling on the CPU: one pass over a batch of sentences.
//
// The rows that the batch touches are copied to a compact table of padded rows, trained there window by window
// (skip_gram_window.h), and returned as gradients. Draws are made first, as they decide which rows those are. The rows of
// the negatives have random addresses: they are fetched two centre words ahead.
//
// Bytes, with rows of 4 dim bytes: 3 rows per touched row to copy it and 3 for its gradient; per centre word 4 for
// its id, 4 for its window and 4 per negative.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <tuple>
#include <vector>

#include "../skip_gram_args.h"
#include "../sparse_table_args.h"
#include "skip_gram_window.h"
#include "sparse_table_rows.h"

namespace airank_fast {
namespace {

constexpr int64_t kDrawBlock = 64;  // centre words whose draws are made together
constexpr int64_t kCentresAhead = 2;
constexpr int64_t kWordsPerThread = 1 << 10;
constexpr int64_t kSentencesPerThread = 1 << 6;

// The window of each centre word, and its negatives without those that equal it or an earlier one.
struct DrawLoop {
  using Signature = void(const int32_t*, int64_t, int64_t, const SkipGramOptions&, const int64_t*, int64_t, int32_t*,
                         int32_t*, bool*);

  HOST_DEVICE static void run(const int32_t* words, int64_t begin, int64_t end, const SkipGramOptions& options,
                              const int64_t* table, int64_t rows, int32_t* windows, int32_t* negatives, bool* wrong) {
    const int64_t count = options.num_negatives, blocks = skip_gram_blocks(count);
    const Philox philox{uint64_t(options.seed), 0};
    uint32_t numbers[kPhiloxNumbers][kDrawBlock];
    bool is_wrong = false;
    for (int64_t first = begin; first < end; first += kDrawBlock) {
      const int64_t here = std::min(kDrawBlock, end - first);
      for (int64_t block = 0; block < blocks; ++block) {
        for (int64_t i = 0; i < kDrawBlock; ++i) {
          const Philox::Words drawn = philox(uint64_t((first + i) * blocks + block));
          numbers[0][i] = uint32_t(drawn.at[0]);
          numbers[1][i] = uint32_t(drawn.at[1]);
          numbers[2][i] = uint32_t(drawn.at[2]);
          numbers[3][i] = uint32_t(drawn.at[3]);
        }
        for (int64_t number = 0; number < kPhiloxNumbers; ++number) {
          const int64_t k = block * kPhiloxNumbers + number - 1;
          if (k < 0)
            for (int64_t i = 0; i < here; ++i)
              windows[first + i] = int32_t(skip_gram_window(numbers[number][i], options.window));
          else if (k < count)
            for (int64_t i = 0; i < here; ++i) {
              const int64_t row = skip_gram_negative(numbers[number][i], table, rows);
              is_wrong |= row >= rows;
              negatives[(first + i) * count + k] = int32_t(row);
            }
        }
      }
      for (int64_t i = first; i < first + here; ++i) skip_gram_skip_equals(words[i], negatives + i * count, count);
    }
    *wrong |= is_wrong;
  }
};

// The batch and the tables that a part of it trains.
struct SkipGramBatch {
  const int64_t* offsets;
  const int32_t* inputs;     // for each word its row of `input`
  const int32_t* outputs;    // for each word its row of `output`
  const int32_t* windows;
  const int32_t* negatives;  // rows of `output`, or kSkipGramSkipped
  int64_t num_words;
  int64_t num_negatives;
  float* input;
  float* output;
  float* zeros;
  int64_t stride;
  int64_t width;
  float lr;
};

template <int kLanes>
struct TrainLoop {
  using Signature = void(const SkipGramBatch&, int64_t, int64_t, SkipGramState&);

  HOST_DEVICE static void run(const SkipGramBatch& batch, int64_t first, int64_t last, SkipGramState& state) {
    SkipGramView view{state.input_rows.data(), state.output_rows.data(), 0, state.outputs, 0, batch.width,
                      state.signs.data(), state.sums.data(), state.steps.data(), state.factors.data(),
                      state.linears.data(), state.changed.data(), batch.lr};
    for (int64_t sentence = first; sentence < last; ++sentence) {
      const int64_t begin = batch.offsets[sentence], end = batch.offsets[sentence + 1];
      if (end - begin < 2) continue;
      for (int64_t i = begin; i < end; ++i) {
        fetch(batch, std::min(i + kCentresAhead, batch.num_words - 1));
        train(batch, i, std::max(begin, i - batch.windows[i]), std::min(end, i + batch.windows[i] + 1), state, view);
      }
    }
    state.settle();
  }

  HOST_DEVICE static void fetch(const SkipGramBatch& batch, int64_t i) {
    const int64_t row_bytes = batch.width * int64_t(sizeof(float));
    const int32_t* negatives = batch.negatives + i * batch.num_negatives;
    for (int64_t k = 0; k < batch.num_negatives; ++k)
      if (negatives[k] != kSkipGramSkipped) fetch_row(batch.output + negatives[k] * batch.stride, row_bytes);
    fetch_row(batch.output + batch.outputs[i] * batch.stride, row_bytes);
    const int64_t context = std::min(i + batch.windows[i], batch.num_words - 1);
    fetch_row(batch.input + batch.inputs[context] * batch.stride, row_bytes);
  }

  HOST_DEVICE static void train(const SkipGramBatch& batch, int64_t centre, int64_t from, int64_t to,
                                SkipGramState& state, SkipGramView& view) {
    float** inputs = state.input_rows.data();
    float** outputs = state.output_rows.data();
    int64_t num_inputs = 0;
    for (int64_t i = from; i < centre; ++i) inputs[num_inputs++] = batch.input + batch.inputs[i] * batch.stride;
    for (int64_t i = centre + 1; i < to; ++i) inputs[num_inputs++] = batch.input + batch.inputs[i] * batch.stride;
    outputs[0] = batch.output + batch.outputs[centre] * batch.stride;
    const int32_t* negatives = batch.negatives + centre * batch.num_negatives;
    bool any_skipped = false;
    for (int64_t k = 0; k < state.outputs - 1; ++k) {
      const bool there = k < batch.num_negatives && negatives[k] != kSkipGramSkipped;
      any_skipped |= k < batch.num_negatives && !there;
      outputs[1 + k] = there ? batch.output + negatives[k] * batch.stride : batch.zeros;
    }
    view.num_inputs = num_inputs;
    view.num_pairs = num_inputs * state.outputs;
    if (any_skipped)
      for (int64_t k = 0; k < batch.num_negatives; ++k)
        if (negatives[k] == kSkipGramSkipped)
          for (int64_t c = 0; c < num_inputs; ++c) state.signs.data()[c * state.outputs + 1 + k] = 0;
    SkipGramWindow<kLanes>::run(view);
    if (any_skipped)
      std::memcpy(state.signs.data(), state.usual_signs.data(), size_t(view.num_pairs) * sizeof(float));
    state.num_pairs += num_inputs;
    state.unsettled += (view.num_pairs + kSkipGramPairs - 1) / kSkipGramPairs;
    if (state.unsettled > SkipGramState::kMostUnsettled) state.settle();
  }
};

// The rows that were touched, in ascending order, and where each one is among them.
struct Touched {
  explicit Touched(int64_t rows) : flags(std::make_unique<std::atomic<uint8_t>[]>(size_t(rows))), places(size_t(rows)) {}

  void touch(int32_t row) { flags[size_t(row)].store(1, std::memory_order_relaxed); }

  void number() {
    for (size_t row = 0; row < places.size(); ++row)
      if (flags[row].load(std::memory_order_relaxed)) {
        places[row] = int32_t(rows.size());
        rows.push_back(int64_t(row));
      }
  }

  std::unique_ptr<std::atomic<uint8_t>[]> flags;
  std::vector<int32_t> places;
  std::vector<int64_t> rows;
};

// Padded rows, each on cache lines of its own, not initialised.
class PaddedRows {
 public:
  PaddedRows(int64_t rows, int64_t stride)
      : room_(std::make_unique_for_overwrite<float[]>(size_t(rows * stride + kSkipGramRow))) {
    const auto start = reinterpret_cast<uintptr_t>(room_.get());
    rows_ = reinterpret_cast<float*>((start + kLineBytes - 1) / kLineBytes * kLineBytes);
  }

  float* data() const { return rows_; }

 private:
  std::unique_ptr<float[]> room_;
  float* rows_;
};

// A part of the batch: sentences [first, last), trained on these tables.
struct Part {
  int64_t first;
  int64_t last;
  float* input;
  float* output;
  double loss = 0;
  int64_t num_pairs = 0;
};

int64_t rows_per_thread(int64_t dim) { return std::max<int64_t>(1, (int64_t(1) << 15) / std::max<int64_t>(1, dim)); }

void copy_rows(const float* table, const std::vector<int64_t>& rows, int64_t dim, int64_t width, int64_t stride,
               float* to) {
  torch::stable::parallel_for(0, int64_t(rows.size()), rows_per_thread(dim), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(to + i * stride, table + rows[size_t(i)] * dim, size_t(dim) * sizeof(float));
      std::fill(to + i * stride + dim, to + i * stride + width, 0.0f);
    }
  });
}

struct DeltaLoop {
  using Signature = void(const float*, const int64_t*, int64_t, int64_t, int64_t, int64_t, const float* const*, int64_t,
                         float, float*);

  // The sum over the trained copies of (old - new) / lr.
  HOST_DEVICE static void run(const float* table, const int64_t* rows, int64_t begin, int64_t end, int64_t dim,
                              int64_t stride, const float* const* copies, int64_t num_copies, float rate,
                              float* deltas) {
    for (int64_t i = begin; i < end; ++i) {
      const float* __restrict old = table + rows[i] * dim;
      float* __restrict delta = deltas + i * dim;
      const float* __restrict first = copies[0] + i * stride;
      for (int64_t d = 0; d < dim; ++d) delta[d] = (old[d] - first[d]) * rate;
      for (int64_t copy = 1; copy < num_copies; ++copy) {
        const float* __restrict trained = copies[copy] + i * stride;
        for (int64_t d = 0; d < dim; ++d) delta[d] += (old[d] - trained[d]) * rate;
      }
    }
  }
};

Tensor deltas_of(const Tensor& table, const std::vector<int64_t>& rows, const std::vector<const float*>& copies,
                 int64_t stride, double lr) {
  const int64_t dim = table.size(1);
  Tensor deltas = empty_beside(table, {int64_t(rows.size()), dim});
  const auto loop = choose<DeltaLoop>();
  torch::stable::parallel_for(0, int64_t(rows.size()), rows_per_thread(dim), [&](int64_t begin, int64_t end) {
    loop(static_cast<const float*>(table.data_ptr()), rows.data(), begin, end, dim, stride, copies.data(),
         int64_t(copies.size()), float(1 / lr), static_cast<float*>(deltas.data_ptr()));
  });
  return deltas;
}

Tensor rows_tensor(const Tensor& like, const std::vector<int64_t>& rows) {
  Tensor out = empty_beside(like, {int64_t(rows.size())}, ScalarType::Long);
  std::copy(rows.begin(), rows.end(), static_cast<int64_t*>(out.data_ptr()));
  return out;
}

std::vector<int32_t> ids_of(const Tensor& words, int64_t rows) {
  std::vector<int32_t> ids(size_t(words.numel()));
  for (int64_t i = 0; i < words.numel(); ++i) {
    const int64_t id = table_id_at(words, i);
    check_skip_gram_word(i, id, rows);
    ids[size_t(i)] = int32_t(id);
  }
  return ids;
}

using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Results skip_gram_cpu(Tensor input, Tensor output, Tensor words, Tensor offsets, Tensor negatives, double lr,
                      int64_t window, int64_t num_negatives, int64_t seed, int64_t threads, bool unlocked) {
  const SkipGramOptions options{lr, window, num_negatives, seed, threads, unlocked};
  check_skip_gram(input, output, words, offsets, negatives, options);
  words = as_contiguous(words);
  offsets = as_contiguous(offsets);
  negatives = as_contiguous(negatives);
  const int64_t rows = input.size(0), dim = input.size(1);
  const int64_t num_words = words.numel(), sentences = offsets.numel() - 1;
  const int64_t* starts = static_cast<const int64_t*>(offsets.data_ptr());
  check_skip_gram_offsets(starts, sentences, num_words);
  std::vector<int32_t> inputs = ids_of(words, rows), outputs = inputs;

  auto windows = std::make_unique_for_overwrite<int32_t[]>(size_t(num_words));
  auto drawn = std::make_unique_for_overwrite<int32_t[]>(size_t(num_words * num_negatives));
  std::atomic<bool> wrong = false;
  const auto draw = choose<DrawLoop>();
  torch::stable::parallel_for(0, num_words, kWordsPerThread, [&](int64_t begin, int64_t end) {
    bool here = false;
    draw(inputs.data(), begin, end, options, static_cast<const int64_t*>(negatives.data_ptr()), rows, windows.get(),
         drawn.get(), &here);
    if (here) wrong = true;
  });
  check_skip_gram_negatives(wrong);

  Touched input_rows(rows), output_rows(rows);
  const auto for_each_pair = [&](auto of_word, auto of_negative) {
    torch::stable::parallel_for(0, sentences, kSentencesPerThread, [&](int64_t first, int64_t last) {
      for (int64_t sentence = first; sentence < last; ++sentence) {
        if (starts[sentence + 1] - starts[sentence] < 2) continue;
        for (int64_t i = starts[sentence]; i < starts[sentence + 1]; ++i) {
          of_word(size_t(i));
          for (int64_t k = i * num_negatives; k < (i + 1) * num_negatives; ++k)
            if (drawn[size_t(k)] != kSkipGramSkipped) of_negative(drawn[size_t(k)]);
        }
      }
    });
  };
  for_each_pair(
      [&](size_t i) {
        input_rows.touch(inputs[i]);
        output_rows.touch(inputs[i]);
      },
      [&](int32_t& row) { output_rows.touch(row); });
  input_rows.number();
  output_rows.number();
  for_each_pair(
      [&](size_t i) {
        outputs[i] = output_rows.places[size_t(inputs[i])];
        inputs[i] = input_rows.places[size_t(inputs[i])];
      },
      [&](int32_t& row) { row = output_rows.places[size_t(row)]; });
  for (int64_t sentence = 0; sentence < sentences; ++sentence)
    if (starts[sentence + 1] - starts[sentence] == 1) {  // without a row, but fetched ahead as any word
      const int64_t i = starts[sentence];
      inputs[size_t(i)] = outputs[size_t(i)] = 0;
      std::fill_n(drawn.get() + i * num_negatives, num_negatives, kSkipGramSkipped);
    }

  // An odd number of lines, or the rows of a window would compete for the same sets of the cache.
  const int64_t width = skip_gram_padded(dim, kSkipGramRow);
  const int64_t stride = (width / kSkipGramRow | 1) * kSkipGramRow;
  const int64_t num_inputs = int64_t(input_rows.rows.size()), num_outputs = int64_t(output_rows.rows.size());
  const int64_t num_copies = unlocked ? 1 : threads;
  std::vector<PaddedRows> copies;
  std::vector<const float*> trained_inputs, trained_outputs;
  for (int64_t copy = 0; copy < num_copies; ++copy) {
    copies.emplace_back(num_inputs, stride);
    trained_inputs.push_back(copies.back().data());
    copy_rows(static_cast<const float*>(input.data_ptr()), input_rows.rows, dim, width, stride, copies.back().data());
    copies.emplace_back(num_outputs, stride);
    trained_outputs.push_back(copies.back().data());
    copy_rows(static_cast<const float*>(output.data_ptr()), output_rows.rows, dim, width, stride,
              copies.back().data());
  }

  std::vector<Part> parts;
  int64_t longest = 2;
  for (int64_t sentence = 0, part = 0; part < threads; ++part) {
    const int64_t first = sentence;
    for (; sentence < sentences && starts[sentence] * threads / std::max<int64_t>(num_words, 1) <= part; ++sentence)
      longest = std::max(longest, starts[sentence + 1] - starts[sentence]);
    const size_t copy = size_t(2 * (unlocked ? 0 : part));
    parts.push_back({first, sentence, copies[copy].data(), copies[copy + 1].data()});
  }
  const int64_t most_inputs = std::min(2 * std::min(window, longest), longest - 1);
  torch::stable::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      Part& part = parts[size_t(p)];
      SkipGramState state(num_negatives, most_inputs);
      PaddedRows zeros(1, stride);
      std::fill(zeros.data(), zeros.data() + width, 0.0f);
      const SkipGramBatch batch{starts, inputs.data(), outputs.data(), windows.get(), drawn.get(), num_words,
                                num_negatives, part.input, part.output, zeros.data(), stride, width, float(lr)};
      choose_lanes<TrainLoop>()(batch, part.first, part.last, state);
      part.loss = state.loss;
      part.num_pairs = state.num_pairs;
    }
  });

  Tensor loss = empty_beside(input, {}, ScalarType::Double), pairs = empty_beside(input, {}, ScalarType::Long);
  double loss_sum = 0;
  int64_t num_pairs = 0;
  for (const Part& part : parts) {
    loss_sum += part.loss;
    num_pairs += part.num_pairs;
  }
  *static_cast<double*>(loss.data_ptr()) = loss_sum;
  *static_cast<int64_t*>(pairs.data_ptr()) = num_pairs;
  return {loss, pairs, rows_tensor(input, input_rows.rows),
          deltas_of(input, input_rows.rows, trained_inputs, stride, lr), rows_tensor(input, output_rows.rows),
          deltas_of(output, output_rows.rows, trained_outputs, stride, lr)};
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("skip_gram", TORCH_BOX(&airank_fast::skip_gram_cpu));
}
