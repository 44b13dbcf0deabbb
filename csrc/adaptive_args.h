// The arguments of the adaptive optimizers, Adam, Adagrad and FTRL, checked and flattened the same way for every device.
//
// A formula, as Adam in adam_math.h, has
//   kStates                  how many arrays of state an element has, one or two
//   Options, Scalars<T>      its options on the host; the numbers of a step for one tensor
//   scalars<T>(options, lr, step, grad_scale)
//   step(param, grad, first, second, scalars)      of one element: the new parameter; updates the state
// Everything else is here, in cpu/adaptive.h and in cuda/adaptive.cuh. State is float32, or float64 of float64
// parameters. Each tensor counts its own steps, as in torch: it may have no gradient in some of them.
#pragma once

#include <array>
#include <optional>

#include "tensor_lists.h"

namespace airank_fast {

// The number of arrays of state is that of a formula; lists: parameters, gradients, state, step counts, 16-bit copies
// (or empty).
template <typename Formula>
struct AdaptiveArgs {
  TensorList params;
  TensorList grads;
  std::array<TensorList, Formula::kStates> states;
  TensorList steps;
  TensorList copies;
};

// The numbers of a step that are in device memory.
struct AdaptiveTensors {
  Tensor lr;
  std::optional<Tensor> grad_scale;
  std::optional<Tensor> found_inf;
};

template <typename Formula>
void check_adaptive(const char* op, const std::array<const char*, Formula::kStates>& state_names,
                    const AdaptiveArgs<Formula>& args, const AdaptiveTensors& on_device) {
  check_list(op, "params", args.params, args.params);
  check_list(op, "grads", args.grads, args.params);
  for (int s = 0; s < Formula::kStates; ++s) check_list(op, state_names[s], args.states[s], args.params);
  check_counts(op, "steps", args.steps, args.params);
  if (!args.copies.empty()) check_list(op, "copies", args.copies, args.params);
  if (args.params.empty()) return;

  check_dtypes(op, args.params, args.grads, args.copies);
  const bool is_double = args.params[0].scalar_type() == ScalarType::Double;
  for (int s = 0; s < Formula::kStates; ++s)
    check_list_dtype(op, state_names[s], args.states[s], is_double ? ScalarType::Double : ScalarType::Float);
  check_scalar(op, "lr", on_device.lr, args.params[0]);
  if (on_device.grad_scale) check_scalar(op, "grad_scale", *on_device.grad_scale, args.params[0]);
  if (on_device.found_inf) check_scalar(op, "found_inf", *on_device.found_inf, args.params[0]);
}

template <typename Formula>
FlatViews flatten(AdaptiveArgs<Formula>& args) {
  std::vector<TensorList*> written{&args.copies};
  for (TensorList& state : args.states) written.push_back(&state);
  return flatten(args.params, args.grads, written);
}

}  // namespace airank_fast
