// The emulator's scheduler: threads, blocks, barriers, warps, shared memory; see cuda_on_cpu.h.
//
// Compiled without sanitizers, and it keeps to memory of its own (no containers, no libc calls) where it runs on a
// CUDA thread's fiber: those would be seen as that thread's accesses.
//
// ThreadSanitizer's view: consecutive blocks run on kSets sets of fibers in turn. With one set, thread i of the next
// block would continue the history of thread i of this one, and no race between blocks would ever be found.
#include "cuda_on_cpu.h"

#include <cstdio>
#include <mutex>

#include "fiber.h"
#include "schedule.h"
#include "shared_memory.h"

namespace cuda_on_cpu {

Here here;

namespace {

constexpr int kSets = 4;

struct Thread {
  uint3 index;
  // What it waits for among the threads of its warp.
  WarpKind kind;
  unsigned mask;
  uint64_t value;  // what it brings, then what it gets
  int parameter, width, line;
};

struct Barrier {
  int num_arrived = 0, num_true = 0, result = 0, line = 0;
  BarrierKind kind = BarrierKind::kPlain;
  unsigned phase = 0;
};

// All of the block that runs.
struct Block {
  int num_threads = 0, num_warps = 0, num_left = 0;
  int running = kNobody;
  Ready ready;
  unsigned left[kMaxWarps], meeting[kMaxWarps];  // lanes that returned, that wait in a warp function
  unsigned meetings[kMaxThreads];                // finished ones, by the lowest lane of their mask
  Barrier barrier;
  SharedMemory shared;
  int set = 0;

  // The lanes that a warp has: the last one may be cut short.
  unsigned lanes_of(int warp) const {
    const int num_lanes = num_threads - warp * kWarp;
    return num_lanes >= kWarp ? ~0u : ~(~0u << num_lanes);
  }
  void all_ready() {
    for (int warp = 0; warp < num_warps; ++warp) ready.add(warp, lanes_of(warp));
  }
};

std::mutex one_launch;
Chosen chosen;
Random randomness;
Block block;
Thread threads[kMaxThreads];
Fiber fibers[kSets][kMaxThreads];
int num_prepared[kSets];
Fiber* host;
void (*body)(void*);
void* closure;
// Through these ThreadSanitizer learns what is ordered. The launching thread releases `begin` for each block but looks
// at `end` only once, after the last: otherwise it would order the blocks.
uint64_t sync_objects[kSets][2 + 1 + 2 * kMaxThreads], device_fence, begin, end;
unsigned long num_launches = 0;

// ---- failure -----------------------------------------------------------------------------------
bool failed;
char message[512] = "";
int message_length;

void append(const char* text) {
  while (*text != 0 && message_length < int(sizeof(message)) - 1) message[message_length++] = *text++;
  message[message_length] = 0;
}
void append(long number) {
  char digits[24];
  int at = sizeof(digits);
  digits[--at] = 0;
  const bool negative = number < 0;
  do digits[--at] = char('0' + (negative ? -(number % 10) : number % 10));
  while ((number /= 10) != 0);
  if (negative) digits[--at] = '-';
  append(digits + at);
}

// Ends the launch; the fibers are abandoned as they are.
template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  failed = true;
  message_length = 0;
  append("cuda_on_cpu: block (");
  append(long(here.block.x)), append(", "), append(long(here.block.y)), append(", "), append(long(here.block.z));
  append("): ");
  (append(parts), ...);
  switch_fibers(fibers[block.set][block.running], *host);
  abort();
}

[[noreturn]] void report_deadlock() {
  long num_meeting = 0;
  int in_warp = kNobody;
  for (int i = 0; i < block.num_threads; ++i)
    if (block.meeting[i / kWarp] >> (i % kWarp) & 1) ++num_meeting, in_warp = i;
  const long at_barrier = block.barrier.num_arrived;
  fail("threads wait for ever: ", at_barrier, " at the __syncthreads of line ",
       long(at_barrier ? block.barrier.line : 0), ", ", num_meeting, " in a warp function of line ",
       long(in_warp < 0 ? 0 : threads[in_warp].line), ", ", long(block.num_left), " have left the kernel");
}

void run_as(int thread) {
  block.running = thread;
  here.thread = threads[thread].index;
}

// The running thread waits: the next one runs. Returns when somebody has made this one ready and it was picked.
void wait() {
  const int self = block.running, next = block.ready.pick();
  if (next == kNobody) report_deadlock();
  if (next == self) return;
  run_as(next);
  switch_fibers(fibers[block.set][self], fibers[block.set][next]);
  run_as(self);
}

// ---- a thread's life ---------------------------------------------------------------------------
void leave() {
  const int self = block.running, warp = self / kWarp;
  const unsigned lane = 1u << (self % kWarp);
  if (block.barrier.num_arrived != 0)
    fail("thread ", long(self), " has left the kernel while others wait at the __syncthreads of line ",
         long(block.barrier.line));
  for (unsigned waiting = block.meeting[warp]; waiting != 0; waiting &= waiting - 1) {
    const Thread& other = threads[warp * kWarp + lowest(waiting)];
    if (other.mask & lane)
      fail("thread ", long(self), " has left the kernel while its lane is in the mask of a warp function of line ",
           long(other.line));
  }
  block.left[warp] |= lane;
  ++block.num_left;
  if (with_tsan()) __tsan_release(&end);
  if (block.num_left == block.num_threads) {
    switch_fibers(fibers[block.set][self], *host);
    return;
  }
  const int next = block.ready.pick();
  if (next == kNobody) report_deadlock();
  run_as(next);
  switch_fibers(fibers[block.set][self], fibers[block.set][next]);
}

void live() {
  arrived(fibers[block.set][block.running]);
  for (;;) {  // once per block
    if (with_tsan()) __tsan_acquire(&begin);
    body(closure);
    leave();
  }
}

// ---- blocks ------------------------------------------------------------------------------------
bool run_block(uint3 index, size_t smem_bytes) {
  here.block = index;
  block.num_left = 0;
  block.running = kNobody;
  block.barrier = Barrier();
  for (int warp = 0; warp < block.num_warps; ++warp) block.left[warp] = block.meeting[warp] = 0;
  block.ready.reset(chosen.schedule, &randomness, block.num_warps);
  block.all_ready();
  for (int& prepared = num_prepared[block.set]; prepared < block.num_threads; ++prepared)
    fibers[block.set][prepared].prepare(live, prepared);
  block.shared.open(smem_bytes);
  if (with_tsan()) __tsan_release(&begin);
  const int first = block.ready.pick();
  run_as(first);
  switch_fibers(*host, fibers[block.set][first]);
  if (failed) return false;
  if (!block.shared.close()) {
    message_length = 0;
    append("cuda_on_cpu: something was written behind an array in shared memory");
    return false;
  }
  return true;
}

}  // namespace

