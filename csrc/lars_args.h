// The arguments of airank_fast::lars_, checked and flattened the same way for every device.
// Lists: params, grads, velocities (empty without momentum), 16-bit copies (or empty).
#pragma once

#include <optional>

#include "lars_math.h"
#include "tensor_lists.h"

namespace airank_fast {

struct LarsArgs {
  TensorList params;
  TensorList grads;
  TensorList velocities;
  TensorList copies;
};

inline void check_lars(const LarsArgs& args, const Tensor& lr, double momentum,
                       const std::optional<Tensor>& grad_scale, const std::optional<Tensor>& found_inf) {
  const char* op = "lars";
  check_list(op, "params", args.params, args.params);
  check_list(op, "grads", args.grads, args.params);
  const bool with_momentum = momentum != 0;
  CHECK_ARGUMENT(with_momentum || args.velocities.empty(), op,
                 ": velocities must be empty without momentum, got ", args.velocities.size());
  if (with_momentum) check_list(op, "velocities", args.velocities, args.params);
  if (!args.copies.empty()) check_list(op, "copies", args.copies, args.params);
  if (args.params.empty()) return;

  check_dtypes(op, args.params, args.grads, args.copies);
  if (with_momentum) check_list_dtype(op, "velocities", args.velocities, args.params[0].scalar_type());
  check_scalar(op, "lr", lr, args.params[0]);
  if (grad_scale) check_scalar(op, "grad_scale", *grad_scale, args.params[0]);
  if (found_inf) check_scalar(op, "found_inf", *found_inf, args.params[0]);
}

inline FlatViews flatten(LarsArgs& args) {
  return flatten(args.params, args.grads, {&args.velocities, &args.copies});
}

}  // namespace airank_fast
