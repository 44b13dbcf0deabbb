// FTRL-Proximal on the GPU: the kernels of adaptive.cuh with the formula in ftrl_math.h.
#pragma once

#include "../ftrl_math.h"
#include "adaptive.cuh"
