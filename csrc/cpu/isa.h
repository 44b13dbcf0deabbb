// One binary for every x86-64: a loop is compiled for AVX-512, for AVX2 and for the baseline, and the best
// that the processor has is chosen at run time (AVX512_BF16: see round_pairs.h). On other processors, and with
// AIRANK_FAST_BASELINE_ONLY, there is the baseline alone, the compiler's target.
//
// A loop is a struct with a static, always inlined `run`; choose<Loop>() returns a plain function pointer.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string_view>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(AIRANK_FAST_BASELINE_ONLY)
#define AIRANK_FAST_X86_VARIANTS 1
#define TARGET_AVX2 __attribute__((target("avx2,fma")))
#define TARGET_AVX512 \
  __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))
#endif

namespace airank_fast {

template <typename Loop, typename Signature>
struct Variants;

template <typename Loop, typename... Args>
struct Variants<Loop, void(Args...)> {
#ifdef AIRANK_FAST_X86_VARIANTS
  // For processors from before 2013, which deserve right results but not a fifth of the build's time.
  __attribute__((optimize("O1"))) static void baseline(Args... args) { Loop::run(args...); }
  TARGET_AVX2 static void avx2(Args... args) { Loop::run(args...); }
  TARGET_AVX512 static void avx512(Args... args) { Loop::run(args...); }
#else
  static void baseline(Args... args) { Loop::run(args...); }
#endif
};

// Each includes those before it.
enum class Isa { baseline, avx2, avx512, avx512_bf16 };
constexpr const char* kIsaNames[] = {"baseline", "AVX2", "AVX-512", "AVX-512 BF16"};

// ATEN_CPU_CAPABILITY limits torch's own kernels to those for an older processor: avx2 or default. It limits these too.
inline Isa environment_isa() {
  const char* value = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string_view name = value == nullptr ? "" : value;
  return name == "default" ? Isa::baseline : name == "avx2" ? Isa::avx2 : Isa::avx512_bf16;
}

inline Isa processor_isa() {
#ifdef AIRANK_FAST_X86_VARIANTS
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) return Isa::avx512_bf16;
  if (avx512) return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::baseline;
}

// For tests, which run on one processor the variants of others.
inline std::atomic<Isa> isa_limit{Isa::avx512_bf16};

inline Isa isa() {
  static const Isa has = std::min(processor_isa(), environment_isa());
  return std::min(has, isa_limit.load(std::memory_order_relaxed));
}

template <typename Loop>
auto choose() {
  using All = Variants<Loop, typename Loop::Signature>;
#ifdef AIRANK_FAST_X86_VARIANTS
  if (isa() >= Isa::avx512) return &All::avx512;
  if (isa() >= Isa::avx2) return &All::avx2;
#endif
  return &All::baseline;
}

// The same for loops whose number of floats in a vector is a parameter of theirs.
template <template <int> typename Loop>
auto choose_lanes() {
#ifdef AIRANK_FAST_X86_VARIANTS
  if (isa() >= Isa::avx512) return &Variants<Loop<16>, typename Loop<16>::Signature>::avx512;
  if (isa() >= Isa::avx2) return &Variants<Loop<8>, typename Loop<8>::Signature>::avx2;
#endif
  return &Variants<Loop<4>, typename Loop<4>::Signature>::baseline;
}

}  // namespace airank_fast