const char* name_of(Schedule schedule) {
  const char* names[kNumSchedules] = {"ascending", "descending", "priority", "random"};
  return names[int(schedule)];
}

void set_schedule(Schedule schedule, unsigned long seed) { chosen = {true, schedule, seed}; }

const char* failure() { return message; }

cudaError_t run(dim3 grid, dim3 block_size, size_t smem_bytes, void (*new_body)(void*), void* new_closure) {
  const std::lock_guard<std::mutex> lock(one_launch);
  const uint64_t num_threads = uint64_t(block_size.x) * block_size.y * block_size.z;
  const uint64_t num_blocks = uint64_t(grid.x) * grid.y * grid.z;
  if (num_threads == 0 || num_threads > kMaxThreads || block_size.z > 64 || num_blocks == 0 || grid.x > INT32_MAX ||
      grid.y > 65535 || grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  if (!chosen.made) chosen.from_environment();
  randomness.state = chosen.seed * 0x9E3779B97F4A7C15ull + 1;
  Fiber launching;
  if (with_tsan()) launching.tsan = __tsan_get_current_fiber();
  host = &launching;
  body = new_body;
  closure = new_closure;
  here.block_size = block_size;
  here.grid_size = grid;
  block.num_threads = int(num_threads);
  block.num_warps = (block.num_threads + kWarp - 1) / kWarp;
  for (unsigned i = 0; i < num_threads; ++i)
    threads[i].index = {i % block_size.x, i / block_size.x % block_size.y, i / block_size.x / block_size.y};

  failed = false;
  ++num_launches;
  bool good = true;
  const BlockOrder order(chosen.schedule, randomness, num_blocks);
  for (uint64_t n = 0; good && n < num_blocks; ++n) {
    const uint64_t b = order(n);
    block.set = with_tsan() ? int(n % kSets) : 0;
    good = run_block({unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)}, smem_bytes);
  }
  if (with_tsan()) __tsan_acquire(&end);
  if (good) return cudaSuccess;
  fprintf(stderr, "%s (schedule %s, seed %lu)\n", message, name_of(chosen.schedule), chosen.seed);
  block.shared.forget();
  for (int& prepared : num_prepared) prepared = 0;  // their stacks are in the middle of something
  return cudaErrorLaunchFailure;
}

void* shared_array(const void* key, size_t bytes, size_t alignment) {
  void* at = block.shared.array(key, bytes, alignment);
  if (at == nullptr)
    fail("static shared memory: at most ", long(SharedMemory::kStaticBytes), " bytes in ",
         long(SharedMemory::kMaxArrays), " arrays are there, too little for ", long(bytes), " more");
  return at;
}

void* dynamic_smem() { return block.shared.dynamic(); }

