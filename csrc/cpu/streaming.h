// Stores past the cache. A plain store first reads the line that it overwrites, and then evicts another from the cache;
// for a result too large to stay there that read is wasted, a third of all bytes moved.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "../host_device.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace airank_fast {

constexpr int64_t kLineBytes = 64;
// Results from this size on go past the cache: of smaller ones much may still be there when the next op reads them.
constexpr int64_t kStreamedBytes = 4 << 20;

// Whether a result of rows of row_bytes each is stored past the cache: it is large, and its rows are whole lines.
inline bool streams(const void* result, int64_t rows, int64_t row_bytes) {
#if defined(__x86_64__)
  return rows * row_bytes >= kStreamedBytes && row_bytes % kLineBytes == 0 &&
         reinterpret_cast<uintptr_t>(result) % kLineBytes == 0;
#else
  return false;
#endif
}

// Copies whole lines, past the cache. The thread must end with stream_end().
HOST_DEVICE void stream(void* to, const void* from, int64_t num_bytes) {
#if defined(__x86_64__)
  __m128i* lines = static_cast<__m128i*>(to);
  const __m128i* values = static_cast<const __m128i*>(from);
  for (int64_t i = 0; i < num_bytes / 16; ++i) _mm_stream_si128(lines + i, _mm_load_si128(values + i));
#else
  std::memcpy(to, from, num_bytes);
#endif
}

// A buffer of `count` elements on lines of its own, which stays in L1; nullptr for 0.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : room_(count ? count + kLineBytes / sizeof(T) : 0) {}

  T* data() {
    if (room_.empty()) return nullptr;
    const uintptr_t start = reinterpret_cast<uintptr_t>(room_.data());
    return reinterpret_cast<T*>((start + kLineBytes - 1) / kLineBytes * kLineBytes);
  }

 private:
  std::vector<T> room_;
};

HOST_DEVICE void stream_end() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace airank_fast
