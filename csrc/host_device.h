// HOST_DEVICE: what a formula needs in front of it to be compiled for both devices.
//
// Always inlined: on a GPU because a call would spill registers, on a CPU because the formula must be
// compiled anew inside each instruction-set variant of the loop that uses it (see cpu/isa.h).
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define HOST_DEVICE __host__ __device__ __forceinline__
#else
#define HOST_DEVICE inline __attribute__((always_inline))
#endif
