// Runs CUDA kernels on the CPU: what csrc/cuda/compat.cuh includes where the compiler is not nvcc.
//
// Each CUDA thread is a fiber: a stack of its own, and a switch wherever it waits (__syncthreads, __syncwarp, shuffles,
// votes). Blocks run one after another, all on the thread that launches. Which thread runs next is up to the schedule,
// because a kernel with a missing barrier is right under some orders. Shared memory begins as 0xFF (NaN in every
// floating type), with gaps between the arrays. AddressSanitizer gets the stacks and gaps; ThreadSanitizer sees
// each CUDA thread as a thread, and nothing but barriers, __syncwarp and __threadfence orders their memory accesses:
// not shuffles, not atomics. The scheduler is cuda_on_cpu.cpp.
//
// Misuse ends the launch with cudaErrorLaunchFailure and a line on stderr: threads that wait for ever, different
// barriers in the two branches of an if, a thread that left before a barrier, lanes missing from a mask.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

// A last parameter with the line of a call, which distinguishes two barriers and is in messages.
#define CUDA_ON_CPU_AT int line = __builtin_LINE()

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __global__
#define __global__ __attribute__((noinline, noclone))  // each instantiation is a symbol: test_nvrtc.py lists them

namespace cuda_on_cpu {

// The position of the running thread.
struct Here {
  uint3 thread, block;
  dim3 block_size, grid_size;
};
extern Here here;

enum class Schedule { kAscending, kDescending, kPriority, kRandom };
constexpr int kNumSchedules = 4;

// From the next launch on. Without a call the environment decides: CUDA_ON_CPU_SCHEDULE=ascending|descending|
// priority|random and CUDA_ON_CPU_SEED=number; without it, ascending. The blocks are permuted alike.
void set_schedule(Schedule schedule, unsigned long seed);
const char* name_of(Schedule schedule);

cudaError_t run(dim3 grid, dim3 block, size_t smem_bytes, void (*body)(void*), void* closure);
void allow_smem(const void* kernel, size_t bytes);
size_t allowed_smem(const void* kernel);

// Shared memory of the running block; `key` stands for the variable.
void* shared_array(const void* key, size_t bytes, size_t alignment);
void* dynamic_smem();

enum class BarrierKind { kPlain, kCount, kAnd, kOr };
int block_barrier(BarrierKind kind, int predicate, int line);

enum class WarpKind { kSync, kShuffle, kShuffleUp, kShuffleDown, kShuffleXor, kBallot, kAll, kAny, kMatch };
// The result for this lane once all lanes of `mask` have arrived.
uint64_t warp_meet(WarpKind kind, unsigned mask, uint64_t value, int parameter, int width, int line);
void fence(bool whole_device);
[[noreturn]] void trap(int line);

template <typename T>
inline T shuffle(WarpKind kind, unsigned mask, T value, int parameter, int width, int line) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  bits = warp_meet(kind, mask, bits, parameter, width, line);
  __builtin_memcpy(&value, &bits, sizeof(T));
  return value;
}

// Copies the arguments for the running thread, unseen by ThreadSanitizer, which takes long over kilobytes.
template <typename... Params, size_t... kIndices>
#if defined(__x86_64__) && defined(__SANITIZE_THREAD__)
__attribute__((no_sanitize("thread"), target("inline-all-stringops")))  // a call of memcpy would be seen, too
#endif
void call(void (*kernel)(Params...), const std::tuple<Params...>& values, std::index_sequence<kIndices...>) {
  kernel(std::get<kIndices>(values)...);
}

}  // namespace cuda_on_cpu

#define threadIdx (::cuda_on_cpu::here.thread)
#define blockIdx (::cuda_on_cpu::here.block)
#define blockDim (::cuda_on_cpu::here.block_size)
#define gridDim (::cuda_on_cpu::here.grid_size)
#define warpSize 32

#define SHARED(type, name, extent)                                                                      \
  typedef type name##_in_shared_memory extent;                                                          \
  static char name##_key_;                                                                              \
  name##_in_shared_memory& name = *static_cast<name##_in_shared_memory*>(::cuda_on_cpu::shared_array(    \
      &name##_key_, sizeof(name##_in_shared_memory), alignof(name##_in_shared_memory)))
#define DYN_SMEM(type, name) type* name = static_cast<type*>(::cuda_on_cpu::dynamic_smem())

