// The FTRL launcher as plain C++, for the torch registration and the tests.
#pragma once

#include "../ftrl_math.h"
#include "adaptive.h"

namespace airank_fast {

// Enqueues the step on `stream` of the current device, without waiting.
cudaError_t launch_ftrl(const AdaptiveLaunch<Ftrl>& step, cudaStream_t stream);

}  // namespace airank_fast
