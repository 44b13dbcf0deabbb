// The arguments of airank_fast::lamb_, checked and flattened the same way for every device.
// Lists: params, grads, first and second moments, 16-bit copies (or empty).
#pragma once

#include <optional>

#include "lamb_math.h"
#include "tensor_lists.h"

namespace airank_fast {

struct LambArgs {
  TensorList params;
  TensorList grads;
  TensorList exp_avgs;
  TensorList exp_avg_sqs;
  TensorList copies;
};

// The numbers of a step that are in device memory.
struct LambTensors {
  Tensor lr;
  Tensor step;
  std::optional<Tensor> grad_norm;
  std::optional<Tensor> grad_scale;
  std::optional<Tensor> found_inf;
};

inline void check_lamb(const LambArgs& args, const LambTensors& on_device) {
  const char* op = "lamb";
  check_list(op, "params", args.params, args.params);
  check_list(op, "grads", args.grads, args.params);
  check_list(op, "exp_avgs", args.exp_avgs, args.params);
  check_list(op, "exp_avg_sqs", args.exp_avg_sqs, args.params);
  if (!args.copies.empty()) check_list(op, "copies", args.copies, args.params);
  if (args.params.empty()) return;

  check_dtypes(op, args.params, args.grads, args.copies);
  const ScalarType param = args.params[0].scalar_type();
  const ScalarType moment = param == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  check_list_dtype(op, "exp_avgs", args.exp_avgs, moment);
  check_list_dtype(op, "exp_avg_sqs", args.exp_avg_sqs, moment);
  check_scalar(op, "lr", on_device.lr, args.params[0]);
  check_scalar(op, "step", on_device.step, args.params[0]);
  if (on_device.grad_norm) check_scalar(op, "grad_norm", *on_device.grad_norm, args.params[0]);
  if (on_device.grad_scale) check_scalar(op, "grad_scale", *on_device.grad_scale, args.params[0]);
  if (on_device.found_inf) check_scalar(op, "found_inf", *on_device.found_inf, args.params[0]);
}

inline FlatViews flatten(LambArgs& args) {
  return flatten(args.params, args.grads, {&args.exp_avgs, &args.exp_avg_sqs, &args.copies});
}

}  // namespace airank_fast