inline void __syncthreads(CUDA_ON_CPU_AT) {
  ::cuda_on_cpu::block_barrier(::cuda_on_cpu::BarrierKind::kPlain, 0, line);
}
inline int __syncthreads_count(int predicate, CUDA_ON_CPU_AT) {
  return ::cuda_on_cpu::block_barrier(::cuda_on_cpu::BarrierKind::kCount, predicate, line);
}
inline int __syncthreads_and(int predicate, CUDA_ON_CPU_AT) {
  return ::cuda_on_cpu::block_barrier(::cuda_on_cpu::BarrierKind::kAnd, predicate, line);
}
inline int __syncthreads_or(int predicate, CUDA_ON_CPU_AT) {
  return ::cuda_on_cpu::block_barrier(::cuda_on_cpu::BarrierKind::kOr, predicate, line);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_ON_CPU_AT) {
  ::cuda_on_cpu::warp_meet(::cuda_on_cpu::WarpKind::kSync, mask, 0, 0, 32, line);
}
inline void __threadfence() { ::cuda_on_cpu::fence(true); }
inline void __threadfence_system() { ::cuda_on_cpu::fence(true); }
inline void __threadfence_block() { ::cuda_on_cpu::fence(false); }
[[noreturn]] inline void __trap(CUDA_ON_CPU_AT) { ::cuda_on_cpu::trap(line); }

template <typename T>
inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, CUDA_ON_CPU_AT) {
  return ::cuda_on_cpu::shuffle(::cuda_on_cpu::WarpKind::kShuffle, mask, value, lane, width, line);
}
template <typename T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_AT) {
  return ::cuda_on_cpu::shuffle(::cuda_on_cpu::WarpKind::kShuffleUp, mask, value, int(delta), width, line);
}
template <typename T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_CPU_AT) {
  return ::cuda_on_cpu::shuffle(::cuda_on_cpu::WarpKind::kShuffleDown, mask, value, int(delta), width, line);
}
template <typename T>
inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, CUDA_ON_CPU_AT) {
  return ::cuda_on_cpu::shuffle(::cuda_on_cpu::WarpKind::kShuffleXor, mask, value, lane_mask, width, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, CUDA_ON_CPU_AT) {
  return unsigned(::cuda_on_cpu::warp_meet(::cuda_on_cpu::WarpKind::kBallot, mask, predicate != 0, 0, 32, line));
}
inline int __all_sync(unsigned mask, int predicate, CUDA_ON_CPU_AT) {
  return int(::cuda_on_cpu::warp_meet(::cuda_on_cpu::WarpKind::kAll, mask, predicate != 0, 0, 32, line));
}
inline int __any_sync(unsigned mask, int predicate, CUDA_ON_CPU_AT) {
  return int(::cuda_on_cpu::warp_meet(::cuda_on_cpu::WarpKind::kAny, mask, predicate != 0, 0, 32, line));
}
template <typename T>
inline unsigned __match_any_sync(unsigned mask, T value, CUDA_ON_CPU_AT) {
  static_assert(sizeof(T) <= 8, "a match compares at most 8 bytes");
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(T));
  return unsigned(::cuda_on_cpu::warp_meet(::cuda_on_cpu::WarpKind::kMatch, mask, bits, 0, 32, line));
}

// Kernels with more than 48 KB of dynamic shared memory must say so first, as on a GPU. A template, because a host
// compiler does not convert a kernel to const void*; cuda_runtime.h has it for nvcc only.
template <typename... Params>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Params...), cudaFuncAttribute attribute, int value) {
  return ::cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

#include "intrinsics.h"

namespace airank_fast {

// The launch() of compat.cuh: the same limits and the same error codes as the CUDA runtime, then every thread.
template <typename... Params, typename... Args>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t smem_bytes, cudaStream_t, Args&&... args) {
  static_assert((sizeof(Params) + ... + 0) <= 32764, "kernel arguments must fit into what CUDA 12.1 and Volta take");
  if (smem_bytes > ::cuda_on_cpu::allowed_smem(reinterpret_cast<const void*>(kernel))) return cudaErrorInvalidValue;
  const std::tuple<Params...> values(static_cast<Params>(args)...);
  auto body = [&] { ::cuda_on_cpu::call(kernel, values, std::index_sequence_for<Params...>()); };
  const auto call = [](void* closure) { (*static_cast<decltype(body)*>(closure))(); };
  return ::cuda_on_cpu::run(grid, block, smem_bytes, call, &body);
}

}  // namespace airank_fast
