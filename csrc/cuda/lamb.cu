// LAMB on the GPU: chooses the kernels for the dtypes and cuts the list into launches. Free of torch, so that tests
// can compile it for the CPU.
#include "lamb.h"

#include "lamb.cuh"
#include "optimizer_dtypes.h"

namespace airank_fast {
namespace {

// Offsets in the workspace, in numbers of 8 bytes.
constexpr int64_t kScalarsAt = 0, kRatesAt = 16, kSumsAt = kRatesAt + LambTable::kCapacity;
static_assert(sizeof(LambScalars<double>) <= 8 * kRatesAt && kSumsAt % 2 == 0);

template <typename P, typename G, typename C>
cudaError_t run(const LambLaunch& step, cudaStream_t stream) {
  using T = math_t<P>;
  const LambDeviceScalars device{device_scalar(step.lr), device_scalar(step.step), device_scalar(step.grad_norm),
                                 device_scalar(step.grad_scale), device_scalar(step.found_inf)};
  LambScalars<T>* const scalars = reinterpret_cast<LambScalars<T>*>(step.workspace + kScalarsAt);
  double* const rates = step.workspace + kRatesAt;
  Sums* const sums = reinterpret_cast<Sums*>(step.workspace + kSumsAt);
  const LambDecay decay = lamb_decay(step.options);
  const cudaError_t error =
      launch(lamb_scalars_kernel<T>, dim3(1), dim3(32), 0, stream, step.options, device, scalars);
  if (error != cudaSuccess) return error;

  void* const* lists[kLambDepth] = {step.params, step.grads, step.exp_avgs, step.exp_avg_sqs, step.copies};
  return for_each_table<kLambDepth, 30000>(
      step.num_tensors, kLambChunk, [&](int64_t i) { return step.sizes[i]; },
      [&](int64_t i, int d) { return lists[d] ? lists[d][i] : nullptr; },
      [&](const LambTable& table) {
        const dim3 chunks(table.num_blocks), threads(kLambThreads);
        cudaError_t error = launch(lamb_moments_kernel<P, G, C>, chunks, threads, 0, stream, table, decay,
                                   device.found_inf, scalars, sums);
        if (error != cudaSuccess) return error;
        error = launch(lamb_rates_kernel<kLambRateThreads>, dim3(table.num_tensors), dim3(kLambRateThreads), 0,
                       stream, table,
                       lamb_scales_tensors(step.options), device.lr, sums, rates);
        if (error != cudaSuccess) return error;
        return launch(lamb_update_kernel<P, C>, chunks, threads, 0, stream, table, decay, device.found_inf, scalars,
                      rates);
      });
}

}  // namespace

int64_t lamb_workspace(int64_t num_tensors, const int64_t* sizes) {
  return kSumsAt + 2 * num_chunks(num_tensors, sizes, kLambChunk);
}

cudaError_t launch_lamb(const LambLaunch& step, cudaStream_t stream) {
  return with_optimizer_types(step.param_dtype, step.grad_dtype, step.copy_dtype,
                              [&]<typename P, typename G, typename C>() { return run<P, G, C>(step, stream); });
}

}  // namespace airank_fast
