// Macros by which three compilers take one kernel source: nvcc, NVRTC (a compile check for architectures that nvcc
// has dropped) and a host compiler that runs the kernels on the CPU under sanitizers in tests.
//
//   SHARED(float, sums, [32]);   shared memory of fixed size, in place of `__shared__ float sums[32]`
//   DYN_SMEM(float, row);        the dynamic shared memory, as a pointer
//   store_at_once(to, x);        one store instruction to global memory
//   load_relaxed(from);          a number that other threads change by atomics meanwhile
//   launch(kernel, grid, block, smem_bytes, stream, arguments...)   in place of <<< >>>
//
// Kernels use only what all three have: cuda_fp16.h, cuda_bf16.h and the headers here, warp intrinsics with explicit
// masks, inline PTX in this file alone, no cooperative groups, no spinning. 16-bit arithmetic is done in float.
#pragma once

#include "../host_device.h"

#if defined(__CUDACC_RTC__) || defined(__CUDACC__)

#define SHARED(type, name, extent) __shared__ type name extent
#define DYN_SMEM(type, name)                                     \
  extern __shared__ __align__(16) unsigned char dynamic_smem_[]; \
  type* name = reinterpret_cast<type*>(dynamic_smem_)

#else
// The tests' emulator: defines SHARED, DYN_SMEM, launch, threadIdx, __launch_bounds__ and the rest.
#include "cuda_on_cpu.h"
#endif

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#ifdef __CUDACC_RTC__
using int32_t = int;
using int64_t = long long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long long;
#else
#include <cuda_runtime.h>

#include <cstdint>
#endif

namespace airank_fast {

// float16, as launchers name it. A build that checks addresses alone takes the other 16-bit type, whose kernels it then
// compiles once.
#ifdef AIRANK_FAST_ONE_16_BIT_TYPE
using Half = __nv_bfloat16;
#else
using Half = __half;
#endif

// nvcc may make four stores of an assignment of 16 bytes. __stwb is one store, but with stronger semantics than needed.
template <typename T>
HOST_DEVICE void store_at_once(T* to, T x) { *to = x; }
HOST_DEVICE void store_at_once(uint4* to, uint4 x) {
#ifdef __CUDA_ARCH__
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
#else
  *to = x;
#endif
}
HOST_DEVICE void store_at_once(uint2* to, uint2 x) {
#ifdef __CUDA_ARCH__
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(x.x), "r"(x.y) : "memory");
#else
  *to = x;
#endif
}

// From global memory, where the atomics of every thread are seen.
HOST_DEVICE uint32_t load_relaxed(const uint32_t* from) {
#ifdef __CUDA_ARCH__
  uint32_t x;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(x) : "l"(from) : "memory");
  return x;
#elif defined(__CUDACC_RTC__)
  return *from;  // no code for a host
#else
  return __atomic_load_n(from, __ATOMIC_RELAXED);
#endif
}
HOST_DEVICE float load_relaxed(const float* from) {
  const uint32_t bits = load_relaxed(reinterpret_cast<const uint32_t*>(from));
  float x;
  memcpy(&x, &bits, sizeof(x));
  return x;
}

}  // namespace airank_fast

#if defined(__CUDACC__) && !defined(__CUDACC_RTC__)
namespace airank_fast {

// Returns the launch's own error; an error inside the kernel shows at the next synchronisation.
template <typename... Params, typename... Args>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t smem_bytes, cudaStream_t stream,
                   Args&&... args) {
  kernel<<<grid, block, smem_bytes, stream>>>(static_cast<Params>(args)...);
  return cudaGetLastError();
}

}  // namespace airank_fast
#endif
