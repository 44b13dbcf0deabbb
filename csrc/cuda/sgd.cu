// SGD on the GPU: chooses the kernel for the dtypes and cuts the list into launches. Free of torch, so that
// tests can compile it for the CPU.
#include "sgd.h"

#include "optimizer_dtypes.h"
#include "sgd.cuh"

namespace airank_fast {
namespace {

template <bool kMomentum, typename P, typename G, typename C>
cudaError_t run(const SgdLaunch& step, cudaStream_t stream) {
  const SgdSettings settings{device_scalar(step.lr),
                             device_scalar(step.grad_scale),
                             device_scalar(step.found_inf),
                             step.momentum,
                             1.0 - step.dampening,
                             step.weight_decay,
                             step.nesterov,
                             step.maximize};
  void* const* lists[kSgdDepth] = {step.params, step.grads, step.buffers, step.copies};
  return for_each_table<kSgdDepth>(
      step.num_tensors, kSgdChunk, [&](int64_t i) { return step.sizes[i]; },
      [&](int64_t i, int d) { return lists[d] ? lists[d][i] : nullptr; },
      [&](const TensorTable<kSgdDepth>& table) {
        return launch(sgd_kernel<kMomentum, P, G, C>, dim3(table.num_blocks), dim3(kSgdThreads), 0, stream, table,
                      settings);
      });
}

template <typename P, typename G, typename C>
cudaError_t choose_momentum(const SgdLaunch& step, cudaStream_t stream) {
  return step.buffers ? run<true, P, G, C>(step, stream) : run<false, P, G, C>(step, stream);
}

}  // namespace

cudaError_t launch_sgd(const SgdLaunch& step, cudaStream_t stream) {
  const auto launch_with = [&]<typename P, typename G, typename C>() { return choose_momentum<P, G, C>(step, stream); };
  return with_optimizer_types(step.param_dtype, step.grad_dtype, step.copy_dtype, launch_with);
}

}  // namespace airank_fast
