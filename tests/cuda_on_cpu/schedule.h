// The order in which the emulator runs threads and blocks; included by cuda_on_cpu.cpp.
#pragma once

#include <cstdio>
#include <cstdlib>

#include "cuda_on_cpu.h"

namespace cuda_on_cpu {

constexpr int kMaxThreads = 1024, kWarp = 32, kMaxWarps = kMaxThreads / kWarp, kNobody = -1;

inline int lowest(unsigned bits) { return __builtin_ctz(bits); }
inline int highest(unsigned bits) { return 31 - __builtin_clz(bits); }
// The first of `bits` from `at` on, cyclically.
inline int first_from(unsigned bits, unsigned at) { return lowest(bits >> at ? bits >> at << at : bits); }

struct Chosen {
  bool made = false;
  Schedule schedule = Schedule::kAscending;
  unsigned long seed = 0;

  void from_environment() {
    made = true;
    const char* text = getenv("CUDA_ON_CPU_SEED");
    seed = text ? strtoul(text, nullptr, 10) : 0;
    text = getenv("CUDA_ON_CPU_SCHEDULE");
    if (text == nullptr) return;
    for (int i = 0; i < kNumSchedules; ++i)
      if (strcmp(text, name_of(Schedule(i))) == 0) {
        schedule = Schedule(i);
        return;
      }
    fprintf(stderr, "CUDA_ON_CPU_SCHEDULE: ascending, descending, priority or random is required, got %s\n", text);
    abort();
  }
};

struct Random {
  uint64_t state = 0;

  unsigned below(uint64_t bound) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return unsigned(((state >> 33) * (bound < (1u << 30) ? bound : 1u << 30)) >> 31);
  }
};

// The threads of a block that do not wait, and which of them is next. But for the random schedule it is one of the
// first warp that has any: so that warp runs ahead of the others as far as it can.
class Ready {
 public:
  void reset(Schedule schedule, Random* random, int num_warps) {
    schedule_ = schedule;
    random_ = random;
    num_warps_ = num_warps;
    warps_ = 0;
    for (int warp = 0; warp < num_warps; ++warp) lanes_[warp] = 0;
    new_phase();
  }

  // After a barrier the priorities are others.
  void new_phase() {
    if (schedule_ != Schedule::kPriority) return;
    for (int i = 0; i < num_warps_; ++i) {
      const int j = int(random_->below(unsigned(i) + 1));
      order_[i] = order_[j];
      order_[j] = i;
    }
  }

  void add(int warp, unsigned lanes) {
    lanes_[warp] |= lanes;
    if (lanes != 0) warps_ |= 1u << warp;
  }

  // Takes a thread out; kNobody where all wait.
  int pick() {
    if (warps_ == 0) return kNobody;
    int warp = lowest(warps_), lane = lowest(lanes_[warp]);
    if (schedule_ == Schedule::kDescending) {
      warp = highest(warps_);
      lane = highest(lanes_[warp]);
    } else if (schedule_ == Schedule::kPriority) {
      int i = 0;
      while (!(warps_ >> order_[i] & 1)) ++i;
      warp = order_[i];
      lane = i % 2 ? highest(lanes_[warp]) : lowest(lanes_[warp]);
    } else if (schedule_ == Schedule::kRandom) {
      warp = first_from(warps_, random_->below(kMaxWarps));
      lane = first_from(lanes_[warp], random_->below(kWarp));
    }
    lanes_[warp] &= ~(1u << lane);
    if (lanes_[warp] == 0) warps_ &= ~(1u << warp);
    return warp * kWarp + lane;
  }

 private:
  Schedule schedule_ = Schedule::kAscending;
  Random* random_ = nullptr;
  int num_warps_ = 0;
  unsigned warps_ = 0, lanes_[kMaxWarps];
  int order_[kMaxWarps];
};

// The n-th block to run: an order that fits the schedule, without a list of the blocks.
class BlockOrder {
 public:
  BlockOrder(Schedule schedule, Random& random, uint64_t num_blocks) : size_(num_blocks) {
    if (schedule == Schedule::kAscending) return;
    factor_ = offset_ = size_ - 1;
    if (schedule == Schedule::kDescending) return;
    offset_ = random.below(size_);
    do factor_ = 1 + random.below(size_);
    while (greatest_common_divisor(factor_, size_) != 1);
  }

  uint64_t operator()(uint64_t n) const { return uint64_t(((unsigned __int128)n * factor_ + offset_) % size_); }

 private:
  static uint64_t greatest_common_divisor(uint64_t a, uint64_t b) {
    return b == 0 ? a : greatest_common_divisor(b, a % b);
  }

  uint64_t size_, factor_ = 1, offset_ = 0;
};

}  // namespace cuda_on_cpu
