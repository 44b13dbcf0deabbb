// The shared memory of the block that the emulator runs; included by cuda_on_cpu.cpp. It is 0xFF at first, which is
// NaN in every floating type; behind each array is a gap, poisoned for AddressSanitizer and checked at the end.
#pragma once

#include "fiber.h"

namespace cuda_on_cpu {

class SharedMemory {
 public:
  static constexpr size_t kStaticBytes = 48 << 10, kDynamicBytes = 227 << 10;
  static constexpr int kMaxArrays = 64;

  void open(size_t dynamic_bytes) {
    num_arrays_ = 0;
    static_bytes_ = 0;
    dynamic_bytes_ = dynamic_bytes;
    // To ThreadSanitizer each block's memory is new: it has no history.
    if (arena_ == nullptr) arena_ = static_cast<char*>(pages(arena_bytes(with_tsan() ? dynamic_bytes : kDynamicBytes)));
    poison(arena_, arena_bytes(dynamic_bytes), true);
    poison(dynamic(), dynamic_bytes, false);
    if (dynamic_bytes) fill(dynamic(), dynamic_bytes + kGap);
  }

  // False where something was written behind an array.
  bool close() {
    bool good = dynamic_bytes_ == 0 || is_untouched(dynamic() + dynamic_bytes_, kGap);
    for (int i = 0; i < num_arrays_; ++i)
      good = good && is_untouched(arrays_[i].at + arrays_[i].bytes, gap_behind(arrays_[i].bytes));
    forget();
    return good;
  }

  void forget() {
    if (!with_tsan() || arena_ == nullptr) return;
    munmap(arena_, arena_bytes(dynamic_bytes_));
    arena_ = nullptr;
  }

  // The array that belongs to `key`; null where there is no room.
  void* array(const void* key, size_t bytes, size_t alignment) {
    for (int i = 0; i < num_arrays_; ++i)
      if (arrays_[i].key == key) return arrays_[i].at;
    if (alignment > kGap || num_arrays_ == kMaxArrays || static_bytes_ + bytes > kStaticBytes) return nullptr;
    char* at = arena_;
    if (num_arrays_ > 0) {
      const Array& last = arrays_[num_arrays_ - 1];
      at = last.at + last.bytes + gap_behind(last.bytes);
    }
    arrays_[num_arrays_++] = {key, at, bytes};
    static_bytes_ += bytes;
    fill(at, bytes + gap_behind(bytes));
    poison(at, bytes, false);
    return at;
  }

  char* dynamic() { return arena_ + kStaticArenaBytes; }

 private:
  static constexpr size_t kGap = 256, kStaticArenaBytes = kStaticBytes + kMaxArrays * 2 * kGap;

  struct Array {
    const void* key;
    char* at;
    size_t bytes;
  };

  // So long that the next array is aligned to kGap.
  static size_t gap_behind(size_t bytes) { return 2 * kGap - bytes % kGap; }
  static size_t arena_bytes(size_t dynamic_bytes) { return kStaticArenaBytes + dynamic_bytes + kGap; }

  // Not memset: that would be seen as the running thread's access.
  static void fill(char* at, size_t bytes) {
#if defined(__x86_64__)
    asm volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(0xff) : "memory");
#else
    for (size_t i = 0; i < bytes; ++i) reinterpret_cast<volatile char*>(at)[i] = char(0xff);
#endif
  }

  static bool is_untouched(const char* at, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i)
      if (at[i] != char(0xff)) return false;
    return true;
  }

  static void poison(char* at, size_t bytes, bool poisoned) {
    if (!with_asan()) return;
    if (poisoned) __asan_poison_memory_region(at, bytes);
    else __asan_unpoison_memory_region(at, bytes);
  }

  char* arena_ = nullptr;  // the static arrays, then the dynamic one
  Array arrays_[kMaxArrays];
  int num_arrays_ = 0;
  size_t static_bytes_ = 0, dynamic_bytes_ = 0;
};

}  // namespace cuda_on_cpu
