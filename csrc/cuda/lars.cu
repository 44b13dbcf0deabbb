// LARS on the GPU: chooses the kernels for the dtypes and cuts the list into launches. Free of torch, so that tests
// can compile it for the CPU.
#include "lars.h"

#include "lars.cuh"
#include "optimizer_dtypes.h"

namespace airank_fast {
namespace {

// The offset of the sums in the workspace, in numbers of 8 bytes; before them are the rates.
constexpr int64_t kSumsAt = (LarsTable::kCapacity + 1) / 2 * 2;

template <typename P, typename G, typename C>
cudaError_t run(const LarsLaunch& step, cudaStream_t stream) {
  const LarsSettings settings{device_scalar(step.lr),
                              device_scalar(step.grad_scale),
                              device_scalar(step.found_inf),
                              step.momentum,
                              step.weight_decay,
                              step.trust_coefficient,
                              step.eps,
                              step.nesterov};
  double* const rates = step.adapt ? step.workspace : nullptr;
  Sums* const sums = reinterpret_cast<Sums*>(step.workspace + kSumsAt);
  void* const* lists[kLarsDepth] = {step.params, step.grads, step.velocities, step.copies};
  return for_each_table<kLarsDepth, 30000>(
      step.num_tensors, kLarsChunk, [&](int64_t i) { return step.sizes[i]; },
      [&](int64_t i, int d) { return lists[d] ? lists[d][i] : nullptr; },
      [&](const LarsTable& table) {
        const dim3 chunks(table.num_blocks), threads(kLarsThreads);
        if (rates) {
          cudaError_t error =
              launch(lars_norms_kernel<P, G, C>, chunks, threads, 0, stream, table, settings.found_inf, sums);
          if (error != cudaSuccess) return error;
          error = launch(lars_rates_kernel<kLarsRateThreads>, dim3(table.num_tensors), dim3(kLarsRateThreads), 0,
                         stream, table,
                         settings, sums, rates);
          if (error != cudaSuccess) return error;
        }
        return launch(lars_update_kernel<P, G, C>, chunks, threads, 0, stream, table, settings, rates);
      });
}

}  // namespace

int64_t lars_workspace(int64_t num_tensors, const int64_t* sizes) {
  return kSumsAt + 2 * num_chunks(num_tensors, sizes, kLarsChunk);
}

cudaError_t launch_lars(const LarsLaunch& step, cudaStream_t stream) {
  return with_optimizer_types(step.param_dtype, step.grad_dtype, step.copy_dtype,
                              [&]<typename P, typename G, typename C>() { return run<P, G, C>(step, stream); });
}

}  // namespace airank_fast
