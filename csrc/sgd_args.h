// The arguments of airank_fast::sgd_, checked and flattened the same way for every device.
// Lists: params, grads, momentum buffers (empty without momentum), 16-bit copies (or empty).
#pragma once

#include <optional>

#include "tensor_lists.h"

namespace airank_fast {

struct SgdArgs {
  TensorList params;
  TensorList grads;
  TensorList buffers;
  TensorList copies;
};

inline void check_sgd(const SgdArgs& args, const Tensor& lr, double momentum,
                      const std::optional<Tensor>& grad_scale, const std::optional<Tensor>& found_inf) {
  const char* op = "sgd";
  check_list(op, "params", args.params, args.params);
  check_list(op, "grads", args.grads, args.params);
  const bool with_momentum = momentum != 0;
  CHECK_ARGUMENT(with_momentum || args.buffers.empty(), op,
                 ": momentum_buffers must be empty without momentum, got ", args.buffers.size());
  if (with_momentum) check_list(op, "momentum_buffers", args.buffers, args.params);
  if (!args.copies.empty()) check_list(op, "copies", args.copies, args.params);
  if (args.params.empty()) return;

  check_dtypes(op, args.params, args.grads, args.copies);
  if (with_momentum) check_list_dtype(op, "momentum_buffers", args.buffers, args.params[0].scalar_type());
  check_scalar(op, "lr", lr, args.params[0]);
  if (grad_scale) check_scalar(op, "grad_scale", *grad_scale, args.params[0]);
  if (found_inf) check_scalar(op, "found_inf", *found_inf, args.params[0]);
}

inline FlatViews flatten(SgdArgs& args) {
  return flatten(args.params, args.grads, {&args.buffers, &args.copies});
}

}  // namespace airank_fast
