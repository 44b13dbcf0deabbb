// Look-ups of rows and of bags of rows on the CPU; the update of a table is in sparse_table_update.cpp.
//
// Rows are fetched before they are used, a block of look-ups ahead: their addresses are random, and a load that waits
// for memory takes longer than all arithmetic on a row. With numbers of e bytes a look-up moves 2e dim + 8 bytes.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "../sparse_table_args.h"
#include "isa.h"
#include "numbers.h"
#include "sparse_table_rows.h"
#include "sparse_table_sort.h"

namespace airank_fast {
namespace {

// Parts into which the rows of a gradient are cut; a multiple of most numbers of threads.
constexpr int64_t kBagTasks = 1 << 10;

template <int kBytes>
HOST_DEVICE void copy_ends(char* to, const char* from, int64_t num_bytes) {
  __builtin_memcpy(to, from, kBytes);
  __builtin_memcpy(to + num_bytes - kBytes, from + num_bytes - kBytes, kBytes);
}

// A row has at least 2 bytes. Its last part overlaps the one before: quicker than a loop over what remains.
HOST_DEVICE void copy_row(char* to, const char* from, int64_t num_bytes) {
  if (num_bytes >= 32) {
    for (int64_t i = 0; i + 32 <= num_bytes; i += 32) __builtin_memcpy(to + i, from + i, 32);
    __builtin_memcpy(to + num_bytes - 32, from + num_bytes - 32, 32);
  } else if (num_bytes >= 16) {
    copy_ends<16>(to, from, num_bytes);
  } else if (num_bytes >= 8) {
    copy_ends<8>(to, from, num_bytes);
  } else if (num_bytes >= 4) {
    copy_ends<4>(to, from, num_bytes);
  } else {
    __builtin_memcpy(to, from, 2);
  }
}

struct SlotView {
  const int64_t* first;
  const int64_t* size;
  int64_t count;
};

template <typename Id>
struct LookupLoop {
  using Signature = void(const void*, int64_t, int64_t, SlotView, const char*, char*, int64_t, bool*);

  // Copies the rows of the ids [begin, end). An id outside its slot sets *outside.
  HOST_DEVICE static void run(const void* all_ids, int64_t begin, int64_t end, SlotView slots, const char* table,
                              char* out, int64_t row_bytes, bool* outside) {
    const Id* ids = static_cast<const Id*>(all_ids);
    const char* found[2][kTableBlock];
    int64_t slot = begin % slots.count;
    int now = 0;
    fetch(ids, begin, std::min(begin + kTableBlock, end), slots, slot, table, row_bytes, found[now], outside);
    for (int64_t block = begin; block < end; block += kTableBlock, now = 1 - now) {
      const int64_t next = std::min(block + kTableBlock, end);
      fetch(ids, next, std::min(next + kTableBlock, end), slots, slot, table, row_bytes, found[1 - now], outside);
      for (int64_t i = block; i < next; ++i) copy_row(out + i * row_bytes, found[now][i - block], row_bytes);
    }
  }

  HOST_DEVICE static void fetch(const Id* ids, int64_t begin, int64_t end, SlotView slots, int64_t& slot,
                                const char* table, int64_t row_bytes, const char** found, bool* outside) {
    bool is_outside = false;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t id = ids[i];
      const bool inside = uint64_t(id) < uint64_t(slots.size[slot]);
      is_outside |= !inside;
      const char* row = table + (inside ? slots.first[slot] + id : 0) * row_bytes;
      fetch_row(row, row_bytes);
      found[i - begin] = row;
      if (++slot == slots.count) slot = 0;
    }
    *outside |= is_outside;
  }
};

// Bags of ids: bag b has those from offsets[b] to offsets[b + 1]. Ids equal to `padding` are not there. Without weights
// (nullptr) each is 1.
template <typename T, typename Id>
struct BagLoop {
  using M = math_t<T>;
  using Signature = void(const void*, const int64_t*, const M*, int64_t, int64_t, int64_t, bool, const void*, int64_t,
                         int64_t, void*, M*, bool*);

