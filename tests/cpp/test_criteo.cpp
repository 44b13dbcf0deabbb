// The parser of click logs in csrc/host without Python: published hashes, and lines cut and changed at every byte, in a
// buffer of their own size, so that a sanitizer sees a read outside it.
// That it equals the Python reference is tested in tests/sources/test_criteo.py.
#include "host/criteo.h"

#include <string>
#include <vector>

#include "check.h"

using namespace airank_fast::host;

namespace {

constexpr int kColumns = CriteoParser::kColumns;

// Rows of the first lines of `text`, which is copied to a buffer of its size.
std::vector<int32_t> rows_of(const std::string& text, int64_t most, int64_t* end) {
  const std::vector<char> copy(text.begin(), text.end());
  std::vector<int32_t> rows(most * kColumns);
  const auto found = CriteoParser().parse(copy.data(), static_cast<int64_t>(copy.size()), rows.data(), most);
  rows.resize(found.rows * kColumns);
  *end = found.end;
  return rows;
}

std::string line(const std::string& category, const std::string& end) {
  std::string text = "1\t-3\t0\t2147483647";
  for (int i = 3; i < CriteoParser::kNumbers; ++i) text += "\t";
  for (int i = 0; i < CriteoParser::kCategories; ++i) text += "\t" + category;
  return text + end;
}

void a_line_is_a_row() {
  int64_t end = 0;
  for (const std::string feed : {"\n", "\r\n"}) {
    const auto text = line("", feed) + line("68fd1e64", feed);
    const auto rows = rows_of(text, 3, &end);
    CHECK(rows.size() == 2 * kColumns && end == static_cast<int64_t>(text.size()), "%zu words", rows.size());
    CHECK(rows[0] == 1 && rows[1] == -3 && rows[2] == 0 && rows[3] == INT32_MAX, "numbers");
    CHECK(rows[4] == CriteoParser::kMissing, "a missing number");
    CHECK(static_cast<uint32_t>(rows[14]) == 0x910A2DEC, "splitmix64's first word from state 1, its upper half");
    CHECK(static_cast<uint32_t>(rows[kColumns + 14]) == 4051549002, "a category in slot 1");
  }
}

void lines_that_are_cut_or_changed_are_read_inside_the_buffer() {
  for (const std::string category : {"", "a", "68fd1e6", "68fd1e64", "68fd1e641", "0123456789abcdef0"}) {
    const std::string whole = line(category, "\n");
    int64_t end = 0;
    CHECK(rows_of(whole, 2, &end).size() == kColumns, "'%s'", category.c_str());
    for (size_t at = 0; at + 1 < whole.size(); ++at) {
      CHECK(rows_of(whole.substr(0, at) + "\n", 2, &end).size() <= kColumns, "cut at %zu", at);
      for (const char byte : {'\t', '\n', '-', '9', 'x', '\r', '\0'}) {
        std::string changed = whole;
        changed[at] = byte;
        const auto rows = rows_of(changed, 2, &end);
        CHECK(end <= static_cast<int64_t>(whole.size()) && rows.size() <= kColumns, "byte %zu", at);
      }
    }
  }
}

void the_parser_stops_at_the_last_row() {
  int64_t end = 0;
  const std::string one = line("68fd1e64", "\n");
  CHECK(rows_of(one + one + one, 2, &end).size() == 2 * kColumns, "rows");
  CHECK(end == static_cast<int64_t>(2 * one.size()), "end %d", static_cast<int>(end));
}

void a_line_has_at_most_64_kib() {
  int64_t end = 0;
  const auto room = CriteoParser::kMostBytes - line("", "").size();
  const std::string longest = line("", std::string(room, 'a') + "\n");
  CHECK(rows_of(longest, 1, &end).size() == kColumns, "the longest line");
  CHECK(rows_of(line("", std::string(room + 1, 'a') + "\n"), 1, &end).empty(), "a byte more");
}

}  // namespace

int main() {
  a_line_is_a_row();
  lines_that_are_cut_or_changed_are_read_inside_the_buffer();
  the_parser_stops_at_the_last_row();
  a_line_has_at_most_64_kib();
  return 0;
}
