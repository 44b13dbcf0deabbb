// The arguments of airank_fast::sparse_table_update_, with the same checks on every device.
#pragma once

#include <array>
#include <string>

#include "sparse_table_args.h"
#include "sparse_table_update_math.h"
#include "tensor_lists.h"

namespace airank_fast {

inline TableRule table_rule_of(const std::string& name) {
  if (name == "sgd") return TableRule::kSgd;
  if (name == "adagrad") return TableRule::kAdagrad;
  if (name == "row_wise_adagrad") return TableRule::kRowWiseAdagrad;
  if (name == "adam") return TableRule::kAdam;
  CHECK_ARGUMENT(name == "ftrl",
                 "sparse_table_update: rule must be sgd, adagrad, row_wise_adagrad, adam or ftrl, got ", name);
  return TableRule::kFtrl;
}

struct SparseTableUpdate {
  Tensor table;
  TensorList state;
  OptionalTensor copy;
  Tensor rows;
  Tensor grads;
};

inline void check_table_part(const char* op, const std::string& name, const Tensor& part, const Tensor& table,
                             bool by_row) {
  CHECK_ARGUMENT(same_device(part, table), op, ": ", name, " must be on ", device_of(table), ", got ",
                 device_of(part));
  const int64_t rows = table.size(0);
  const bool fits = by_row ? part.dim() == 1 && part.size(0) == rows : same_shape(part, table);
  CHECK_ARGUMENT(fits, op, ": ", name, " must have shape ",
                 by_row ? text_of(Sizes(&rows, 1)) : shape_of(table), ", got ", shape_of(part));
  CHECK_ARGUMENT(part.is_contiguous(), op, ": ", name, " must be contiguous, got strides ",
                 text_of(part.strides()));
}

inline TableRule check_sparse_table_update(const SparseTableUpdate& args, const Tensor& lr, const Tensor& step,
                                           const std::string& rule_name, const OptionalTensor& grad_scale,
                                           const OptionalTensor& found_inf) {
  const char* op = "sparse_table_update";
  const TableRule rule = table_rule_of(rule_name);
  check_table(op, args.table);
  const ScalarType dtype = args.table.scalar_type(), grad = args.grads.scalar_type();
  const ScalarType wide = dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const size_t num_state = size_t(num_table_states(rule));
  CHECK_ARGUMENT(args.state.size() == num_state, op, ": state must have ", num_state, " tensors for ", rule_name,
                 ", got ", args.state.size());
  for (size_t i = 0; i < num_state; ++i) {
    const std::string name = i == 0 ? "state[0]" : "state[1]";
    check_table_part(op, name, args.state[i], args.table, rule == TableRule::kRowWiseAdagrad);
    CHECK_ARGUMENT(args.state[i].scalar_type() == wide, op, ": ", name, " must be ", name_of(wide), ", got ",
                   name_of(args.state[i].scalar_type()));
  }
  const auto is_16_bit = [](ScalarType t) { return t == ScalarType::BFloat16 || t == ScalarType::Half; };
  if (args.copy) {
    check_table_part(op, "copy", *args.copy, args.table, false);
    CHECK_ARGUMENT(dtype == ScalarType::Float && is_16_bit(args.copy->scalar_type()), op,
                   ": copy must be bfloat16 or float16, of a float32 table, got ", name_of(args.copy->scalar_type()),
                   " of ", name_of(dtype));
  }
  check_int64(op, "rows", args.rows, args.table);
  CHECK_ARGUMENT(args.rows.dim() == 1, op, ": rows must have shape [ids], got ", shape_of(args.rows));
  CHECK_ARGUMENT(same_device(args.grads, args.table), op, ": grads must be on ", device_of(args.table), ", got ",
                 device_of(args.grads));
  const std::array<int64_t, 2> shape{args.rows.size(0), args.table.size(1)};
  CHECK_ARGUMENT(same_sizes(args.grads.sizes(), Sizes(shape.data(), 2)), op, ": grads must have shape ",
                 text_of(Sizes(shape.data(), 2)), ", got ", shape_of(args.grads));
  CHECK_ARGUMENT(grad == dtype || (dtype == ScalarType::Float && is_16_bit(grad)), op, ": grads must be ",
                 name_of(dtype), dtype == ScalarType::Float ? ", bfloat16 or float16" : "", ", got ", name_of(grad));
  check_scalar(op, "lr", lr, args.table);
  check_scalar(op, "step", step, args.table);
  if (grad_scale) check_scalar(op, "grad_scale", *grad_scale, args.table);
  if (found_inf) check_scalar(op, "found_inf", *found_inf, args.table);
  return rule;
}

}  // namespace airank_fast
