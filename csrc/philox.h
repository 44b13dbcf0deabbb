// Philox4x32-10, a random number generator without state: four 32-bit numbers from a 64-bit key and a 128-bit
// counter. The same numbers on the CPU and on the GPU, for any element, in any order.
//
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011; constants, rounds and
// test vectors are those of the authors' Random123.
#pragma once

#ifndef __CUDACC_RTC__
#include <cstdint>
#endif

#include "host_device.h"

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define UNROLL_ROUNDS _Pragma("unroll")
#else
#define UNROLL_ROUNDS _Pragma("GCC unroll 10")
#endif

namespace airank_fast {

struct Philox {
  // The words are kept in 64 bits, of which the lower half counts: a product then needs no widening, so that a CPU can
  // compute eight counters at a time.
  struct Words {
    uint64_t at[4];
  };

  uint64_t key;
  uint64_t stream;  // the upper half of the counter

  HOST_DEVICE Words operator()(uint64_t counter) const {
    uint64_t c0 = counter, c1 = counter >> 32, c2 = stream, c3 = stream >> 32;
    uint32_t key0 = uint32_t(key), key1 = uint32_t(key >> 32);
    UNROLL_ROUNDS for (int round = 0; round < 10; ++round) {
      const uint64_t product0 = uint64_t(uint32_t(c0)) * 0xD2511F53u;
      const uint64_t product1 = uint64_t(uint32_t(c2)) * 0xCD9E8D57u;
      c0 = (product1 >> 32) ^ c1 ^ key0;
      c1 = product1;
      c2 = (product0 >> 32) ^ c3 ^ key1;
      c3 = product0;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
  }
};

}  // namespace airank_fast
