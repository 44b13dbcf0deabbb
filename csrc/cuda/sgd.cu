// SGD on the GPU: chooses the kernel for the dtypes and cuts the list into launches. Free of torch, so that
// tests can compile it for the CPU. It has not run on a GPU yet.
#include "sgd.h"

#include "sgd.cuh"

namespace airank_fast {
namespace {

template <bool kMomentum, typename P, typename G, typename C>
cudaError_t run(const SgdLaunch& step, cudaStream_t stream) {
  const auto scalar = [](const ScalarAddress& a) { return DeviceScalar{a.pointer, a.is_double}; };
  const SgdSettings settings{scalar(step.lr),   scalar(step.grad_scale), scalar(step.found_inf),
                             step.momentum,     1.0 - step.dampening,    step.weight_decay,
                             step.nesterov,     step.maximize};
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

template <typename G>
cudaError_t choose_copy(const SgdLaunch& step, cudaStream_t stream) {
  switch (step.copy_dtype) {
    case Dtype::kNone: return choose_momentum<float, G, NoCopy>(step, stream);
    case Dtype::kBFloat16: return choose_momentum<float, G, __nv_bfloat16>(step, stream);
    case Dtype::kFloat16: return choose_momentum<float, G, __half>(step, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace

cudaError_t launch_sgd(const SgdLaunch& step, cudaStream_t stream) {
  switch (step.param_dtype) {
    case Dtype::kFloat64: return choose_momentum<double, double, NoCopy>(step, stream);
    case Dtype::kBFloat16: return choose_momentum<__nv_bfloat16, __nv_bfloat16, NoCopy>(step, stream);
    case Dtype::kFloat16: return choose_momentum<__half, __half, NoCopy>(step, stream);
    default: break;
  }
  switch (step.grad_dtype) {
    case Dtype::kFloat32: return choose_copy<float>(step, stream);
    case Dtype::kBFloat16: return choose_copy<__nv_bfloat16>(step, stream);
    case Dtype::kFloat16: return choose_copy<__half>(step, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace airank_fast
