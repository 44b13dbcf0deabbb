// Reads lines of Criteo's click logs: label, 13 integers, 26 categories, with tabs between them, into fixed-width rows.
// Uses neither Python nor torch. airank_fast/sources/criteo_lines.py describes the rows and their hash, and does the same
// in Python; it also has the message for a line at which this parser stops.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

namespace airank_fast::host {

class CriteoParser {
 public:
  static constexpr int kNumbers = 13, kCategories = 26, kColumns = 1 + kNumbers + kCategories;
  static constexpr int32_t kMissing = INT32_MIN;
  static constexpr int64_t kMostBytes = 65536;  // of a line, without its end

  struct Result {
    int64_t rows, end;  // rows written, bytes that they took
  };

  CriteoParser() {
    for (int slot = 0; slot < kCategories; ++slot) start_[slot] = mix(slot + 1);
  }

  // Whole lines from `text`, of which the last byte is a line feed, into rows of kColumns words, until the text or
  // `most_rows` is reached, or before the first line that is not of this form.
  Result parse(const char* text, int64_t size, int32_t* out, int64_t most_rows) const {
    static_assert(std::endian::native == std::endian::little);
    const char *line = text, *const end = text + size;
    int64_t rows = 0;
    while (rows < most_rows && line < end) {
      const char* next = parse_line(line, end, out);
      if (next == nullptr) break;
      line = next;
      out += kColumns;
      ++rows;
    }
    return {rows, line - text};
  }

 private:
  // One step of splitmix64 from the state x.
  static uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
  }

  // Whether any byte of the word is a tab or a line feed.
  static bool has_delimiter(uint64_t word) {
    constexpr uint64_t kOnes = 0x0101010101010101, kHighs = 0x8080808080808080;
    const uint64_t tab = word ^ (kOnes * '\t'), feed = word ^ (kOnes * '\n');
    return (((tab - kOnes) & ~tab) | ((feed - kOnes) & ~feed)) & kHighs;
  }

  // The first byte behind the line, or nullptr where it is not of this form. The line feed at `end - 1` ends each loop.
  const char* parse_line(const char* p, const char* end, int32_t* out) const {
    const char* const line = p;
    if (*p != '0' && *p != '1') return nullptr;
    *out++ = *p++ - '0';
    if (*p++ != '\t') return nullptr;
    for (int i = 0; i < kNumbers; ++i) {
      if (*p == '\t') {
        *out++ = kMissing;
      } else {
        p = parse_number(p, out++);
        if (p == nullptr || *p != '\t') return nullptr;
      }
      ++p;
    }
    for (int i = 0; i < kCategories; ++i) {
      p = parse_category(p, end, start_[i], i == kCategories - 1, out++);
      if (*p++ != (i == kCategories - 1 ? '\n' : '\t')) return nullptr;
    }
    return p - line > kMostBytes + 1 ? nullptr : p;
  }

  static const char* parse_number(const char* p, int32_t* out) {
    const bool negative = *p == '-';
    p += negative;
    const char* const first = p;
    int64_t value = 0;
    for (unsigned digit; (digit = static_cast<unsigned char>(*p) - '0') < 10; ++p) {
      value = value * 10 + digit;
      if (value > INT32_MAX) return nullptr;
    }
    *out = static_cast<int32_t>(negative ? -value : value);
    return p == first ? nullptr : p;
  }

  // Writes the hash; returns the delimiter behind the category.
  static const char* parse_category(const char* p, const char* end, uint64_t start, bool is_last, int32_t* out) {
    uint64_t hash = start, word;
    if (end - p > 8) {  // most are of 8 digits
      std::memcpy(&word, p, 8);
      if (!has_delimiter(word) && (p[8] == '\t' || p[8] == '\n')) {
        if (!is_last || p[7] != '\r') {
          *out = upper_half(mix(hash + word));
          return p + 8;
        }
      }
    }
    const char* stop = p;
    while (*stop != '\t' && *stop != '\n') ++stop;
    int64_t size = stop - p;
    if (is_last && size > 0 && stop[-1] == '\r' && *stop == '\n') --size;
    for (; size > 0; p += 8, size -= 8) {
      word = 0;
      std::memcpy(&word, p, size < 8 ? size : 8);
      hash = mix(hash + word);
    }
    *out = upper_half(hash);
    return stop;
  }

  static int32_t upper_half(uint64_t hash) { return static_cast<int32_t>(static_cast<uint32_t>(hash >> 32)); }

  std::array<uint64_t, kCategories> start_;
};

}  // namespace airank_fast::host
