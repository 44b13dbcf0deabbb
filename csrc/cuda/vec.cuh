// Numbers in device memory: conversion to and from float, and packs of N that move in one load or store.
#pragma once

#include "../host_device.h"
#include "compat.cuh"

namespace airank_fast {

// The type in which arithmetic on T is done.
template <typename T> struct MathType { using type = float; };
template <> struct MathType<double> { using type = double; };
template <> struct MathType<uint8_t> { using type = unsigned; };
template <typename T> using math_t = typename MathType<T>::type;

HOST_DEVICE unsigned load(uint8_t x) { return x; }
HOST_DEVICE float load(float x) { return x; }
HOST_DEVICE double load(double x) { return x; }
HOST_DEVICE float load(__half x) { return __half2float(x); }
HOST_DEVICE float load(__nv_bfloat16 x) { return __bfloat162float(x); }

// Round to nearest even; NaN stays NaN.
HOST_DEVICE void store(uint8_t* to, unsigned x) { *to = uint8_t(x); }
HOST_DEVICE void store(float* to, float x) { *to = x; }
HOST_DEVICE void store(double* to, double x) { *to = x; }
HOST_DEVICE void store(__half* to, float x) { *to = __float2half_rn(x); }
HOST_DEVICE void store(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }

// The same bits as another type.
template <typename To, typename From>
HOST_DEVICE To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(static_cast<void*>(&to), &from, sizeof(to));  // __half2 is no trivial type to g++
  return to;
}

// Two 16-bit numbers and the word that holds them, the first in the low half.
HOST_DEVICE float first_of(uint32_t word, __half) { return __low2float(bits_as<__half2>(word)); }
HOST_DEVICE float second_of(uint32_t word, __half) { return __high2float(bits_as<__half2>(word)); }
HOST_DEVICE float first_of(uint32_t word, __nv_bfloat16) { return bits_as<float>(word << 16); }
HOST_DEVICE float second_of(uint32_t word, __nv_bfloat16) { return bits_as<float>(word & 0xffff0000u); }
HOST_DEVICE uint32_t word_of(float first, float second, __half) {
  return bits_as<uint32_t>(__floats2half2_rn(first, second));
}
HOST_DEVICE uint32_t word_of(float first, float second, __nv_bfloat16) {
  return bits_as<uint32_t>(__floats2bfloat162_rn(first, second));
}

// The type that holds so many bytes, and the part of them that one instruction moves.
template <int kBytes> struct Words { using Word = uint32_t; using Move = uint4; };
template <> struct Words<8> { using Word = uint32_t; using Move = uint2; };
template <> struct Words<4> { using Word = uint32_t; using Move = uint32_t; };
template <> struct Words<2> { using Word = uint16_t; using Move = uint16_t; };
template <> struct Words<1> { using Word = uint8_t; using Move = uint8_t; };

// N numbers that move in one instruction, or in several of 16 bytes, where they are aligned to what it moves. They stay
// words until they are used: a compiler unpacks single numbers right after their load, so that the next load waits for
// the data of this one, and does not always pack them again for one store.
template <typename T, int N>
struct Pack {
  static constexpr int kBytes = sizeof(T) * N;
  using Word = typename Words<kBytes>::Word;
  using Move = typename Words<kBytes>::Move;
  static constexpr int kPerWord = sizeof(T) < sizeof(Word) ? sizeof(Word) / sizeof(T) : 1;
  Word words[kBytes / sizeof(Word)];

  // Number k, in the type of its arithmetic.
  HOST_DEVICE math_t<T> get(int k) const {
    if constexpr (sizeof(T) == 8) return bits_as<T>(uint64_t(words[2 * k + 1]) << 32 | words[2 * k]);
    else if constexpr (kPerWord == 1) return load(bits_as<T>(words[k]));
    else if constexpr (sizeof(T) == 1) return words[k / kPerWord] >> (k % kPerWord * 8) & 0xff;
    else return k % 2 ? second_of(words[k / 2], T()) : first_of(words[k / 2], T());
  }
};

// All numbers, rounded as `store` does.
template <typename T, int N>
HOST_DEVICE Pack<T, N> pack_of(const math_t<T> (&x)[N]) {
  using Word = typename Pack<T, N>::Word;
  constexpr int kPerWord = Pack<T, N>::kPerWord;
  Pack<T, N> pack;
#pragma unroll
  for (int k = 0; k < N; k += kPerWord) {
    Word& word = pack.words[k * sizeof(T) / sizeof(Word)];
    if constexpr (sizeof(T) == 8) {
      const auto bits = bits_as<uint64_t>(x[k]);
      word = Word(bits), (&word)[1] = Word(bits >> 32);
    } else if constexpr (kPerWord == 1) {
      T rounded;
      store(&rounded, x[k]);
      word = bits_as<Word>(rounded);
    } else if constexpr (sizeof(T) == 1) {
      word = 0;
      for (int i = 0; i < kPerWord; ++i) word |= Word(x[k + i] << (8 * i));
    } else {
      word = word_of(x[k], x[k + 1], T());
    }
  }
  return pack;
}

template <int N, typename T>
HOST_DEVICE Pack<T, N> load_pack(const T* from) {
  using Move = typename Pack<T, N>::Move;
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < int(sizeof(pack) / sizeof(Move)); ++i) {
    const Move move = reinterpret_cast<const Move*>(from)[i];
    memcpy(reinterpret_cast<unsigned char*>(pack.words) + i * sizeof(move), &move, sizeof(move));
  }
  return pack;
}

// To global memory.
template <typename T, int N>
HOST_DEVICE void store_pack(T* to, const Pack<T, N>& pack) {
  using Move = typename Pack<T, N>::Move;
#pragma unroll
  for (int i = 0; i < int(sizeof(pack) / sizeof(Move)); ++i) {
    Move move;
    memcpy(&move, reinterpret_cast<const unsigned char*>(pack.words) + i * sizeof(move), sizeof(move));
    store_at_once(reinterpret_cast<Move*>(to) + i, move);
  }
}

// Parameter number k: the master where there are 16-bit copies, or the copy where that differs from the rounded master.
// Then other code has written the copy since the last step, as by loading a checkpoint.
template <typename P, typename C, int N>
HOST_DEVICE math_t<P> newest_of(const Pack<P, N>& params, const Pack<C, N>& copies, int k) {
  const math_t<P> param = params.get(k);
  if constexpr (sizeof(C) != 2) {
    return param;
  } else {
    const float written = copies.get(k);
    C rounded;
    store(&rounded, param);
    return load(rounded) == written ? param : written;
  }
}

template <int N, typename T>
HOST_DEVICE bool is_aligned(const T* pointer) {
  return reinterpret_cast<unsigned long long>(pointer) % sizeof(typename Pack<T, N>::Move) == 0;
}

}  // namespace airank_fast
