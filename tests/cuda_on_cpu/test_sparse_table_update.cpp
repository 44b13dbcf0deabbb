// The launchers of the update of touched rows: every rule and dtype, rows in packs and not, longer than a warp takes at
// a time; a row with so many gradients that they have partial sums; ids outside; copies, written and not; a skipped step.
#include <map>

#include "cuda/sparse_table_update.h"
#include "table_test.h"

namespace airank_fast {
namespace {

constexpr int64_t kRows = 12;
constexpr double kLr = 0.25, kStep = 3, kScale = 4;
const TableOptions kOptions{0.75, 0.875, 0.0625, 0.5, true, {-0.5, 0.125, 0.25, 0.0625, 1, false}};

// One element, in double; updates the state.
double reference(TableRule rule, double weight, double grad, double& first, double& second) {
  const double scale = kLr / (1 + (kStep - 1) * kOptions.lr_decay);
  switch (rule) {
    case TableRule::kSgd: return weight - kLr * grad;
    case TableRule::kAdagrad: first += grad * grad; [[fallthrough]];
    case TableRule::kRowWiseAdagrad: return weight - scale * grad / (std::sqrt(first) + kOptions.eps);
    case TableRule::kAdam:
      first += (1 - kOptions.beta1) * (grad - first);
      second += (1 - kOptions.beta2) * (grad * grad - second);
      return weight - kLr * std::sqrt(1 - std::pow(kOptions.beta2, kStep)) / (1 - std::pow(kOptions.beta1, kStep)) *
                          first / (std::sqrt(second) + kOptions.eps);
    default: {
      const FtrlOptions& o = kOptions.ftrl;
      const double total = first + grad * grad, growth = std::pow(total, -o.lr_power) - std::pow(first, -o.lr_power);
      first = total;
      second += grad + 2 * o.l2_shrinkage * weight - growth / kLr * weight;
      const double clipped = std::fmin(std::fmax(second, -o.l1), o.l1);
      return (clipped - second) / ((std::pow(total, -o.lr_power) + o.beta) / kLr + 2 * o.l2);
    }
  }
}

template <typename P, typename G, typename C, typename Id>
void check(TableRule rule, int64_t dim, size_t num_ids = 60, bool found_inf = false) {
  using M = math_t<P>;
  constexpr bool with_copy = sizeof(C) == 2;
  using Copy = std::conditional_t<with_copy, C, float>;
  const bool by_row = rule == TableRule::kRowWiseAdagrad;
  const size_t size = size_t(kRows * dim), state_size = by_row ? kRows : size;
  const std::vector<int64_t> numbers = ids_with_a_long_row(num_ids, kRows - 3, -2);  // three rows are not touched
  Array<int64_t> rows = ids_of<int64_t>(numbers);
  Array<G> grads = Array<G>::random(numbers.size() * size_t(dim));
  std::vector<Array<P>> tables{Array<P>::random(size)};
  Array<P>& table = tables[0];
  std::vector<Array<Copy>> copies = copies_of<Copy>(tables);
  Array<Copy>& copy = copies[0];
  Array<M> first = Array<M>::random(state_size), second = Array<M>::random(size);
  for (Array<M>* state : {&first, &second})
    for (size_t i = 0; i < state->size(); ++i) state->set(i, std::fabs(state->get(i)));

  std::map<int64_t, std::vector<double>> sums;
  for (size_t i = 0; i < numbers.size() && !found_inf; ++i) {
    if (numbers[i] < 0) continue;
    std::vector<double>& sum = sums[numbers[i]];
    sum.resize(size_t(dim));
    for (size_t d = 0; d < sum.size(); ++d) sum[d] -= grads.get(i * size_t(dim) + d) / kScale;  // to maximise
  }
  std::vector<double> want = table.doubles(), want_copy = copy.doubles(), want_first = first.doubles(),
                      want_second = second.doubles();
  for (const auto& [row, sum] : sums) {
    double* of_row = &want_first[by_row ? size_t(row) : 0];
    for (size_t d = 0; d < sum.size() && by_row; ++d) *of_row += sum[d] * sum[d] / double(dim);
    for (size_t d = 0; d < sum.size(); ++d) {
      const size_t at = size_t(row * dim) + d;
      const double old = with_copy && at % 2 ? want_copy[at] : want[at];
      want[at] = reference(rule, old, sum[d], by_row ? *of_row : want_first[at], want_second[at]);
      if (with_copy) want_copy[at] = want[at];
    }
  }

  Array<float> lr = Array<float>::filled(1, kLr), inf = Array<float>::filled(1, found_inf);
  Array<double> step = Array<double>::filled(1, kStep), scale = Array<double>::filled(1, kScale);
  Array<double> scalars(kTableScalars);
  Array<Id> keys(rows.size());
  TableKeysLaunch begin;
  begin.table_dtype = DtypeOf<P>::value;
  begin.num_rows = kRows;
  begin.num_ids = int64_t(rows.size());
  begin.rows = rows.data();
  begin.keys = keys.data();
  begin.keys_are_int32 = sizeof(Id) == 4;
  begin.rule = rule;
  begin.options = kOptions;
  begin.lr = {lr.data(), false};
  begin.step = {step.data(), true};
  begin.grad_scale = {scale.data(), true};
  begin.scalars = scalars.data();
  check_success("keys", launch_table_keys(begin, nullptr));

  Sorted<Id> sorted(keys);
  Array<M> partials(size_t(table_partials(begin.num_ids, dim)));
  TableUpdateLaunch work;
  work.table_dtype = begin.table_dtype;
  work.copy_dtype = with_copy ? DtypeOf<Copy>::value : Dtype::kNone;
  work.gradients.dtype = DtypeOf<G>::value;
  work.gradients.num_ids = begin.num_ids;
  work.gradients.dim = dim;
  work.gradients.rows = address_of(sorted.ids);
  work.gradients.order = sorted.order.data();
  work.gradients.absent = kRows;
  work.gradients.grads = grads.data();
  work.gradients.partials = partials.data();
  work.table = table.data();
  work.copy = with_copy ? copy.data() : nullptr;
  work.first = num_table_states(rule) > 0 ? first.data() : nullptr;
  work.second = num_table_states(rule) > 1 ? second.data() : nullptr;
  work.rule = rule;
  work.scalars = scalars.data();
  work.found_inf = {inf.data(), false};
  check_success("update", launch_table_update(work, nullptr));

  check_close("first state", first, want_first, 2e3 * kEpsilon<M>);
  check_close("second state", second, want_second, 2e3 * kEpsilon<M>);
  check_close("table", table, want, 2e3 * kEpsilon<M> + kEpsilon<P>);
  check_close("copy", copy, want_copy, 2e3 * kEpsilon<M> + kEpsilon<Copy>);
}

void cases() {
  check<float, float, NoCopy, int32_t>(TableRule::kSgd, 10, 1100);  // partial sums
  check<float, float, NoCopy, int32_t>(TableRule::kFtrl, 1);
  check<float, float, NoCopy, int32_t>(TableRule::kRowWiseAdagrad, 10);
  check<float, float, NoCopy, int32_t>(TableRule::kRowWiseAdagrad, 132);
  check<float, float, __half, int32_t>(TableRule::kAdagrad, 4);
  check<float, float, __half, int32_t>(TableRule::kAdam, 4, 60, true);
  check<float, __half, __nv_bfloat16, int32_t>(TableRule::kFtrl, 5);
  check<double, double, NoCopy, int64_t>(TableRule::kAdam, 33);
  check<__nv_bfloat16, __nv_bfloat16, NoCopy, int32_t>(TableRule::kAdam, 8);
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
