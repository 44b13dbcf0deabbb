// Sorts the look-ups of a table by row, those of one row in their order.
//
// A key is the row in the upper 32 bits and the position of the look-up in the lower: no two are equal, so that the
// result does not depend on the number of threads. A radix sort, of 20 bits in two passes and of 26 in three.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace airank_fast {

constexpr int kPositionBits = 32;
constexpr int64_t kMaxTableRows = int64_t(1) << kPositionBits;

inline int64_t row_of_key(uint64_t key) { return int64_t(key >> kPositionBits); }
inline int64_t position_of_key(uint64_t key) { return int64_t(key & 0xffffffffu); }

// `rows` are in [0, num_rows); both numbers are at most kMaxTableRows.
inline std::unique_ptr<uint64_t[]> sorted_table_keys(const int64_t* rows, int64_t num_ids, int64_t num_rows) {
  constexpr int kMaxDigitBits = 11;           // 2048 counters stay in the first cache
  constexpr int64_t kIdsPerThread = 1 << 12;  // fewer are not worth a thread
  const int bits = std::max<int>(1, std::bit_width(uint64_t(num_rows - 1)));
  const int num_passes = (bits + kMaxDigitBits - 1) / kMaxDigitBits;
  const int digit_bits = (bits + num_passes - 1) / num_passes;
  const int64_t num_digits = int64_t(1) << digit_bits;
  const uint32_t mask = uint32_t(num_digits - 1);
  const int64_t num_threads = torch::stable::get_num_threads();
  const int64_t num_chunks = std::clamp<int64_t>(num_ids / kIdsPerThread, 1, num_threads);
  std::vector<int64_t> places(size_t(num_chunks * num_digits));
  auto from = std::make_unique_for_overwrite<uint64_t[]>(size_t(num_ids));
  auto to = std::make_unique_for_overwrite<uint64_t[]>(size_t(num_ids));
  for (int pass = 0; pass < num_passes; ++pass) {
    const int shift = kPositionBits + pass * digit_bits;
    const auto digit_of = [=](uint64_t key) { return uint32_t(key >> shift) & mask; };
    // Calls f(the chunk's first and last + 1, its places) for each chunk.
    const auto for_each_chunk = [&](auto f) {
      torch::stable::parallel_for(0, num_chunks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t chunk = begin; chunk < end; ++chunk)
          f(num_ids * chunk / num_chunks, num_ids * (chunk + 1) / num_chunks, places.data() + chunk * num_digits);
      });
    };
    uint64_t* keys = from.get();
    uint64_t* sorted = to.get();
    std::fill(places.begin(), places.end(), 0);
    for_each_chunk([=](int64_t first, int64_t last, int64_t* counts) {
      if (pass == 0)
        for (int64_t i = first; i < last; ++i) keys[i] = uint64_t(rows[i]) << kPositionBits | uint64_t(i);
      for (int64_t i = first; i < last; ++i) ++counts[digit_of(keys[i])];
    });
    int64_t place = 0;
    for (int64_t digit = 0; digit < num_digits; ++digit)
      for (int64_t chunk = 0; chunk < num_chunks; ++chunk)
        place += std::exchange(places[chunk * num_digits + digit], place);
    for_each_chunk([=](int64_t first, int64_t last, int64_t* next) {
      for (int64_t i = first; i < last; ++i) sorted[next[digit_of(keys[i])]++] = keys[i];
    });
    std::swap(from, to);
  }
  return from;
}

}  // namespace airank_fast
