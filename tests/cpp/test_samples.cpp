// The sample builder of csrc/host without Python: published random numbers, and samples that stay inside their limits.
// That it equals the Python reference is tested in tests/data/test_sentence_pairs.py.
#include "host/samples.h"

#include "check.h"

using namespace airank_fast::host;

namespace {

void random_numbers_are_splitmix64() {
  Random random(0);
  CHECK(random.next() == 0xE220A8397B1DCDAF, "seed 0");
  CHECK(random.next() == 0x6E789E6AA1B965F4, "seed 0");
  CHECK(random.next() == 0x06C45D188009454F, "seed 0");
  for (int64_t n : {int64_t{1}, int64_t{2}, int64_t{10}, int64_t{1} << 20})
    for (int i = 0; i < 1000; ++i) {
      const int64_t value = random.below(n);
      CHECK(value >= 0 && value < n, "n %d", static_cast<int>(n));
    }
}

// Documents of every small shape, at the shortest and at odd lengths, short targets always and never.
void samples_stay_inside_their_limits() {
  std::vector<int32_t> tokens;
  std::vector<int64_t> sentences{0}, documents{0};
  for (int document = 1; document <= 12; ++document) {
    for (int sentence = 0; sentence < document; ++sentence) {
      for (int token = 0; token <= sentence * document; ++token) tokens.push_back(10 + token);
      sentences.push_back(static_cast<int64_t>(tokens.size()));
    }
    documents.push_back(static_cast<int64_t>(sentences.size()) - 1);
  }
  const Documents from{tokens.data(), sentences.data(), documents.data(), 12};
  for (const int at : {8, 63, 64, 65, 512})
    for (const uint64_t threshold : {uint64_t{0}, ~uint64_t{0}}) {
      const int64_t length = at;
      const std::vector<int32_t> num_masked(length + 1, static_cast<int32_t>(length - 1));
      const Options options{length, num_masked.data(), 1, 2, 3, 200, threshold, 7, 0, 3};
      const Samples samples = Builder(from, options).build();
      const size_t num = samples.next_sentence_labels.size();
      CHECK(num >= 36, "length %d", at);
      CHECK(samples.token_offsets.size() == num + 1 && samples.masked_offsets.size() == num + 1, "length %d", at);
      CHECK(samples.segment_ids.size() == samples.input_ids.size(), "length %d", at);
      for (size_t i = 0; i < num; ++i) {
        const int64_t size = samples.token_offsets[i + 1] - samples.token_offsets[i];
        CHECK(size >= 5 && size <= length, "length %d", at);
        CHECK(samples.masked_offsets[i + 1] - samples.masked_offsets[i] == size - 3, "length %d", at);
        for (int64_t m = samples.masked_offsets[i]; m < samples.masked_offsets[i + 1]; ++m)
          CHECK(samples.masked_lm_positions[m] > 0 && samples.masked_lm_positions[m] < size - 1, "length %d", at);
      }
      for (const int32_t id : samples.input_ids) CHECK(id >= 0 && id < 200, "length %d", at);
    }
}

}  // namespace

int main() {
  random_numbers_are_splitmix64();
  samples_stay_inside_their_limits();
  return 0;
}