  HOST_DEVICE static void run(const void* all_ids, const int64_t* offsets, const M* weights, int64_t begin,
                              int64_t end, int64_t padding, bool mean, const void* rows, int64_t num_rows, int64_t dim,
                              void* out, M* __restrict sum, bool* outside) {
    const Id* ids = static_cast<const Id*>(all_ids);
    const T* table = static_cast<const T*>(rows);
    const int64_t last = offsets[end] - 1;
    bool is_outside = false;
    for (int64_t bag = begin; bag < end; ++bag) {
      for (int64_t d = 0; d < dim; ++d) sum[d] = 0;
      int64_t count = 0;
      for (int64_t i = offsets[bag]; i < offsets[bag + 1]; ++i) {
        const int64_t ahead = ids[std::min(i + kTableAhead, last)];
        if (uint64_t(ahead) < uint64_t(num_rows)) fetch_row(table + ahead * dim, dim * int64_t(sizeof(T)));
        const int64_t id = ids[i];
        const bool inside = uint64_t(id) < uint64_t(num_rows);
        is_outside |= !inside;
        if (!inside || id == padding) continue;
        const T* __restrict row = table + id * dim;
        const M weight = weights == nullptr ? M(1) : weights[i];
        for (int64_t d = 0; d < dim; ++d) sum[d] += weight * load(row[d]);
        ++count;
      }
      const M divisor = mean && count > 0 ? M(count) : M(1);
      T* __restrict to = static_cast<T*>(out) + bag * dim;
      for (int64_t d = 0; d < dim; ++d) store(&to[d], sum[d] / divisor);
    }
    *outside |= is_outside;
  }
};

// The look-ups of bags in the order of their rows: look-up k has the gradient of its bag, times its factor. Row r of
// the gradient is the sum of those from starts[r] to starts[r + 1].
template <typename M>
struct BagGradients {
  const uint64_t* keys;
  const int64_t* starts;
  const int64_t* bags;
  const M* factors;
};

template <typename T>
struct BagBackwardLoop {
  using M = math_t<T>;
  using Signature = void(BagGradients<M>, int64_t, int64_t, const void*, int64_t, void*, M*, M*);

  HOST_DEVICE static void run(BagGradients<M> of, int64_t begin, int64_t end, const void* grads, int64_t dim, void* out,
                              M* sum, M* partial) {
    const auto gradient = [&](int64_t k) __attribute__((always_inline)) {
      const int64_t lookup = position_of_key(of.keys[k]);
      return std::pair(static_cast<const T*>(grads) + of.bags[lookup] * dim, of.factors[lookup]);
    };
    for (int64_t r = begin; r < end; ++r) {
      sum_of_row(of.starts[r], of.starts[r + 1], of.starts[end] - 1, dim, gradient, sum, partial);
      T* __restrict to = static_cast<T*>(out) + r * dim;
      for (int64_t d = 0; d < dim; ++d) store(&to[d], sum[d]);
    }
  }
};

template <typename Run>
void with_type_of_ids(const Tensor& ids, Run run) {
  if (ids.scalar_type() == ScalarType::Int) return run(int32_t{});
  return run(int64_t{});
}

Tensor sparse_table_lookup_cpu(Tensor table, Tensor ids, OptionalTensor first_rows, int64_t) {
  check_sparse_table_lookup(table, ids, first_rows);
  const int64_t num_ids = ids.numel(), dim = table.size(1);
  std::vector<int64_t> shape(ids.sizes().begin(), ids.sizes().end());
  shape.push_back(dim);
  Tensor out = empty_beside(table, Sizes(shape.data(), shape.size()));
  first_rows = as_contiguous(first_rows);
  const Slots slots = slots_of(first_rows, table.size(0));
  if (num_ids == 0) return out;
  ids = as_contiguous(ids);
  if (table.numel() == 0) {
    check_inside("sparse_table_lookup", "ids", ids, slots.size);
    return out;
  }
  const SlotView view{slots.first.data(), slots.size.data(), int64_t(slots.first.size())};
  const int64_t row_bytes = out.numel() / num_ids * number_bytes(out);
  std::atomic<bool> outside = false;
  with_type_of_ids(ids, [&](auto id) {
    const auto loop = choose<LookupLoop<decltype(id)>>();
    torch::stable::parallel_for(0, num_ids, table_rows_per_thread(dim), [&](int64_t begin, int64_t end) {
      bool here = false;
      loop(ids.data_ptr(), begin, end, view, static_cast<const char*>(table.data_ptr()),
           static_cast<char*>(out.data_ptr()), row_bytes, &here);
      if (here) outside = true;
    });
  });
  if (outside) check_inside("sparse_table_lookup", "ids", ids, slots.size);
  return out;
}

Tensor sparse_table_bag_cpu(Tensor table, Tensor ids, Tensor offsets, OptionalTensor weights, bool mean,
                            int64_t padding_idx) {
  const char* op = "sparse_table_bag";
  check_sparse_table_bag(table, ids, offsets, weights);
  ids = as_contiguous(ids);
  weights = as_contiguous(weights);
  offsets = as_contiguous(offsets);
  const int64_t bags = offsets.numel() - 1, dim = table.size(1), num_rows = table.size(0);
  const int64_t* starts = static_cast<const int64_t*>(offsets.data_ptr());
  check_bag_offsets(op, starts, bags, ids.numel());
  Tensor out = empty_beside(table, {bags, dim});
  std::atomic<bool> outside = false;
  with_table_type(table, [&](auto element) {
    with_type_of_ids(ids, [&](auto id) {
      using T = decltype(element);
      const auto loop = choose<BagLoop<T, decltype(id)>>();
      torch::stable::parallel_for(0, bags, table_rows_per_thread(dim), [&](int64_t begin, int64_t end) {
        if (begin == end) return;
        Scratch<math_t<T>> sum(dim);
        bool here = false;
        loop(ids.data_ptr(), starts, weights ? static_cast<const math_t<T>*>(weights->data_ptr()) : nullptr, begin, end,
             padding_idx, mean, table.data_ptr(), num_rows, dim, out.data_ptr(), sum.data(), &here);
        if (here) outside = true;
      });
    });
  });
  if (outside) check_inside(op, "ids", ids, {num_rows});
  return out;
}

// The look-ups without those of padding: their rows, bags and factors.
template <typename M>
struct BagLookups {
  std::vector<int64_t> rows, bags;
  std::vector<M> factors;

