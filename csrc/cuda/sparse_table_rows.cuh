// What the kernels of a table share: a warp's place among rows, and sums of rows in a fixed order.
//
// A row is read by a group of neighbouring threads, one for each of its packs, at most a warp. A warp takes several short
// rows at a time: three of 10 numbers. The gradients of a row are added in the order of its look-ups. Where a row has
// many, as the most frequent word does, several groups add them: a partial sum ends at every kTableRun-th of all sorted
// look-ups, and the group that has the row's first look-up adds the row's partial sums to its own, in their order. So no
// sum depends on the order of blocks.
#pragma once

#include "../sparse_table_math.h"
#include "vec.cuh"

namespace airank_fast {

constexpr int kTableThreads = 256;
constexpr int kTableWarps = kTableThreads / 32;
constexpr int kTableBlocks = 4;  // per multiprocessor, which bounds the registers by 64
// Numbers in a pack where `dim` is a multiple, in which float32 moves in 16 bytes; else, and of float64, which is there
// for checking, it is 1.
constexpr int kTablePack = 4;
// Rows that a thread has in flight.
constexpr int kTableAhead = 4;

// The number of threads that read a row together.
template <int N>
HOST_DEVICE int table_width(int64_t dim) {
  const int64_t packs = (dim + N - 1) / N;
  return packs > 32 ? 32 : packs < 1 ? 1 : int(packs);
}

// A thread's place: its warp has `groups` of `width` threads, and with group number `groups` or above it has none. The
// group takes item number `item`, the thread of that the numbers from `first` on.
template <int N>
struct TablePlace {
  int width;
  int groups;
  int group;
  int lane;
  int64_t item;
  int64_t first;

  __device__ explicit TablePlace(int64_t dim)
      : width(table_width<N>(dim)),
        groups(32 / width),
        group(int(threadIdx.x % 32) / width),
        lane(int(threadIdx.x % 32) % width),
        item((int64_t(blockIdx.x) * kTableWarps + threadIdx.x / 32) * groups + group),
        first(lane * N) {}

  __device__ bool takes(int64_t num_items) const { return group < groups && item < num_items; }
};

// How an array's numbers lie in memory: in the type of the arithmetic on them, float or double, or in 16 bits, with
// float. A kernel learns it when it runs: one kernel instead of one for each combination of table, gradients and copy.
// The choice is the same for all threads, and short beside the wait for a row.
enum class TableDtype { kWide, kBFloat16, kFloat16 };

struct TableArray {
  void* data;  // may be null
  TableDtype dtype;
};

// N numbers of an array, as they are in memory. M is the type of the arithmetic.
template <typename M, int N>
struct TablePack {
  static constexpr bool kIsAlwaysWide = sizeof(M) == 8;
  Pack<M, N> wide = {};

  TablePack() = default;
  HOST_DEVICE TablePack(const TableArray& from, int64_t at) {
    if (kIsAlwaysWide || from.dtype == TableDtype::kWide) {
      wide = load_pack<N>(static_cast<const M*>(from.data) + at);
    } else {
      const auto narrow = load_pack<N>(static_cast<const __half*>(from.data) + at);
      memcpy(wide.words, narrow.words, sizeof(narrow));
    }
  }

  // `dtype` is the array's.
  HOST_DEVICE void read(TableDtype dtype, M (&x)[N]) const {
    if (kIsAlwaysWide || dtype == TableDtype::kWide) return read_as(wide, x);
    Pack<__half, N> narrow;
    memcpy(narrow.words, wide.words, sizeof(narrow));
    if (dtype == TableDtype::kFloat16) return read_as(narrow, x);
    read_as(bits_as<Pack<__nv_bfloat16, N>>(narrow), x);
  }

 private:
  template <typename T>
  HOST_DEVICE static void read_as(const Pack<T, N>& pack, M (&x)[N]) {
#pragma unroll
    for (int k = 0; k < N; ++k) x[k] = pack.get(k);
  }
};

// Rounds to nearest even.
template <typename M, int N>
HOST_DEVICE void store_table_numbers(const TableArray& to, int64_t at, const M (&x)[N]) {
  if constexpr (!TablePack<M, N>::kIsAlwaysWide) {
    if (to.dtype == TableDtype::kBFloat16)
      return store_pack(static_cast<__nv_bfloat16*>(to.data) + at, pack_of<__nv_bfloat16>(x));
    if (to.dtype == TableDtype::kFloat16) return store_pack(static_cast<__half*>(to.data) + at, pack_of<__half>(x));
  }
  store_pack(static_cast<M*>(to.data) + at, pack_of<M>(x));
}

// int64 or int32 numbers.
struct TableIds {
  const void* pointer;
  bool is_int32;

  HOST_DEVICE int64_t at(int64_t i) const {
    return is_int32 ? static_cast<const int*>(pointer)[i] : static_cast<const int64_t*>(pointer)[i];
  }
};

// See SortedGradients.
struct SortedTable {
  TableIds rows;
  int64_t num_ids;
  int64_t dim;
  const int64_t* order;
  int64_t absent;
  TableArray grads;
  const int64_t* sources;
  const void* factors;
  void* partials;

