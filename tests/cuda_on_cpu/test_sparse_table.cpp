// The launchers of a table's look-ups and bags: rows of every word, in packs and not, longer than a warp takes at a
// time; slots; ids outside and of padding; empty bags; a row with so many gradients that they have partial sums.
#include <map>

#include "cuda/sparse_table.h"
#include "table_test.h"

namespace airank_fast {
namespace {

constexpr double kNaN = __builtin_nan("");

// Two slots, of 2 and of 5 rows.
template <typename T, typename Id>
void check_lookup(int64_t dim, bool slots) {
  const int64_t num_rows = 7;
  Array<T> table = Array<T>::random(size_t(num_rows * dim)), result(size_t(10 * dim));
  Array<Id> ids = ids_of<Id>({1, 4, 0, 0, 2, -1, 1, 5, 6, 3});
  Array<int64_t> first_rows = ids_of<int64_t>({0, 2});
  std::vector<double> want;
  for (size_t i = 0; i < ids.size(); ++i) {
    const int64_t size = slots ? (i % 2 ? 5 : 2) : num_rows, row = ids[i] + (slots && i % 2 ? 2 : 0);
    for (int64_t d = 0; d < dim; ++d)
      want.push_back(ids[i] >= 0 && ids[i] < size ? table.get(size_t(row * dim + d)) : kNaN);
  }
  TableLookupLaunch work;
  work.dtype = DtypeOf<T>::value;
  work.num_rows = num_rows;
  work.dim = dim;
  work.table = table.data();
  work.num_ids = int64_t(ids.size());
  work.ids = address_of(ids);
  if (slots) work.num_slots = 2, work.first_rows = first_rows.data();
  work.result = result.data();
  check_success("lookup", launch_table_lookup(work, nullptr));
  check_close("lookup", result, want, 0);
}

enum class Kind { kSum, kWeighted, kMean };

template <typename T, typename Id>
void check_bags(int64_t dim, Kind kind) {
  using M = math_t<T>;
  constexpr int64_t kRows = 9, kPadding = 5;
  std::vector<int64_t> numbers = ids_with_a_long_row(1100, kRows, kPadding);
  numbers[3] = kRows;  // the second bag has an id outside
  Array<Id> ids = ids_of<Id>(numbers);
  Array<int64_t> offsets = ids_of<int64_t>({0, 2, 7, 7, 40, 1100});
  const size_t num_bags = offsets.size() - 1, size = size_t(dim);
  Array<T> table = Array<T>::random(kRows * size), result(num_bags * size), grad = Array<T>::random(num_bags * size);
  Array<M> weights = Array<M>::random(ids.size()), factors(ids.size());

  std::vector<double> want;
  std::map<int64_t, std::vector<double>> gradients;  // of the rows
  for (size_t bag = 0; bag < num_bags; ++bag) {
    std::vector<size_t> here;
    for (size_t i = size_t(offsets[bag]); i < size_t(offsets[bag + 1]); ++i)
      if (ids[i] != kPadding) here.push_back(i);
    for (size_t d = 0; d < size; ++d) {
      double sum = 0;
      for (size_t i : here) {
        const double factor = kind == Kind::kWeighted ? weights.get(i) : kind == Kind::kMean ? 1.0 / here.size() : 1.0;
        sum += ids[i] < kRows ? factor * table.get(size_t(ids[i]) * size + d) : kNaN;
        std::vector<double>& of_row = gradients[ids[i]];
        of_row.resize(size);
        of_row[d] += factor * grad.get(bag * size + d);
      }
      want.push_back(sum);
    }
  }

  TableBagLaunch work;
  work.dtype = DtypeOf<T>::value;
  work.num_rows = kRows;
  work.dim = dim;
  work.table = table.data();
  work.bags = {int64_t(num_bags), offsets.data(), int64_t(ids.size()), address_of(ids), kPadding,
               kind == Kind::kMean, kind == Kind::kWeighted ? weights.data() : nullptr};
  work.result = result.data();
  check_success("bag", launch_table_bag(work, nullptr));
  check_close("bag", result, want, 1e3 * kEpsilon<M> + kEpsilon<T>);

  Array<int64_t> bag_of_ids(ids.size());
  check_success("bag of ids",
                launch_table_bag_of_ids(work.bags, work.dtype, bag_of_ids.data(), factors.data(), nullptr));
  Sorted<Id> sorted(ids);
  SortedGradients of;
  of.dtype = work.dtype;
  of.num_ids = int64_t(ids.size());
  of.dim = dim;
  of.rows = address_of(sorted.ids);
  of.order = sorted.order.data();
  of.absent = kPadding;
  of.grads = grad.data();
  of.sources = bag_of_ids.data();
  of.factors = kind == Kind::kMean ? factors.data() : work.bags.weights;
  Array<M> partials(size_t(table_partials(of.num_ids, dim)));
  of.partials = partials.data();
  Array<bool> begins(ids.size());
  check_success("begins", launch_table_begins(of, begins.data(), nullptr));
  std::vector<int64_t> places;
  for (size_t i = 0; i < begins.size(); ++i)
    if (begins[i]) places.push_back(int64_t(i));

  Array<int64_t> starts = ids_of<int64_t>(places), rows(gradients.size());
  if (places.size() != gradients.size()) return failure_at("rows", 0, double(places.size()), double(gradients.size()));
  Array<T> values(rows.size() * size);
  check_success("bag backward", launch_table_bag_backward(of, int64_t(rows.size()), starts.data(), rows.data(),
                                                          values.data(), nullptr));
  std::vector<double> want_rows, want_values;
  for (const auto& [row, of_row] : gradients) {
    want_rows.push_back(double(row));
    want_values.insert(want_values.end(), of_row.begin(), of_row.end());
  }
  check_close("rows", rows, want_rows, 0);
  check_close("bag backward", values, want_values, 1e3 * kEpsilon<M> + kEpsilon<T>);
}

void cases() {
  check_lookup<float, int64_t>(4, true);
  check_lookup<float, int32_t>(10, true);
  check_lookup<double, int64_t>(33, false);
  check_lookup<float, int32_t>(1, false);
  check_lookup<__nv_bfloat16, int64_t>(3, true);
  check_lookup<__half, int32_t>(35, false);
  check_bags<float, int64_t>(4, Kind::kMean);
  check_bags<float, int32_t>(10, Kind::kWeighted);
  check_bags<double, int64_t>(33, Kind::kMean);
  check_bags<__nv_bfloat16, int32_t>(132, Kind::kSum);
  check_bags<__half, int64_t>(8, Kind::kWeighted);
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
