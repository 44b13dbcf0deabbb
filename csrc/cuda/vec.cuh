// Numbers in device memory: conversion to and from float, and packs of N that move in one load or store.
#pragma once

#include "../host_device.h"
#include "compat.cuh"

namespace airank_fast {

// The type in which arithmetic on T is done.
template <typename T> struct MathType { using type = float; };
template <> struct MathType<double> { using type = double; };
template <typename T> using math_t = typename MathType<T>::type;

HOST_DEVICE float load(float x) { return x; }
HOST_DEVICE double load(double x) { return x; }
HOST_DEVICE float load(__half x) { return __half2float(x); }
HOST_DEVICE float load(__nv_bfloat16 x) { return __bfloat162float(x); }

// Round to nearest even; NaN stays NaN.
HOST_DEVICE void store(float* to, float x) { *to = x; }
HOST_DEVICE void store(double* to, double x) { *to = x; }
HOST_DEVICE void store(__half* to, float x) { *to = __float2half_rn(x); }
HOST_DEVICE void store(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }

// N numbers, aligned to their whole size but to no more than the 16 bytes that one instruction moves.
template <typename T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T at[N];
};

template <int N, typename T>
HOST_DEVICE Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <int N, typename T>
HOST_DEVICE void store_pack(T* to, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

template <int N, typename T>
HOST_DEVICE bool is_aligned(const T* pointer) {
  return reinterpret_cast<unsigned long long>(pointer) % alignof(Pack<T, N>) == 0;
}

}  // namespace airank_fast
