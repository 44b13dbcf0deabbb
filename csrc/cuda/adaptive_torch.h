// torch's side of an adaptive optimizer for CUDA tensors: checks, addresses, the current stream.
#pragma once

#include "../adaptive_args.h"
#include "adaptive.h"
#include "binding.h"

namespace airank_fast {

template <typename Formula>
void run_adaptive_cuda(const char* op, const std::array<const char*, Formula::kStates>& state_names,
                       AdaptiveArgs<Formula> args, const AdaptiveTensors& tensors,
                       const typename Formula::Options& options,
                       cudaError_t (*launcher)(const AdaptiveLaunch<Formula>&, cudaStream_t)) {
  check_adaptive(op, state_names, args, tensors);
  if (args.params.empty()) return;
  const OnDevice device(args.params[0]);
  FlatViews views = flatten(args);

  LauncherLists lists;
  AdaptiveLaunch<Formula> step;
  lists.describe(args, step);
  for (int s = 0; s < Formula::kStates; ++s) step.states[s] = lists.addresses(args.states[s]);
  step.steps = lists.addresses(args.steps);
  step.lr = address_of(tensors.lr);
  step.grad_scale = address_of(tensors.grad_scale);
  step.found_inf = address_of(tensors.found_inf);
  step.options = options;
  Tensor workspace =
      empty_beside(args.params[0], {adaptive_workspace<Formula>(step.num_tensors)}, ScalarType::Double);
  step.workspace = static_cast<double*>(workspace.data_ptr());

  check_launch(op, launcher(step, device.stream()));
  views.copy_back();
}

}  // namespace airank_fast