  BagLookups(const Tensor& ids, const int64_t* offsets, int64_t num_bags, const M* weights, bool mean,
             int64_t padding) {
    for (auto* list : {&rows, &bags}) list->reserve(size_t(ids.numel()));
    factors.reserve(size_t(ids.numel()));
    with_type_of_ids(ids, [&](auto id) {
      const auto* all = static_cast<const decltype(id)*>(ids.data_ptr());
      for (int64_t bag = 0; bag < num_bags; ++bag) {
        const size_t first = rows.size();
        for (int64_t i = offsets[bag]; i < offsets[bag + 1]; ++i) {
          if (all[i] == padding) continue;
          rows.push_back(all[i]);
          bags.push_back(bag);
          factors.push_back(weights == nullptr ? M(1) : weights[i]);
        }
        if (mean)
          for (size_t k = first; k < rows.size(); ++k) factors[k] /= M(rows.size() - first);
      }
    });
  }
};

// Where each row begins among sorted keys, and at the end their number.
std::vector<int64_t> starts_of_rows(const uint64_t* keys, int64_t count) {
  std::vector<int64_t> starts;
  for (int64_t k = 0; k < count; ++k)
    if (k == 0 || row_of_key(keys[k]) != row_of_key(keys[k - 1])) starts.push_back(k);
  starts.push_back(count);
  return starts;
}

std::tuple<Tensor, Tensor> sparse_table_bag_backward_cpu(Tensor grad, Tensor ids, Tensor offsets,
                                                         OptionalTensor weights, bool mean, int64_t padding_idx) {
  const char* op = "sparse_table_bag_backward";
  check_sparse_table_bag_backward(grad, ids, offsets, weights);
  grad = as_contiguous(grad);
  ids = as_contiguous(ids);
  offsets = as_contiguous(offsets);
  weights = as_contiguous(weights);
  const int64_t num_bags = offsets.numel() - 1, dim = grad.size(1);
  const int64_t* of_bags = static_cast<const int64_t*>(offsets.data_ptr());
  check_bag_offsets(op, of_bags, num_bags, ids.numel());
  Tensor rows = ids, values = grad;
  with_table_type(grad, [&](auto element) {
    using T = decltype(element);
    using M = math_t<T>;
    const M* factors = weights ? static_cast<const M*>(weights->data_ptr()) : nullptr;
    const BagLookups<M> lookups(ids, of_bags, num_bags, factors, mean, padding_idx);
    const int64_t count = int64_t(lookups.rows.size());
    const auto [least, most] = std::minmax_element(lookups.rows.begin(), lookups.rows.end());
    if (count > 0)
      CHECK_ARGUMENT(*least >= 0 && *most < kMaxTableRows, op, ": ids must be in [0, ", kMaxTableRows, "), got ",
                     *least < 0 ? *least : *most);
    const auto keys = sorted_table_keys(lookups.rows.data(), count, count > 0 ? *most + 1 : 1);
    const std::vector<int64_t> starts = starts_of_rows(keys.get(), count);
    const int64_t num_rows = int64_t(starts.size()) - 1;
    rows = empty_beside(ids, {num_rows}, ScalarType::Long);
    values = empty_beside(grad, {num_rows, dim});
    int64_t* numbers = static_cast<int64_t*>(rows.data_ptr());
    for (int64_t r = 0; r < num_rows; ++r) numbers[r] = row_of_key(keys[starts[r]]);
    const BagGradients<M> gradients{keys.get(), starts.data(), lookups.bags.data(), lookups.factors.data()};
    const auto loop = choose<BagBackwardLoop<T>>();
    // Tasks of about as many look-ups, as some rows have most of them.
    const int64_t num_tasks = std::clamp<int64_t>(count / table_rows_per_thread(dim), 1, kBagTasks);
    const auto row_of_task = [&](int64_t task) {
      return std::lower_bound(starts.begin(), starts.end() - 1, count * task / num_tasks) - starts.begin();
    };
    torch::stable::parallel_for(0, num_tasks, 1, [&](int64_t begin, int64_t end) {
      Scratch<M> sum(dim), partial(dim);
      loop(gradients, row_of_task(begin), row_of_task(end), grad.data_ptr(), dim, values.data_ptr(), sum.data(),
           partial.data());
    });
  });
  return {rows, values};
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("sparse_table_lookup", TORCH_BOX(&airank_fast::sparse_table_lookup_cpu));
  m.impl("sparse_table_bag", TORCH_BOX(&airank_fast::sparse_table_bag_cpu));
  m.impl("sparse_table_bag_backward", TORCH_BOX(&airank_fast::sparse_table_bag_backward_cpu));
}
