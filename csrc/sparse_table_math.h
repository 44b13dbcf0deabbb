// What sums over the look-ups of a table have in common on the CPU and the GPU.
#pragma once

namespace airank_fast {

// Gradients of a row in one partial sum, so that the error of a sum does not grow with its length.
constexpr int kTableRun = 256;

}  // namespace airank_fast
