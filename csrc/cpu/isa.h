// One binary for every x86-64: a loop is compiled for AVX-512, for AVX2 and for the baseline, and the best
// that the processor has is chosen at run time. On other processors there is the baseline alone, which is
// what the compiler was told to build for.
//
// A loop is a struct with a static, always inlined `run`; choose<Loop>() returns a plain function pointer.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
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
  static void baseline(Args... args) { Loop::run(args...); }
#ifdef AIRANK_FAST_X86_VARIANTS
  TARGET_AVX2 static void avx2(Args... args) { Loop::run(args...); }
  TARGET_AVX512 static void avx512(Args... args) { Loop::run(args...); }
#endif
};

template <typename Loop>
auto choose() {
  using All = Variants<Loop, typename Loop::Signature>;
#ifdef AIRANK_FAST_X86_VARIANTS
  static const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                 __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (has_avx512) return &All::avx512;
  if (has_avx2) return &All::avx2;
#endif
  return &All::baseline;
}

}  // namespace airank_fast
