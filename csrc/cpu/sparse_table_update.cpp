// The update of a table's touched rows on the CPU; formulas in sparse_table_update_math.h.
//
// The look-ups are sorted by row (sparse_table_sort.h), so that the update walks through the table in order, adds the
// gradients of a row in the order of its look-ups, and writes every touched row once. A row belongs to one thread, and
// no sum depends on the number of threads.
//
// Bytes, of numbers of e bytes: e dim + 24 and those of the sort per look-up; per touched row 2e dim for the weights,
// and 8 dim for each state of float32.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <type_traits>
#include <utility>

#include "../sparse_table_update_args.h"
#include "isa.h"
#include "numbers.h"
#include "sparse_table_rows.h"
#include "sparse_table_sort.h"

namespace airank_fast {
namespace {

// Sums of the gradients of rows: row k has the look-ups keys[starts[k]] to keys[starts[k + 1]].
template <typename G>
struct SumLoop {
  using M = math_t<G>;
  using Signature = void(const void*, const uint64_t*, int64_t, const int64_t*, int64_t, int64_t, M*, M*);

  HOST_DEVICE static void run(const void* grads, const uint64_t* keys, int64_t num_keys, const int64_t* starts,
                              int64_t count, int64_t dim, M* sums, M* partial) {
    const auto gradient = [&](int64_t i) __attribute__((always_inline)) {
      return std::pair(static_cast<const G*>(grads) + position_of_key(keys[i]) * dim, M(1));
    };
    for (int64_t k = 0; k < count; ++k)
      sum_of_row(starts[k], starts[k + 1], num_keys - 1, dim, gradient, sums + k * dim, partial);
  }
};

// The memory that an update writes.
struct TableMemory {
  void* table;
  void* copy;
  void* first;
  void* second;
};

template <TableRule kRule, typename P, typename C>
struct RuleLoop {
  using M = math_t<P>;
  using Signature = void(const M*, const int64_t*, int64_t, int64_t, TableMemory, TableScalars<M>);

  HOST_DEVICE static void run(const M* sums, const int64_t* rows, int64_t count, int64_t dim, TableMemory memory,
                              TableScalars<M> scalars) {
    constexpr bool kByRow = kRule == TableRule::kRowWiseAdagrad;
    constexpr int kStates = num_table_states(kRule);
    for (int64_t k = 0; k < count; ++k) {
      const M* __restrict sum = sums + k * dim;
      P* __restrict weight = static_cast<P*>(memory.table) + rows[k] * dim;
      C* __restrict copy = element(static_cast<C*>(memory.copy), rows[k] * dim);
      M* __restrict first =
          kStates == 0 ? nullptr : static_cast<M*>(memory.first) + (kByRow ? rows[k] : rows[k] * dim);
      M* __restrict second = kStates == 2 ? static_cast<M*>(memory.second) + rows[k] * dim : nullptr;
      if constexpr (kByRow) *first += mean_square(sum, dim, scalars.factor);
      M of_row = kByRow ? *first : M(0);
#pragma GCC ivdep
      for (int64_t d = 0; d < dim; ++d) {
        M s = kByRow ? of_row : kStates == 0 ? M(0) : first[d];
        M v = kStates == 2 ? second[d] : M(0);
        const M updated = table_step<kRule>(newest_at(weight, copy, d), scalars.factor * sum[d], s, v, scalars);
        if constexpr (kStates > 0 && !kByRow) first[d] = s;
        if constexpr (kStates == 2) second[d] = v;
        store(&weight[d], updated);
        if constexpr (!std::is_same_v<C, NoCopy>) store(&copy[d], updated);
      }
    }
  }

