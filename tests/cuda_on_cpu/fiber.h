// Fibers for the emulator: a stack and a way to switch to it, announced to the sanitizers where they are linked in.
//
// The emulator itself is compiled without sanitizers (its bookkeeping would show up as races); it finds their
// functions, which are weak here, at run time. So one object file serves plain, ASan and TSan programs.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

extern "C" {
#define WEAK __attribute__((weak))
WEAK void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size);
WEAK void __sanitizer_finish_switch_fiber(void* saved, const void** bottom, size_t* size);
WEAK void __asan_poison_memory_region(const volatile void* from, size_t size);
WEAK void __asan_unpoison_memory_region(const volatile void* from, size_t size);
WEAK void* __tsan_get_current_fiber();
WEAK void* __tsan_create_fiber(unsigned flags);
WEAK void __tsan_destroy_fiber(void* fiber);
WEAK void __tsan_switch_to_fiber(void* fiber, unsigned flags);
WEAK void __tsan_acquire(void* object);
WEAK void __tsan_release(void* object);
#undef WEAK
}

namespace cuda_on_cpu {

inline bool with_asan() { return __sanitizer_start_switch_fiber != nullptr; }
inline bool with_tsan() { return __tsan_create_fiber != nullptr; }

// Zeroed. From mmap, because to ThreadSanitizer malloc and free are accesses to the memory.
inline void* pages(size_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) abort();
  return at;
}

#if defined(__x86_64__)
// Saves what a call must preserve on the present stack, changes to the other one, and goes on there.
extern "C" void cuda_on_cpu_switch(void** save_stack, void* stack);
asm(R"(
.text
.type cuda_on_cpu_switch, @function
.hidden cuda_on_cpu_switch
.globl cuda_on_cpu_switch
cuda_on_cpu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_cpu_switch, .-cuda_on_cpu_switch
)");
#endif

// A default-constructed Fiber stands for whoever is running: the thread that launches.
struct Fiber {
  static constexpr size_t kStackBytes = 128 << 10;

#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  const void* bottom = nullptr;
  size_t size = 0;
  void* fake_stack = nullptr;  // ASan's
  void* tsan = nullptr;

  // Ready to run `entry`, which never returns. May be called again to forget what was left unfinished. `number`
  // staggers the stacks' tops: at equal offsets in their pages they would evict each other from the cache.
  void prepare(void (*entry)(), int number) {
    constexpr size_t kGuard = 4096;
    if (bottom == nullptr) {
      char* region = static_cast<char*>(pages(kGuard + kStackBytes));
      if (mprotect(region, kGuard, PROT_NONE) != 0) abort();
      bottom = region + kGuard;
      size = kStackBytes;
    }
    if (with_asan()) __asan_unpoison_memory_region(bottom, size);
    if (tsan != nullptr) __tsan_destroy_fiber(tsan);
    if (with_tsan()) tsan = __tsan_create_fiber(0);
    const size_t used = size - size_t(number % 31) * 128;
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>(static_cast<char*>(const_cast<void*>(bottom)) + used);
    *--top = nullptr;  // where entry would return to; below it the stack is aligned as after a call
    *--top = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    stack_pointer = top;
#else
    getcontext(&context);
    context.uc_stack.ss_sp = const_cast<void*>(bottom);
    context.uc_stack.ss_size = used;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
#endif
  }
};

inline Fiber* switched_from = nullptr;

// A fiber's first call whenever it runs (again). ASan returns the bounds of the stack that was left, among them
// those of the launching thread.
inline void arrived(Fiber& self) {
  if (with_asan()) __sanitizer_finish_switch_fiber(self.fake_stack, &switched_from->bottom, &switched_from->size);
}

inline void switch_fibers(Fiber& from, Fiber& to) {
  switched_from = &from;
  if (with_asan()) __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.size);
  if (with_tsan()) __tsan_switch_to_fiber(to.tsan, 1);  // 1: the switch orders nothing
#if defined(__x86_64__)
  cuda_on_cpu_switch(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.context, &to.context);
#endif
  arrived(from);
}

}  // namespace cuda_on_cpu
