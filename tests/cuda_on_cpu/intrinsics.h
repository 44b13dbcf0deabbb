// Device functions that a host compiler lacks, for kernels run on the CPU; included by cuda_on_cpu.h. Approximate ones
// are exact here: their error is measured on a GPU, not in this emulation.
#pragma once

// ---- arithmetic --------------------------------------------------------------------------------
#if !defined(__GLIBC_PREREQ) || !__GLIBC_PREREQ(2, 42)  // from then on <cmath> has them
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
#endif
inline float normcdff(float x) { return 0.5f * std::erfc(-x * 0.70710678f); }
inline double normcdf(double x) { return 0.5 * std::erfc(-x * 0.70710678118654752440); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frsqrt_rn(float x) { return 1.0f / std::sqrt(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __fma_rn(double x, double y, double z) { return std::fma(x, y, z); }
// Macros, because glibc declares functions of these names that it does not define.
#define __expf(x) (::std::exp(float(x)))
#define __exp2f(x) (::std::exp2(float(x)))
#define __logf(x) (::std::log(float(x)))
#define __log2f(x) (::std::log2(float(x)))
#define __sinf(x) (::std::sin(float(x)))
#define __cosf(x) (::std::cos(float(x)))
#define __tanhf(x) (::std::tanh(float(x)))
#define __powf(x, y) (::std::pow(float(x), float(y)))

#define CUDA_ON_CPU_MIN_MAX(type)                                 \
  constexpr type min(type x, type y) { return y < x ? y : x; }    \
  constexpr type max(type x, type y) { return x < y ? y : x; }
CUDA_ON_CPU_MIN_MAX(int)
CUDA_ON_CPU_MIN_MAX(unsigned)
CUDA_ON_CPU_MIN_MAX(long)
CUDA_ON_CPU_MIN_MAX(unsigned long)
CUDA_ON_CPU_MIN_MAX(long long)
CUDA_ON_CPU_MIN_MAX(unsigned long long)
#undef CUDA_ON_CPU_MIN_MAX
inline float min(float x, float y) { return std::fmin(x, y); }
inline float max(float x, float y) { return std::fmax(x, y); }
inline double min(double x, double y) { return std::fmin(x, y); }
inline double max(double x, double y) { return std::fmax(x, y); }

// ---- bits --------------------------------------------------------------------------------------
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned((uint64_t(x) * y) >> 32); }
inline int __mulhi(int x, int y) { return int((int64_t(x) * y) >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
  return (unsigned long long)(((unsigned __int128)x * y) >> 64);
}
inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= ((x >> bit) & 1u) << (31 - bit);
  return reversed;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return unsigned((((uint64_t(high) << 32) | low) << (shift & 31)) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned(((uint64_t(high) << 32) | low) >> (shift & 31));
}

#define CUDA_ON_CPU_SAME_BITS(name, To, From)   \
  inline To name(From x) {                      \
    To y;                                       \
    static_assert(sizeof(x) == sizeof(y), "");  \
    __builtin_memcpy(&y, &x, sizeof(y));        \
    return y;                                   \
  }
CUDA_ON_CPU_SAME_BITS(__float_as_uint, unsigned, float)
CUDA_ON_CPU_SAME_BITS(__float_as_int, int, float)
CUDA_ON_CPU_SAME_BITS(__uint_as_float, float, unsigned)
CUDA_ON_CPU_SAME_BITS(__int_as_float, float, int)
CUDA_ON_CPU_SAME_BITS(__double_as_longlong, long long, double)
CUDA_ON_CPU_SAME_BITS(__longlong_as_double, double, long long)
#undef CUDA_ON_CPU_SAME_BITS

// ---- memory ------------------------------------------------------------------------------------
// Ordinary loads and stores, seen by the sanitizers as such. Alignment is that of the type: UBSan checks it.
#define CUDA_ON_CPU_LOAD(name) \
  template <typename T>        \
  inline T name(const T* from) { return *from; }
CUDA_ON_CPU_LOAD(__ldg)
CUDA_ON_CPU_LOAD(__ldca)
CUDA_ON_CPU_LOAD(__ldcg)
CUDA_ON_CPU_LOAD(__ldcs)
CUDA_ON_CPU_LOAD(__ldlu)
CUDA_ON_CPU_LOAD(__ldcv)
#undef CUDA_ON_CPU_LOAD
#define CUDA_ON_CPU_STORE(name)                 \
  template <typename T>                         \
  inline void name(T* to, std::type_identity_t<T> value) { *to = value; }
CUDA_ON_CPU_STORE(__stcg)
CUDA_ON_CPU_STORE(__stcs)
CUDA_ON_CPU_STORE(__stwb)
CUDA_ON_CPU_STORE(__stwt)
#undef CUDA_ON_CPU_STORE

// ---- atomics -----------------------------------------------------------------------------------
// Relaxed, as on a GPU: two of them never race with one another, and they order nothing else.
namespace cuda_on_cpu {

template <typename T, typename Update>
inline T atomically(T* at, Update update) {
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
  static_assert(sizeof(T) == sizeof(Bits), "atomics are of 2, 4 or 8 bytes");
  Bits* bits = reinterpret_cast<Bits*>(at);
  Bits old_bits = __atomic_load_n(bits, __ATOMIC_RELAXED), new_bits;
  T old_value;
  do {
    __builtin_memcpy(&old_value, &old_bits, sizeof(T));
    const T new_value = update(old_value);
    __builtin_memcpy(&new_bits, &new_value, sizeof(T));
  } while (!__atomic_compare_exchange_n(bits, &old_bits, new_bits, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old_value;
}

template <typename T> using Same = std::type_identity_t<T>;

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_ATOMIC(name, expression)                                               \
  template <typename T>                                                                    \
  inline T name(T* at, ::cuda_on_cpu::Same<T> value) {                                     \
    return ::cuda_on_cpu::atomically(at, [value](T old) { return T(expression); });        \
  }
CUDA_ON_CPU_ATOMIC(atomicAdd, old + value)
CUDA_ON_CPU_ATOMIC(atomicSub, old - value)
CUDA_ON_CPU_ATOMIC(atomicMax, old < value ? value : old)
CUDA_ON_CPU_ATOMIC(atomicMin, value < old ? value : old)
CUDA_ON_CPU_ATOMIC(atomicOr, old | value)
CUDA_ON_CPU_ATOMIC(atomicAnd, old & value)
CUDA_ON_CPU_ATOMIC(atomicXor, old ^ value)
CUDA_ON_CPU_ATOMIC(atomicExch, ((void)old, value))
CUDA_ON_CPU_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
CUDA_ON_CPU_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
#undef CUDA_ON_CPU_ATOMIC
template <typename T>
inline T atomicCAS(T* at, ::cuda_on_cpu::Same<T> compare, ::cuda_on_cpu::Same<T> value) {
  return ::cuda_on_cpu::atomically(at, [=](T old) { return old == compare ? value : old; });
}
