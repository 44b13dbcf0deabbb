// FTRL-Proximal on the GPU.
#include "ftrl.h"

#include "adaptive_launch.h"
#include "ftrl.cuh"

namespace airank_fast {

cudaError_t launch_ftrl(const AdaptiveLaunch<Ftrl>& step, cudaStream_t stream) {
  return launch_adaptive(step, stream);
}

}  // namespace airank_fast
