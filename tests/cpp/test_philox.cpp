// Philox4x32-10 against the test vectors of Random123 (kat_vectors).
#include "philox.h"

#include "check.h"

using airank_fast::Philox;

namespace {

void check_words(Philox philox, uint64_t counter, const uint32_t (&expected)[4]) {
  const Philox::Words words = philox(counter);
  for (int i = 0; i < 4; ++i) {
    const uint32_t word = uint32_t(words.at[i]);
    CHECK(word == expected[i], "word %d of counter %llx is %x", i, (unsigned long long)counter, word);
  }
}

}  // namespace

int main() {
  check_words({0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  check_words({~0ull, ~0ull}, ~0ull, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  check_words({0x299f31d0a4093822, 0x0370734413198a2e}, 0x85a308d3243f6a88,
              {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}
