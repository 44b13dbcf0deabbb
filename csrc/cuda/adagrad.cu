// Adagrad on the GPU.
#include "adagrad.h"

#include "adagrad.cuh"
#include "adaptive_launch.h"

namespace airank_fast {

cudaError_t launch_adagrad(const AdaptiveLaunch<Adagrad>& step, cudaStream_t stream) {
  return launch_adaptive(step, stream);
}

}  // namespace airank_fast
