// What the tests of a table's launchers share: look-ups sorted by row.
#pragma once

#include <algorithm>
#include <numeric>

#include "cuda/sparse_table_rows.h"
#include "cuda/multi_tensor.cuh"
#include "kernel_test.h"

namespace airank_fast {

// Numbers as the launchers take them, int64 or int32.
template <typename Id>
Array<Id> ids_of(const std::vector<int64_t>& numbers) {
  Array<Id> ids(numbers.size());
  for (size_t i = 0; i < numbers.size(); ++i) ids[i] = Id(numbers[i]);
  return ids;
}

template <typename Id>
IdsAddress address_of(Array<Id>& ids) {
  return {ids.data(), sizeof(Id) == 4};
}

// Numbers in [0, size), of which most are 2, and some `other`.
inline std::vector<int64_t> ids_with_a_long_row(size_t count, int64_t size, int64_t other) {
  std::vector<int64_t> ids;
  for (size_t i = 0; i < count; ++i)
    ids.push_back(i % 11 == 0 ? other : i % 7 == 0 ? int64_t(i) % size : 2);
  return ids;
}

// The ids in ascending order, equal ones in theirs, and the place of each.
template <typename Id>
struct Sorted {
  Array<Id> ids;
  Array<int64_t> order;

  explicit Sorted(Array<Id>& unsorted) : ids(unsorted.size()), order(unsorted.size()) {
    std::vector<int64_t> places(unsorted.size());
    std::iota(places.begin(), places.end(), 0);
    std::stable_sort(places.begin(), places.end(),
                     [&](int64_t a, int64_t b) { return unsorted[size_t(a)] < unsorted[size_t(b)]; });
    for (size_t i = 0; i < places.size(); ++i) order[i] = places[i], ids[i] = unsorted[size_t(places[i])];
  }
};

}  // namespace airank_fast
