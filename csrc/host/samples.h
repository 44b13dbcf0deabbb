// Builds training samples for BERT from tokenised documents: sentence pairs, masked. Uses neither Python nor torch.
// airank_fast/data/text/sentence_pairs.py describes the steps and does the same in Python, with the same random words.
// Sentences are end to end in one array of tokens, so that every part of a sample is a span of it, and is written
// directly into the result.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

namespace airank_fast::host {

// splitmix64: a counter with a mixing function, so that any words can start a stream.
class Random {
 public:
  explicit Random(uint64_t state) : state_(state) {}

  static Random of(uint64_t seed, uint64_t a, uint64_t b, uint64_t c) {
    for (const uint64_t word : {a, b, c}) seed = Random(seed).next() + word;
    return Random(seed);
  }

  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
  }

  // 0 ... n - 1; off uniform by less than n / 2^64.
  int64_t below(int64_t n) {
    return static_cast<int64_t>((static_cast<unsigned __int128>(next()) * static_cast<uint64_t>(n)) >> 64);
  }

  bool coin() { return next() >> 63; }

 private:
  uint64_t state_;
};

struct Documents {
  const int32_t* tokens;
  const int64_t* sentences;  // [num_sentences + 1]: where each begins in tokens
  const int64_t* documents;  // [num_documents + 1]: where each begins in sentences
  int64_t num_documents;
};

struct Options {
  int64_t max_seq_length;
  const int32_t* num_masked;  // [max_seq_length + 1]: how many tokens are masked in a sample of that length
  int32_t cls, sep, mask, vocab_size;
  uint64_t short_threshold;  // a target length is drawn where a random word lies below it
  uint64_t seed, block;
  int64_t num_duplicates;
};

// Samples end to end; sample i has the elements from offsets[i] to offsets[i + 1].
struct Samples {
  std::vector<int32_t> input_ids;
  std::vector<int8_t> segment_ids;
  std::vector<int64_t> token_offsets{0};
  std::vector<int32_t> masked_lm_positions, masked_lm_ids;
  std::vector<int64_t> masked_offsets{0};
  std::vector<int8_t> next_sentence_labels;
};

struct Span {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

class Builder {
 public:
  Builder(const Documents& from, const Options& options)
      : from_(from),
        options_(options),
        candidates_(options.max_seq_length),
        swaps_(options.max_seq_length),
        chosen_(options.max_seq_length / 64 + 1) {
    std::iota(candidates_.begin(), candidates_.end(), 0);
  }

  Samples build() {
    const auto num_tokens = from_.sentences[from_.documents[from_.num_documents]];
    out_.input_ids.reserve(num_tokens * options_.num_duplicates * 3 / 2);
    out_.segment_ids.reserve(num_tokens * options_.num_duplicates * 3 / 2);
    for (int64_t duplicate = 0; duplicate < options_.num_duplicates; ++duplicate)
      for (int64_t document = 0; document < from_.num_documents; ++document) pairs_of(duplicate, document);
    return std::move(out_);
  }

 private:
  void pairs_of(int64_t duplicate, int64_t document) {
    Random random = Random::of(options_.seed, options_.block, duplicate, document);
    const int64_t room = options_.max_seq_length - 3;  // beside [CLS] and two [SEP]
    const bool is_short = random.next() < options_.short_threshold;
    const int64_t target = is_short ? 2 + random.below(room - 1) : room;
    const int64_t* sentences = from_.sentences;
    const int64_t last = from_.documents[document + 1];
    int64_t first = from_.documents[document];
    while (first < last) {
      int64_t end = first + 1;
      while (end < last && sentences[end] - sentences[first] < target) ++end;
      const int64_t num = end - first;
      const int64_t split = first + (num > 1 ? 1 + random.below(num - 1) : 1);
      const Span a{sentences[first], sentences[split]};
      const bool is_random = num == 1 || random.coin();
      const Span b = is_random ? elsewhere(document, target - a.size(), random) : Span{a.end, sentences[end]};
      write(a, b, is_random, random);
      first = is_random ? split : end;  // sentences that a random continuation displaced are used next
    }
  }

  // Sentences of another document, from a random one of its sentences on, until there are `target` tokens.
  Span elsewhere(int64_t document, int64_t target, Random& random) {
    int64_t other = document;
    for (int attempt = 0; attempt < 10 && other == document; ++attempt) other = random.below(from_.num_documents);
    const int64_t last = from_.documents[other + 1];
    const int64_t first = from_.documents[other] + random.below(last - from_.documents[other]);
    int64_t end = first + 1;
    while (end < last && from_.sentences[end] - from_.sentences[first] < target) ++end;
    return {from_.sentences[first], from_.sentences[end]};
  }

  void write(Span a, Span b, bool is_random, Random& random) {
    while (a.size() + b.size() > options_.max_seq_length - 3) {
      Span& longer = a.size() > b.size() ? a : b;
      random.coin() ? ++longer.begin : --longer.end;
    }
    auto& ids = out_.input_ids;
    const auto start = static_cast<int64_t>(ids.size());
    ids.push_back(options_.cls);
    ids.insert(ids.end(), from_.tokens + a.begin, from_.tokens + a.end);
    ids.push_back(options_.sep);
    ids.insert(ids.end(), from_.tokens + b.begin, from_.tokens + b.end);
    ids.push_back(options_.sep);
    out_.segment_ids.resize(start + a.size() + 2, 0);
    out_.segment_ids.resize(ids.size(), 1);
    mask(ids.data() + start, a.size(), b.size(), random);
    out_.token_offsets.push_back(ids.size());
    out_.masked_offsets.push_back(out_.masked_lm_ids.size());
    out_.next_sentence_labels.push_back(is_random);
  }

  void mask(int32_t* ids, int64_t num_a, int64_t num_b, Random& random) {
    const int64_t num_candidates = num_a + num_b;
    const int64_t num = std::min<int64_t>(options_.num_masked[num_candidates + 3], num_candidates);
    // candidates_ is 0, 1, 2, ... before and after; the chosen are sorted as the bits of a set.
    for (int64_t i = 0; i < num; ++i) {
      swaps_[i] = static_cast<int32_t>(i + random.below(num_candidates - i));
      std::swap(candidates_[i], candidates_[swaps_[i]]);
      const int64_t position = candidates_[i] + 1 + (candidates_[i] >= num_a);
      chosen_[position / 64] |= uint64_t{1} << position % 64;
    }
    for (int64_t i = num - 1; i >= 0; --i) std::swap(candidates_[i], candidates_[swaps_[i]]);
    for (size_t word = 0; word < chosen_.size(); ++word)
      for (uint64_t& left = chosen_[word]; left != 0; left &= left - 1) {
        const auto position = static_cast<int32_t>(64 * word + __builtin_ctzll(left));
        out_.masked_lm_positions.push_back(position);
        out_.masked_lm_ids.push_back(ids[position]);
        const int64_t fate = random.below(10);
        if (fate < 8) ids[position] = options_.mask;
        if (fate == 9) ids[position] = static_cast<int32_t>(random.below(options_.vocab_size));
      }
  }

  const Documents& from_;
  const Options& options_;
  Samples out_;
  std::vector<int32_t> candidates_, swaps_;
  std::vector<uint64_t> chosen_;
};

}  // namespace airank_fast::host