  HOST_DEVICE static M mean_square(const M* sum, int64_t dim, M factor) {
    constexpr int64_t kLanes = 16;  // the same in any instruction set
    M lanes[kLanes] = {};
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes)
      for (int64_t lane = 0; lane < kLanes; ++lane)
        lanes[lane] += (factor * sum[d + lane]) * (factor * sum[d + lane]);
    for (; d < dim; ++d) lanes[d % kLanes] += (factor * sum[d]) * (factor * sum[d]);
    for (int64_t half = kLanes / 2; half > 0; half /= 2)
      for (int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    return lanes[0] / M(dim);
  }
};

template <typename M>
using SumFunction = void (*)(const void*, const uint64_t*, int64_t, const int64_t*, int64_t, int64_t, M*, M*);
template <typename M>
using RuleFunction = void (*)(const M*, const int64_t*, int64_t, int64_t, TableMemory, TableScalars<M>);

template <typename P, typename C>
RuleFunction<math_t<P>> choose_rule(TableRule rule) {
  switch (rule) {
    case TableRule::kSgd: return choose<RuleLoop<TableRule::kSgd, P, C>>();
    case TableRule::kAdagrad: return choose<RuleLoop<TableRule::kAdagrad, P, C>>();
    case TableRule::kRowWiseAdagrad: return choose<RuleLoop<TableRule::kRowWiseAdagrad, P, C>>();
    case TableRule::kAdam: return choose<RuleLoop<TableRule::kAdam, P, C>>();
    case TableRule::kRootFtrl: return choose<RuleLoop<TableRule::kRootFtrl, P, C>>();
    default: break;
  }
  using Loop = RuleLoop<TableRule::kFtrl, P, C>;  // pow is a call for any processor
  return &Variants<Loop, typename Loop::Signature>::baseline;
}

template <typename P>
RuleFunction<math_t<P>> choose_rule(TableRule rule, const OptionalTensor& copy) {
  if constexpr (std::is_same_v<P, float>) {
    if (copy && copy->scalar_type() == ScalarType::BFloat16) return choose_rule<P, bfloat16>(rule);
    if (copy) return choose_rule<P, float16>(rule);
  }
  return choose_rule<P, NoCopy>(rule);
}

// The rows whose first key is in [begin, end), in blocks: their gradients are added while their weights are fetched.
template <typename M>
void update_rows(const SparseTableUpdate& args, const uint64_t* keys, int64_t begin, int64_t end, bool by_row,
                 SumFunction<M> add, RuleFunction<M> apply, const TableScalars<M>& scalars) {
  const int64_t dim = args.table.size(1), num_keys = args.rows.numel();
  const int64_t weight_bytes = dim * number_bytes(args.table), state_bytes = dim * int64_t(sizeof(M));
  const int64_t copy_bytes = args.copy ? dim * number_bytes(*args.copy) : 0;
  const auto state = [&](size_t i) { return args.state.size() > i ? args.state[i].data_ptr() : nullptr; };
  const TableMemory memory{args.table.data_ptr(), args.copy ? args.copy->data_ptr() : nullptr, state(0), state(1)};
  const auto fetch = [&](const void* array, int64_t row, int64_t num_bytes) {
    if (array != nullptr) fetch_row(static_cast<const char*>(array) + row * num_bytes, num_bytes);
  };
  const int64_t block_rows = std::clamp<int64_t>(2048 / dim, 1, kTableBlock);
  Scratch<M> sums(block_rows * dim), partial(dim);
  int64_t rows[kTableBlock], starts[kTableBlock + 1];
  int64_t i = begin;
  while (i > 0 && i < end && row_of_key(keys[i]) == row_of_key(keys[i - 1])) ++i;
  while (i < end) {
    int64_t count = 0;
    for (; count < block_rows && i < end; ++count) {
      const int64_t row = row_of_key(keys[i]);
      rows[count] = row;
      starts[count] = i;
      fetch(memory.table, row, weight_bytes);
      fetch(memory.copy, row, copy_bytes);
      fetch(memory.first, row, by_row ? int64_t(sizeof(M)) : state_bytes);
      fetch(memory.second, row, state_bytes);
      do ++i;
      while (i < num_keys && row_of_key(keys[i]) == row);
    }
    starts[count] = i;
    add(args.grads.data_ptr(), keys, num_keys, starts, count, dim, sums.data(), partial.data());
    apply(sums.data(), rows, count, dim, memory, scalars);
  }
}

double number_in(const Tensor& scalar) {
  return scalar.scalar_type() == ScalarType::Double ? *static_cast<const double*>(scalar.data_ptr())
                                                    : *static_cast<const float*>(scalar.data_ptr());
}

void sparse_table_update_cpu(Tensor table, TensorList state, OptionalTensor copy, Tensor rows, Tensor grads, Tensor lr,
                             Tensor step, std::string rule_name, double beta1, double beta2, double eps,
                             double lr_decay, double lr_power, double l1, double l2, double l2_shrinkage, double beta,
                             bool maximize, OptionalTensor grad_scale, OptionalTensor found_inf) {
  const char* op = "sparse_table_update";
  SparseTableUpdate args{std::move(table), std::move(state), std::move(copy), std::move(rows), std::move(grads)};
  TableRule rule = check_sparse_table_update(args, lr, step, rule_name, grad_scale, found_inf);
  args.rows = as_contiguous(args.rows);
  args.grads = as_contiguous(args.grads);
  const int64_t num_rows = args.table.size(0), num_ids = args.rows.numel(), dim = args.table.size(1);
  const int64_t* at = static_cast<const int64_t*>(args.rows.data_ptr());
  uint64_t largest = 0;
  for (int64_t i = 0; i < num_ids; ++i) largest = std::max(largest, uint64_t(at[i]));
  if (num_ids > 0 && largest >= uint64_t(num_rows)) check_inside(op, "rows", args.rows, {num_rows});
  CHECK_ARGUMENT(num_rows <= kMaxTableRows && num_ids <= kMaxTableRows, op, ": table and rows must have at most ",
                 kMaxTableRows, " rows, got ", num_rows, " and ", num_ids);
  if (num_ids == 0 || dim == 0 || (found_inf && number_in(*found_inf) != 0)) return;

  if (rule == TableRule::kFtrl && lr_power == -0.5 && number_in(lr) != 0) rule = TableRule::kRootFtrl;
  const TableOptions options{beta1, beta2, eps, lr_decay, maximize, {lr_power, l1, l2, l2_shrinkage, beta, false}};
  const double scale = grad_scale ? number_in(*grad_scale) : 1.0;
  const auto keys = sorted_table_keys(at, num_ids, num_rows);
  with_table_type(args.table, [&](auto weight) {
    using P = decltype(weight);
    using M = math_t<P>;
    SumFunction<M> add = nullptr;
    with_table_type(args.grads, [&](auto grad) {
      if constexpr (std::is_same_v<math_t<decltype(grad)>, M>) add = choose<SumLoop<decltype(grad)>>();
    });
    const auto apply = choose_rule<P>(rule, args.copy);
    const auto scalars = table_scalars<M>(rule, options, number_in(lr), number_in(step), scale);
    torch::stable::parallel_for(0, num_ids, table_rows_per_thread(dim), [&](int64_t begin, int64_t end) {
      update_rows<M>(args, keys.get(), begin, end, rule == TableRule::kRowWiseAdagrad, add, apply, scalars);
    });
  });
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("sparse_table_update_", TORCH_BOX(&airank_fast::sparse_table_update_cpu));
}
