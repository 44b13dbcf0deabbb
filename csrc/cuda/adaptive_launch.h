// Chooses an adaptive optimizer's kernels for the dtypes and cuts the list into launches: the body of adam.cu,
// adagrad.cu and ftrl.cu. Free of torch, so that tests can compile it for the CPU.
#pragma once

#include "adaptive.cuh"
#include "adaptive.h"
#include "optimizer_dtypes.h"

namespace airank_fast {

template <typename Formula, typename P, typename G, typename C>
cudaError_t launch_as(const AdaptiveLaunch<Formula>& step, cudaStream_t stream) {
  using Scalars = typename Formula::template Scalars<math_t<P>>;
  const AdaptiveDeviceScalars device{device_scalar(step.lr), device_scalar(step.grad_scale),
                                     device_scalar(step.found_inf)};
  Scalars* const scalars = reinterpret_cast<Scalars*>(step.workspace);

  int64_t num_counted = 0;
  const cudaError_t error = for_each_table<1, 30000>(
      step.num_tensors, 1, [](int64_t) { return 1; }, [&](int64_t i, int) { return step.steps[i]; },
      [&](const AdaptiveCounts& table) {
        Scalars* const to = scalars + num_counted;
        num_counted += table.num_tensors;
        const dim3 blocks(unsigned(ceil_div(table.num_tensors, kAdaptiveCountThreads)));
        return launch(adaptive_scalars_kernel<Formula, math_t<P>>, blocks, dim3(kAdaptiveCountThreads), 0, stream,
                      table, step.options, device, to);
      });
  if (error != cudaSuccess) return error;

  void* const* const second = Formula::kStates > 1 ? step.states[Formula::kStates - 1] : nullptr;
  void* const* lists[] = {step.params, step.grads, step.states[0], second, step.copies};
  static_assert(sizeof(lists) / sizeof(lists[0]) == kAdaptiveScalars);
  return for_each_table<kAdaptiveDepth, 30000>(
      step.num_tensors, kAdaptiveChunk, [&](int64_t i) { return step.sizes[i]; },
      [&](int64_t i, int d) -> void* {
        if (d == kAdaptiveScalars) return scalars + i;
        return lists[d] ? lists[d][i] : nullptr;
      },
      [&](const AdaptiveTable& table) {
        return launch(adaptive_update_kernel<Formula, P, G, C>, dim3(table.num_blocks), dim3(kAdaptiveThreads), 0,
                      stream, table, device.found_inf);
      });
}

template <typename Formula>
cudaError_t launch_adaptive(const AdaptiveLaunch<Formula>& step, cudaStream_t stream) {
  return with_optimizer_types(
      step.param_dtype, step.grad_dtype, step.copy_dtype,
      [&]<typename P, typename G, typename C>() { return launch_as<Formula, P, G, C>(step, stream); });
}

}  // namespace airank_fast