  // Whether sorted look-up i is the first of a row that counts.
  HOST_DEVICE bool begins_row(int64_t i) const {
    const int64_t row = rows.at(i);
    return row != absent && (i == 0 || rows.at(i - 1) != row);
  }

  // Behind the last look-up of the row of look-up i, at most `limit`.
  HOST_DEVICE int64_t end_of_row(int64_t i, int64_t limit) const {
    const int64_t row = rows.at(i++);
    if (i == limit || rows.at(i) != row) return i;  // as most rows have one
    while (i < limit) {
      const int64_t middle = i + (limit - i) / 2;
      if (rows.at(middle) == row) i = middle + 1;
      else limit = middle;
    }
    return i;
  }

  // The end of the partial sum in which sorted look-up i is.
  HOST_DEVICE int64_t end_of_run(int64_t i) const {
    const int64_t end = (i / kTableRun + 1) * kTableRun;
    return end < num_ids ? end : num_ids;
  }
};

// What is added to a sum: a factor times the numbers of an array from `at` on, or nothing where that is negative.
template <typename M>
struct TableTerm {
  int64_t at;
  M factor;
};

// Adds term(begin) to term(end - 1), in their order.
template <typename M, int N, typename Term>
__device__ __forceinline__ void add_table_terms(const TableArray& array, int64_t begin, int64_t end, M (&sum)[N],
                                                Term term) {
  for (int64_t i = begin; i < end; i += kTableAhead) {
    TablePack<M, N> packs[kTableAhead];
    M factors[kTableAhead];
    bool there[kTableAhead];
#pragma unroll
    for (int u = 0; u < kTableAhead; ++u) {
      there[u] = false;
      if (i + u >= end) continue;
      const TableTerm<M> of = term(i + u);
      there[u] = of.at >= 0;
      factors[u] = of.factor;
      if (there[u]) packs[u] = TablePack<M, N>(array, of.at);
    }
#pragma unroll
    for (int u = 0; u < kTableAhead; ++u) {
      if (!there[u]) continue;
      M numbers[N];
      packs[u].read(array.dtype, numbers);
#pragma unroll
      for (int k = 0; k < N; ++k) sum[k] += factors[u] * numbers[k];
    }
  }
}

// Adds numbers [first, first + N) of the gradients of the sorted look-ups [begin, end).
template <typename M, int N>
__device__ __forceinline__ void add_table_gradients(const SortedTable& table, int64_t begin, int64_t end, int64_t first,
                                              M (&sum)[N]) {
  add_table_terms(table.grads, begin, end, sum, [&](int64_t i) -> TableTerm<M> {
    const int64_t lookup = table.order[i], source = table.sources ? table.sources[lookup] : lookup;
    return {source * table.dim + first, table.factors ? static_cast<const M*>(table.factors)[lookup] : M(1)};
  });
}

// The look-ups of a row: those up to the end of the run in which it begins, and the partial sums of the others.
struct TableRow {
  int64_t begin;
  int64_t end;
  int64_t first_partial;
  int64_t end_partial;

  TableRow() = default;
  // `i` is the row's first look-up.
  HOST_DEVICE TableRow(const SortedTable& table, int64_t i) : begin(i) {
    const int64_t run = table.end_of_run(i);
    end = table.end_of_row(i, run);
    const bool goes_on = end == run && end < table.num_ids && table.rows.at(end) == table.rows.at(i);
    first_partial = run / kTableRun;
    end_partial = goes_on ? (table.end_of_row(end, table.num_ids) - 1) / kTableRun + 1 : first_partial;
  }
};

// Numbers [first, first + N) of a row's gradient.
template <typename M, int N>
__device__ __forceinline__ void sum_of_table_row(const SortedTable& table, const TableRow& row, int64_t first,
                                           M (&sum)[N]) {
#pragma unroll
  for (int k = 0; k < N; ++k) sum[k] = 0;
  add_table_gradients(table, row.begin, row.end, first, sum);
  add_table_terms({table.partials, TableDtype::kWide}, row.first_partial, row.end_partial, sum,
            [&](int64_t run) -> TableTerm<M> { return {run * table.dim + first, M(1)}; });
}

// The partial sums of rows that began before the run. Item k is run k + 1.
template <typename M, int N>
__global__ void __launch_bounds__(kTableThreads, kTableBlocks) table_partials_kernel(const SortedTable table) {
  const TablePlace<N> place(table.dim);
  const int64_t begin = (place.item + 1) * kTableRun;
  if (place.group >= place.groups || begin >= table.num_ids) return;
  if (table.rows.at(begin) == table.absent || table.rows.at(begin) != table.rows.at(begin - 1)) return;
  const int64_t end = table.end_of_row(begin, table.end_of_run(begin));
  for (int64_t first = place.first; first < table.dim; first += 32 * N) {
    M sum[N] = {};
    add_table_gradients(table, begin, end, first, sum);
    store_table_numbers({table.partials, TableDtype::kWide}, begin / kTableRun * table.dim + first, sum);
  }
}

}  // namespace airank_fast
