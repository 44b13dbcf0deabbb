// The launchers of skip-gram: parts with copies of their own and with one in common, windows of several tiles, widths
// around a warp and above a block, sentences without a pair, wrong contents, and a window that does not fit into shared
// memory.
#include "cuda/skip_gram.h"
#include "kernel_test.h"
#include "skip_gram_math.h"

namespace airank_fast {
namespace {

struct Case {
  bool is_int64;
  std::vector<int64_t> sentences;
  int64_t rows, dim, window, num_negatives, parts;
  bool unlocked;
  double lr = 0.1;
  double tolerance = 2e-5;
};

using Table = std::vector<double>;

struct Expected {
  double loss = 0;
  int64_t num_pairs = 0;
  std::vector<double> rows[2], deltas[2];
};

// The negatives of a centre word that are not skipped, and its window.
std::vector<int64_t> drawn_for(const Case& c, int64_t i, int64_t id, Array<int64_t>& table, int64_t& window) {
  std::vector<int64_t> all, kept;
  const int64_t blocks = skip_gram_blocks(c.num_negatives);
  for (int64_t number = 0; number <= c.num_negatives; ++number) {
    const auto words = Philox{7, 0}(uint64_t(i * blocks + number / 4));
    const uint32_t drawn = uint32_t(words.at[number % 4]);
    if (number == 0) window = skip_gram_window(drawn, c.window);
    else all.push_back(skip_gram_negative(drawn, table.data(), c.rows));
  }
  for (size_t k = 0; k < all.size(); ++k) {
    bool skipped = all[k] == id;
    for (size_t j = 0; j < k; ++j) skipped |= all[k] == all[j];
    if (!skipped) kept.push_back(all[k]);
  }
  return kept;
}

Expected expected_of(const Case& c, const Table (&old)[2], Array<int64_t>& words, Array<int64_t>& offsets,
                     Array<int64_t>& negatives) {
  const size_t size = size_t(c.rows * c.dim), dim = size_t(c.dim);
  Expected all;
  Table sums[2] = {Table(size), Table(size)};
  std::vector<bool> touched[2] = {std::vector<bool>(size_t(c.rows)), std::vector<bool>(size_t(c.rows))};
  Table now[2] = {old[0], old[1]};
  for (int64_t part = 0; part < c.parts; ++part) {
    if (!c.unlocked) now[0] = old[0], now[1] = old[1];
    for (size_t s = 0; s < c.sentences.size(); ++s) {
      const int64_t begin = offsets[s], end = offsets[s + 1];
      if (end - begin < 2 || begin * c.parts / int64_t(words.size()) != part) continue;
      for (int64_t i = begin; i < end; ++i) {
        int64_t window = 0;
        std::vector<int64_t> outputs = drawn_for(c, i, words[size_t(i)], negatives, window), inputs;
        outputs.insert(outputs.begin(), words[size_t(i)]);
        for (int64_t j = std::max(begin, i - window); j < std::min(end, i + window + 1); ++j)
          if (j != i) inputs.push_back(words[size_t(j)]);
        const Table before[2] = {now[0], now[1]};
        for (size_t n = 0; n < inputs.size(); ++n)
          for (size_t k = 0; k < outputs.size(); ++k) {
            const size_t in = size_t(inputs[n]) * dim, out = size_t(outputs[k]) * dim;
            double x = 0;
            for (size_t d = 0; d < dim; ++d) x += before[0][in + d] * before[1][out + d];
            const double sign = k == 0 ? 1 : -1, step = c.lr * sign / (1 + std::exp(sign * x));
            all.loss += std::log1p(std::exp(-sign * x));
            for (size_t d = 0; d < dim; ++d) {
              now[0][in + d] += step * before[1][out + d];
              now[1][out + d] += step * before[0][in + d];
            }
            touched[0][size_t(inputs[n])] = touched[1][size_t(outputs[k])] = true;
          }
        all.num_pairs += int64_t(inputs.size());
      }
    }
    if (!c.unlocked || part == c.parts - 1)
      for (int table = 0; table < 2; ++table)
        for (size_t j = 0; j < size; ++j) sums[table][j] += (old[table][j] - now[table][j]) / c.lr;
  }
  for (int table = 0; table < 2; ++table)
    for (size_t row = 0; row < size_t(c.rows); ++row)
      if (touched[table][row]) {
        all.rows[table].push_back(double(row));
        for (size_t d = 0; d < dim; ++d) all.deltas[table].push_back(sums[table][row * dim + d]);
      }
  return all;
}

Array<int64_t> offsets_of(const Case& c) {
  Array<int64_t> offsets(c.sentences.size() + 1);
  offsets[0] = 0;
  for (size_t s = 0; s < c.sentences.size(); ++s) offsets[s + 1] = offsets[s] + c.sentences[s];
  return offsets;
}

// A table for negatives of equal shares, by halves.
Array<int64_t> negatives_of(const Case& c) {
  Array<int64_t> negatives(size_t(c.rows));
  for (int64_t row = 0; row < c.rows; ++row) negatives[size_t(row)] = (int64_t(1) << 62) + (row + 1) % c.rows;
  return negatives;
}

SkipGramLaunch describe_case(const Case& c, Array<int64_t>& words, Array<int64_t>& offsets,
                             Array<int64_t>& negatives) {
  SkipGramLaunch work;
  work.rows = c.rows;
  work.dim = c.dim;
  work.words = words.data();
  work.num_words = int64_t(words.size());
  work.offsets = offsets.data();
  work.sentences = int64_t(offsets.size()) - 1;
  work.negatives = negatives.data();
  work.lr = c.lr;
  work.window = c.window;
  work.num_negatives = c.num_negatives;
  work.seed = 7;
  work.parts = c.parts;
  work.unlocked = c.unlocked;
  return work;
}

void check(const Case& c) {
  Array<int64_t> offsets = offsets_of(c), negatives = negatives_of(c);
  const size_t num_words = size_t(offsets[c.sentences.size()]);
  Array<int64_t> words(num_words);
  Array<int32_t> short_words(num_words);
  for (size_t i = 0; i < num_words; ++i) {
    words[i] = int64_t(i * 7 + i * i % 5) % c.rows;
    short_words[i] = int32_t(words[i]);
  }
  const size_t size = size_t(c.rows * c.dim);
  Array<float> tables[2] = {Array<float>::random(size), Array<float>::random(size)};
  for (Array<float>& table : tables)
    for (size_t j = 0; j < size; ++j) table.set(j, table.get(j) / std::sqrt(double(c.dim)));
  const Table old[2] = {tables[0].doubles(), tables[1].doubles()};
  const Expected want = expected_of(c, old, words, offsets, negatives);

  SkipGramLaunch work = describe_case(c, words, offsets, negatives);
  if (!c.is_int64) work.is_int64 = false, work.words = short_words.data();
  for (int table = 0; table < 2; ++table) work.tables[table] = tables[table].data();
  Array<char> draws(size_t(skip_gram_draws_bytes(work)));
  work.draws = draws.data();
  SkipGramFound found;
  check_success("skip_gram: draws", launch_skip_gram_draws(work, found, nullptr));
  if (found.wrong_offsets || found.wrong_words || found.wrong_negatives || found.num_pairs != want.num_pairs)
    return failure_at("skip_gram: num_pairs", 0, double(found.num_pairs), double(want.num_pairs));

  Array<int64_t> rows[2] = {Array<int64_t>(size_t(found.num_rows[0])), Array<int64_t>(size_t(found.num_rows[1]))};
  Array<float> deltas[2] = {Array<float>(rows[0].size() * size_t(c.dim)), Array<float>(rows[1].size() * size_t(c.dim))};
  Array<double> loss(1);
  Array<char> workspace(size_t(skip_gram_training_bytes(work, found)));
  SkipGramResults results;
  for (int table = 0; table < 2; ++table) {
    results.rows[table] = rows[table].data();
    results.deltas[table] = deltas[table].data();
  }
  results.loss_sum = loss.data();
  results.workspace = workspace.data();
  check_success("skip_gram: training", launch_skip_gram_training(work, found, results, nullptr));
  check_close("skip_gram: loss", loss, {want.loss}, c.tolerance);
  for (int table = 0; table < 2; ++table) {
    check_close("skip_gram: rows", rows[table], want.rows[table], 0);
    check_close("skip_gram: deltas", deltas[table], want.deltas[table], c.tolerance);
  }
}

void check_wrong(const char* what, Array<int64_t> words, Array<int64_t> offsets, int64_t entry, int expected) {
  const Case c{true, {}, 5, 3, 2, 1, 2, false};
  Array<int64_t> negatives = Array<int64_t>::filled(5, double(entry));
  SkipGramLaunch work = describe_case(c, words, offsets, negatives);
  Array<char> draws(size_t(skip_gram_draws_bytes(work)));
  work.draws = draws.data();
  SkipGramFound found;
  check_success(what, launch_skip_gram_draws(work, found, nullptr));
  const int got = found.wrong_offsets + 2 * found.wrong_words + 4 * found.wrong_negatives;
  if (got != expected) failure_at(what, 0, got, expected);
}

Array<int64_t> numbers(const std::vector<int64_t>& values) {
  Array<int64_t> array(values.size());
  for (size_t i = 0; i < values.size(); ++i) array[i] = values[i];
  return array;
}

void cases() {
  check({false, {3, 0, 1, 6}, 11, 5, 3, 2, 1, false});
  check({true, {4, 2, 0, 5, 3}, 70, 33, 2, 8, 3, false});  // two tiles of negatives, and more than a word of bits
  check({false, {9}, 4, 40, 6, 1, 2, false});             // two tiles of context words, some equal; an empty part
  check({false, {4, 2, 3, 4}, 40, 3, 3, 2, 3, true, 1e-3, 1e-2});
  check({true, {1, 0, 1}, 7, 3, 2, 2, 2, false});
  check({true, {}, 7, 3, 2, 2, 2, true});
  check_wrong("skip_gram: nothing", numbers({0, 4, 2}), numbers({0, 3}), 0, 0);
  check_wrong("skip_gram: first offset", numbers({0, 4, 2}), numbers({1, 3}), 0, 1);
  check_wrong("skip_gram: falling offsets", numbers({0, 4, 2}), numbers({0, 2, 1, 3}), 0, 1);
  check_wrong("skip_gram: last offset", numbers({0, 4, 2}), numbers({0, 2}), 0, 1);
  check_wrong("skip_gram: no sentence", numbers({0, 4, 2}), numbers({0}), 0, 1);
  check_wrong("skip_gram: large offset", numbers({0, 4, 2}), numbers({0, int64_t(1) << 40}), 0, 1);
  check_wrong("skip_gram: words", numbers({0, 5, -1}), numbers({0, 3}), 0, 2);
  check_wrong("skip_gram: negatives", numbers({0, 4, 2}), numbers({0, 3}), 5, 4);
}

void large_cases() { check({false, {5, 2}, 20, 4300, 4, 9, 70, true, 1e-3, 1e-2}); }

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases, airank_fast::large_cases); }
