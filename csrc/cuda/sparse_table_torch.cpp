// airank_fast::sparse_table_lookup, _bag and _bag_backward for CUDA tensors: checks, addresses, the current stream; the
// work is in sparse_table.cu.
#include <tuple>

#include "../sparse_table_args.h"
#include "sparse_table.h"
#include "sparse_table_sort.h"

namespace airank_fast {
namespace {

const int64_t* int64s(const Tensor& tensor) { return static_cast<const int64_t*>(tensor.data_ptr()); }

Tensor sparse_table_lookup_cuda(Tensor table, Tensor ids, OptionalTensor first_rows, int64_t) {
  const char* op = "sparse_table_lookup";
  check_sparse_table_lookup(table, ids, first_rows);
  const OnDevice device(table);
  ids = as_contiguous(ids);
  first_rows = as_contiguous(first_rows);
  if (ids.is_cpu()) check_inside(op, "ids", ids, slots_of(first_rows, table.size(0)).size);
  std::vector<int64_t> shape(ids.sizes().begin(), ids.sizes().end());
  shape.push_back(table.size(1));
  Tensor result = empty_beside(table, Sizes(shape.data(), shape.size()));
  TableLookupLaunch work;
  work.dtype = dtype_of(table);
  work.num_rows = table.size(0);
  work.dim = table.size(1);
  work.table = table.data_ptr();
  work.num_ids = ids.numel();
  work.ids = table_ids_of(ids);
  if (first_rows) {
    work.num_slots = first_rows->numel();
    work.first_rows = int64s(*first_rows);
  }
  work.result = result.data_ptr();
  check_launch(op, launch_table_lookup(work, device.stream()));
  return result;
}

TableBags bags_of(const Tensor& ids, const Tensor& offsets, const OptionalTensor& weights, bool mean,
                   int64_t padding) {
  TableBags bags;
  bags.num_bags = offsets.numel() - 1;
  bags.offsets = int64s(offsets);
  bags.num_ids = ids.numel();
  bags.ids = table_ids_of(ids);
  bags.padding = padding;
  bags.mean = mean;
  bags.weights = weights ? weights->data_ptr() : nullptr;
  return bags;
}

Tensor sparse_table_bag_cuda(Tensor table, Tensor ids, Tensor offsets, OptionalTensor weights, bool mean,
                             int64_t padding_idx) {
  const char* op = "sparse_table_bag";
  check_sparse_table_bag(table, ids, offsets, weights);
  const OnDevice device(table);
  ids = as_contiguous(ids);
  weights = as_contiguous(weights);
  offsets = as_contiguous(offsets);
  if (ids.is_cpu()) {
    check_bag_offsets(op, int64s(offsets), offsets.numel() - 1, ids.numel());
    check_inside(op, "ids", ids, {table.size(0)});
  }
  TableBagLaunch work;
  work.dtype = dtype_of(table);
  work.num_rows = table.size(0);
  work.dim = table.size(1);
  work.table = table.data_ptr();
  work.bags = bags_of(ids, offsets, weights, mean, padding_idx);
  Tensor result = empty_beside(table, {work.bags.num_bags, work.dim});
  work.result = result.data_ptr();
  check_launch(op, launch_table_bag(work, device.stream()));
  return result;
}

std::tuple<Tensor, Tensor> sparse_table_bag_backward_cuda(Tensor grad, Tensor ids, Tensor offsets,
                                                          OptionalTensor weights, bool mean, int64_t padding_idx) {
  const char* op = "sparse_table_bag_backward";
  check_sparse_table_bag_backward(grad, ids, offsets, weights);
  const OnDevice device(grad);
  grad = as_contiguous(grad);
  ids = as_contiguous(ids);
  weights = as_contiguous(weights);
  offsets = as_contiguous(offsets);
  const int64_t num_ids = ids.numel(), dim = grad.size(1);
  if (ids.is_cpu()) check_bag_offsets(op, int64s(offsets), offsets.numel() - 1, num_ids);
  const ScalarType math = grad.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const Tensor bag_of_ids = empty_beside(ids, {num_ids}, ScalarType::Long);
  const OptionalTensor factors = mean ? OptionalTensor(empty_beside(grad, {num_ids}, math)) : weights;
  void* const factor = factors ? factors->data_ptr() : nullptr;
  check_launch(op, launch_table_bag_of_ids(bags_of(ids, offsets, weights, mean, padding_idx), dtype_of(grad),
                                           static_cast<int64_t*>(bag_of_ids.data_ptr()), factor, device.stream()));

  const auto [sorted, order] = sorted_table_ids(ids);
  const Tensor partials = empty_beside(grad, {table_partials(num_ids, dim)}, math);
  SortedGradients gradients = sorted_gradients(sorted, order, grad, partials, padding_idx);
  gradients.sources = int64s(bag_of_ids);
  gradients.factors = factor;
  const Tensor begins = empty_beside(ids, {num_ids}, ScalarType::Bool);
  check_launch(op, launch_table_begins(gradients, static_cast<bool*>(begins.data_ptr()), device.stream()));
  const Tensor starts = places_of_flags(begins);

  const int64_t num_rows = starts.size(0);
  Tensor rows = empty_beside(ids, {num_rows}, ScalarType::Long), values = empty_beside(grad, {num_rows, dim});
  check_launch(op, launch_table_bag_backward(gradients, num_rows, int64s(starts),
                                             static_cast<int64_t*>(rows.data_ptr()), values.data_ptr(),
                                             device.stream()));
  return {rows, values};
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("sparse_table_lookup", TORCH_BOX(&airank_fast::sparse_table_lookup_cuda));
  m.impl("sparse_table_bag", TORCH_BOX(&airank_fast::sparse_table_bag_cuda));
  m.impl("sparse_table_bag_backward", TORCH_BOX(&airank_fast::sparse_table_bag_backward_cuda));
}