int block_barrier(BarrierKind kind, int predicate, int line) {
  Barrier& barrier = block.barrier;
  if (block.num_left != 0)
    fail(long(block.num_left), " threads had left the kernel when others came to the __syncthreads of line ",
         long(line));
  if (barrier.num_arrived == 0) {
    barrier.line = line;
    barrier.kind = kind;
  } else if (barrier.line != line || barrier.kind != kind) {
    fail("some threads wait at the __syncthreads of line ", long(barrier.line), ", others at that of line ",
         long(line));
  }
  const unsigned phase = barrier.phase;
  uint64_t* object = &sync_objects[block.set][phase % 2];
  if (with_tsan()) __tsan_release(object);
  barrier.num_true += predicate != 0;
  if (++barrier.num_arrived == block.num_threads) {
    barrier.result = kind == BarrierKind::kCount ? barrier.num_true
                     : kind == BarrierKind::kAnd ? barrier.num_true == block.num_threads
                                                 : barrier.num_true != 0;
    barrier.num_arrived = barrier.num_true = 0;
    ++barrier.phase;
    block.ready.new_phase();
    block.all_ready();
  }
  wait();
  if (with_tsan()) __tsan_acquire(object);
  return barrier.result;
}

namespace {

uint64_t result_of(const Thread* warp, int lane, unsigned mask) {
  const Thread& self = warp[lane];
  const int first = lane & ~(self.width - 1), last = first + self.width - 1;
  int source = lane;
  switch (self.kind) {
    case WarpKind::kSync: return 0;
    case WarpKind::kShuffle: source = first + (self.parameter & (self.width - 1)); break;
    case WarpKind::kShuffleUp: source = lane - self.parameter < first ? lane : lane - self.parameter; break;
    case WarpKind::kShuffleDown: source = lane + self.parameter > last ? lane : lane + self.parameter; break;
    case WarpKind::kShuffleXor: source = (lane ^ self.parameter) > last ? lane : lane ^ self.parameter; break;
    default: {
      unsigned votes = 0;
      for (unsigned rest = mask; rest != 0; rest &= rest - 1) {
        const uint64_t value = warp[lowest(rest)].value;
        const bool counts = self.kind == WarpKind::kMatch ? value == self.value : value != 0;
        if (counts) votes |= rest & -rest;
      }
      return self.kind == WarpKind::kAll ? votes == mask : self.kind == WarpKind::kAny ? votes != 0 : votes;
    }
  }
  if (!(mask >> source & 1))
    fail("lane ", long(lane), " reads lane ", long(source), ", which is not in the mask of the shuffle of line ",
         long(self.line));
  return warp[source].value;
}

}  // namespace

uint64_t warp_meet(WarpKind kind, unsigned mask, uint64_t value, int parameter, int width, int line) {
  const int self = block.running, warp = self / kWarp, lane = self % kWarp;
  Thread* lanes = threads + warp * kWarp;
  Thread& thread = lanes[lane];
  thread.kind = kind, thread.mask = mask, thread.value = value, thread.parameter = parameter;
  thread.width = width, thread.line = line;
  if (!(mask >> lane & 1)) fail("lane ", long(lane), " is not in the mask it gives in line ", long(line));
  if (mask & ~block.lanes_of(warp)) fail("the mask in line ", long(line), " names lanes beyond the block's last thread");
  if (mask & block.left[warp]) fail("the mask in line ", long(line), " names lanes that have left the kernel");
  if (width < 1 || width > kWarp || (width & (width - 1)) != 0)
    fail("a shuffle's width must be a power of two up to 32, got ", long(width), " in line ", long(line));
  for (unsigned rest = block.meeting[warp]; rest != 0; rest &= rest - 1) {
    const Thread& other = lanes[lowest(rest)];
    const bool together = other.mask == mask && other.kind == kind && other.line == line;
    if (!together && (other.mask & mask) != 0)
      fail("lanes of one mask are in different warp functions: in line ", long(other.line), " and in line ",
           long(line));
  }
  const int leader = warp * kWarp + lowest(mask);
  uint64_t* object = &sync_objects[block.set][3 + 2 * leader + block.meetings[leader] % 2];
  const bool orders = with_tsan() && kind == WarpKind::kSync;
  if (orders) __tsan_release(object);
  block.meeting[warp] |= 1u << lane;
  if ((block.meeting[warp] & mask) == mask) {
    uint64_t results[kWarp];
    for (unsigned rest = mask; rest != 0; rest &= rest - 1)
      results[lowest(rest)] = result_of(lanes, lowest(rest), mask);
    for (unsigned rest = mask; rest != 0; rest &= rest - 1) lanes[lowest(rest)].value = results[lowest(rest)];
    block.meeting[warp] &= ~mask;
    ++block.meetings[leader];
    block.ready.add(warp, mask & ~(1u << lane));
  } else {
    wait();
  }
  if (orders) __tsan_acquire(object);
  return thread.value;
}

void fence(bool whole_device) {
  if (!with_tsan()) return;
  uint64_t* object = whole_device ? &device_fence : &sync_objects[block.set][2];
  __tsan_acquire(object);
  __tsan_release(object);
}

void trap(int line) { fail("thread ", long(block.running), " called __trap in line ", long(line)); }

}  // namespace cuda_on_cpu

// For Python, by ctypes.
#define EXPORTED extern "C" __attribute__((visibility("default")))
EXPORTED void cuda_on_cpu_set_schedule(int schedule, unsigned long seed) {
  cuda_on_cpu::set_schedule(cuda_on_cpu::Schedule(schedule), seed);
}
EXPORTED unsigned long cuda_on_cpu_num_launches() { return cuda_on_cpu::num_launches; }
