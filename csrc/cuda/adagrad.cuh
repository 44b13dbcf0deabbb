// Adagrad on the GPU: the kernels of adaptive.cuh with the formula in adagrad_math.h.
#pragma once

#include "../adagrad_math.h"
#include "adaptive.cuh"
