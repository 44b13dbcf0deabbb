// HOST_DEVICE: the attributes of a formula that is compiled for both devices.
//
// Always inlined: on a GPU because a call would spill registers, on a CPU because the formula must be
// compiled again inside each instruction-set variant of the loop that uses it (see cpu/isa.h).
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define HOST_DEVICE __host__ __device__ __forceinline__
#else
#define HOST_DEVICE inline __attribute__((always_inline))
#endif

#ifdef __CUDACC_RTC__  // NVRTC has no host compiler to borrow these from
#define __builtin_huge_val() __longlong_as_double(0x7ff0000000000000ll)
#define __builtin_huge_valf() __int_as_float(0x7f800000)
#define __builtin_inf() __builtin_huge_val()
#define __builtin_inff() __builtin_huge_valf()
#define __builtin_nan(text) __longlong_as_double(0x7ff8000000000000ll)
#define __builtin_nanf(text) __int_as_float(0x7fc00000)
#endif
