// Adam and AdamW on the GPU: the kernels of adaptive.cuh with the formula in adam_math.h.
#pragma once

#include "../adam_math.h"
#include "adaptive.cuh"
