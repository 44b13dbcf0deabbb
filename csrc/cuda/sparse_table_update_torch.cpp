// airank_fast::sparse_table_update_ for CUDA tensors: checks, the sort, addresses, the current stream; the work is in
// sparse_table_update.cu.
#include <limits>
#include <string>

#include "../sparse_table_update_args.h"
#include "sparse_table_sort.h"
#include "sparse_table_update.h"

namespace airank_fast {
namespace {

void sparse_table_update_cuda(Tensor table, TensorList state, OptionalTensor copy, Tensor rows, Tensor grads, Tensor lr,
                              Tensor step, std::string rule_name, double beta1, double beta2, double eps,
                              double lr_decay, double lr_power, double l1, double l2, double l2_shrinkage, double beta,
                              bool maximize, OptionalTensor grad_scale, OptionalTensor found_inf) {
  const char* op = "sparse_table_update";
  SparseTableUpdate args{std::move(table), std::move(state), std::move(copy), std::move(rows), std::move(grads)};
  const TableRule rule = check_sparse_table_update(args, lr, step, rule_name, grad_scale, found_inf);
  const OnDevice device(args.table);
  args.rows = as_contiguous(args.rows);
  args.grads = as_contiguous(args.grads);
  const int64_t num_rows = args.table.size(0), num_ids = args.rows.numel(), dim = args.table.size(1);
  if (args.rows.is_cpu()) check_inside(op, "rows", args.rows, {num_rows});
  if (num_ids == 0 || dim == 0) return;

  const bool narrow = num_rows <= std::numeric_limits<int32_t>::max();  // half of the sort's work
  const Tensor keys = empty_beside(args.rows, {num_ids}, narrow ? ScalarType::Int : ScalarType::Long);
  const Tensor scalars = empty_beside(args.table, {kTableScalars}, ScalarType::Double);
  TableKeysLaunch first;
  first.table_dtype = dtype_of(args.table);
  first.num_rows = num_rows;
  first.num_ids = num_ids;
  first.rows = static_cast<const int64_t*>(args.rows.data_ptr());
  first.keys = keys.data_ptr();
  first.keys_are_int32 = narrow;
  first.rule = rule;
  first.options = {beta1, beta2, eps, lr_decay, maximize, {lr_power, l1, l2, l2_shrinkage, beta, false}};
  first.lr = address_of(lr);
  first.step = address_of(step);
  first.grad_scale = address_of(grad_scale);
  first.scalars = static_cast<double*>(scalars.data_ptr());
  check_launch(op, launch_table_keys(first, device.stream()));

  const auto [sorted, order] = sorted_table_ids(keys);
  const Tensor partials = empty_beside(args.table, {table_partials(num_ids, dim)},
                                       args.table.scalar_type() == ScalarType::Double ? ScalarType::Double
                                                                                      : ScalarType::Float);
  TableUpdateLaunch work;
  work.table_dtype = first.table_dtype;
  work.copy_dtype = args.copy ? dtype_of(*args.copy) : Dtype::kNone;
  work.gradients = sorted_gradients(sorted, order, args.grads, partials, num_rows);
  work.table = args.table.data_ptr();
  work.copy = args.copy ? args.copy->data_ptr() : nullptr;
  work.first = args.state.size() > 0 ? args.state[0].data_ptr() : nullptr;
  work.second = args.state.size() > 1 ? args.state[1].data_ptr() : nullptr;
  work.rule = rule;
  work.scalars = first.scalars;
  work.found_inf = address_of(found_inf);
  check_launch(op, launch_table_update(work, device.stream()));
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("sparse_table_update_", TORCH_BOX(&airank_fast::sparse_table_update_cuda));
}
