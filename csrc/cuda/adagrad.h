// The Adagrad launcher as plain C++, for the torch registration and the tests.
#pragma once

#include "../adagrad_math.h"
#include "adaptive.h"

namespace airank_fast {

// Enqueues the step on `stream` of the current device, without waiting.
cudaError_t launch_adagrad(const AdaptiveLaunch<Adagrad>& step, cudaStream_t stream);

}  // namespace airank_fast
