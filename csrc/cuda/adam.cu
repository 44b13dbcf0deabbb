// Adam and AdamW on the GPU.
#include "adam.h"

#include "adam.cuh"
#include "adaptive_launch.h"

namespace airank_fast {

cudaError_t launch_adam(const AdaptiveLaunch<Adam>& step, cudaStream_t stream) {
  return launch_adaptive(step, stream);
}

}  // namespace airank_fast
