// Look-ups and bags of a table's rows, and the gradient of bags, on the GPU.
//
// Mapping:
//   look-ups   a group of threads copies kTableAhead rows, in the largest words that rows consist of
//   bags       a group of threads adds the rows of a bag in the order of its ids
//   gradient   a warp writes the bag of each of a bag's ids; torch sorts the ids and counts their rows; then a group of
//              threads takes each row, as in sparse_table_rows.cuh
// With numbers of e bytes a look-up moves 2e dim + 8 bytes, an id of a bag e dim + 8, and in the gradient e dim + 40
// besides its sort.
#pragma once

#include "sparse_table_rows.cuh"

namespace airank_fast {

struct TableLookupTask {
  const void* table;
  int64_t num_rows;
  int64_t words;  // of a row
  TableIds ids;
  int64_t num_ids;
  int64_t num_slots;
  const int64_t* first_rows;
  uint64_t nan;  // in each number of these 8 bytes
  void* result;
};

// The row of look-up i, in this slot, or -1 where its id is outside.
HOST_DEVICE int64_t row_of_lookup(const TableLookupTask& task, int64_t i, int64_t slot) {
  const int64_t id = task.ids.at(i);
  int64_t first = 0, next = task.num_rows;
  if (task.first_rows != nullptr) {
    first = task.first_rows[slot];
    if (slot + 1 < task.num_slots) next = task.first_rows[slot + 1];
  }
  const bool inside = id >= 0 && id < next - first && first >= 0 && next <= task.num_rows;
  return inside ? first + id : -1;
}

template <typename Word>
HOST_DEVICE Word word_of_nan(uint64_t nan) {
  Word word;
  constexpr int kPart = sizeof(word) < 8 ? sizeof(word) : 8;
#pragma unroll
  for (int i = 0; i < int(sizeof(word)); i += kPart) memcpy(reinterpret_cast<unsigned char*>(&word) + i, &nan, kPart);
  return word;
}

template <typename Word>
__global__ void __launch_bounds__(kTableThreads) table_lookup_kernel(const TableLookupTask task) {
  const TablePlace<1> place(task.words);
  const int64_t item = place.item - place.group, begin = item * kTableAhead + place.group;
  if (place.group >= place.groups) return;
  const Word* table = static_cast<const Word*>(task.table);
  int64_t rows[kTableAhead], slot = task.first_rows ? begin % task.num_slots : 0;
#pragma unroll
  for (int u = 0; u < kTableAhead; ++u) {
    const int64_t i = begin + u * place.groups;
    rows[u] = i < task.num_ids ? row_of_lookup(task, i, slot) : -1;
    slot += place.groups;
    while (task.first_rows && slot >= task.num_slots) slot -= task.num_slots;  // a division takes longer
  }
  for (int64_t at = place.first; at < task.words; at += 32) {
    Word words[kTableAhead];
#pragma unroll
    for (int u = 0; u < kTableAhead; ++u)
      words[u] = rows[u] < 0 ? word_of_nan<Word>(task.nan) : table[rows[u] * task.words + at];
#pragma unroll
    for (int u = 0; u < kTableAhead; ++u) {
      const int64_t i = begin + u * place.groups;
      if (i < task.num_ids) store_at_once(static_cast<Word*>(task.result) + i * task.words + at, words[u]);
    }
  }
}

// See TableBags.
struct DeviceBags {
  int64_t num_bags;
  const int64_t* offsets;
  TableIds ids;
  int64_t padding;
  bool mean;
  const void* weights;
};

struct TableBagTask {
  TableArray table;
  int64_t num_rows;
  int64_t dim;
  DeviceBags bags;
  TableArray result;
};

template <typename M, int N>
__global__ void __launch_bounds__(kTableThreads, kTableBlocks) table_bag_kernel(const TableBagTask task) {
  const TablePlace<N> place(task.dim);
  if (!place.takes(task.bags.num_bags)) return;
  const int64_t begin = task.bags.offsets[place.item], end = task.bags.offsets[place.item + 1];
  const M* weights = static_cast<const M*>(task.bags.weights);
  for (int64_t first = place.first; first < task.dim; first += 32 * N) {
    M sum[N] = {};
    int64_t count = 0;
    bool is_outside = false;
    add_table_terms(task.table, begin, end, sum, [&](int64_t i) -> TableTerm<M> {
      const int64_t id = task.bags.ids.at(i);
      const bool inside = id >= 0 && id < task.num_rows;
      is_outside |= !inside;
      if (!inside || id == task.bags.padding) return {-1, M(0)};
      ++count;
      return {id * task.dim + first, weights ? weights[i] : M(1)};
    });
    const M divisor = task.bags.mean && count > 0 ? M(count) : M(1);
#pragma unroll
    for (int k = 0; k < N; ++k) sum[k] = is_outside ? M(__builtin_nanf("")) : sum[k] / divisor;
    store_table_numbers(task.result, place.item * task.dim + first, sum);
  }
}

struct TableBagOfIdsTask {
  DeviceBags bags;
  int64_t* bag_of_ids;
  void* factors;
};

// A warp takes a bag. M is the type of the factors, which are written for means alone.
template <typename M>
__global__ void __launch_bounds__(kTableThreads) table_bag_of_ids_kernel(const TableBagOfIdsTask task) {
  const int64_t bag = int64_t(blockIdx.x) * kTableWarps + threadIdx.x / 32;
  if (bag >= task.bags.num_bags) return;  // the whole warp
  const int64_t begin = task.bags.offsets[bag], end = task.bags.offsets[bag + 1];
  const int lane = int(threadIdx.x % 32);
  int64_t count = 0;
  for (int64_t first = task.bags.mean ? begin : end; first < end; first += 32) {
    const int64_t i = first + lane;
    count += __popc(__ballot_sync(0xffffffffu, i < end && task.bags.ids.at(i) != task.bags.padding));
  }
  for (int64_t i = begin + lane; i < end; i += 32) {
    task.bag_of_ids[i] = bag;
    if (!task.bags.mean) continue;
    const M weight = task.bags.weights ? static_cast<const M*>(task.bags.weights)[i] : M(1);
    static_cast<M*>(task.factors)[i] = count > 0 ? weight / M(count) : weight;
  }
}

struct TableBeginsTask {
  SortedTable table;
  bool* begins;
};

__global__ void __launch_bounds__(kTableThreads) table_begins_kernel(const TableBeginsTask task) {
  const int64_t i = int64_t(blockIdx.x) * kTableThreads + threadIdx.x;
  if (i < task.table.num_ids) task.begins[i] = task.table.begins_row(i);
}

struct TableBagBackwardTask {
  SortedTable table;
  int64_t num_rows;
  const int64_t* starts;
  int64_t* rows;
  TableArray values;
};

template <typename M, int N>
__global__ void __launch_bounds__(kTableThreads, kTableBlocks)
    table_bag_backward_kernel(const TableBagBackwardTask task) {
  const SortedTable& table = task.table;
  const TablePlace<N> place(table.dim);
  if (!place.takes(task.num_rows)) return;
  const int64_t start = task.starts[place.item];
  if (place.first == 0) task.rows[place.item] = table.rows.at(start);
  const TableRow row(table, start);
  for (int64_t first = place.first; first < table.dim; first += 32 * N) {
    M sum[N];
    sum_of_table_row(table, row, first, sum);
    store_table_numbers(task.values, place.item * table.dim + first, sum);
  }
}

}  // namespace airank_fast
