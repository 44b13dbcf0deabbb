// One launch over the chunks of many tensors.
//
// A TensorTable is a kernel argument by value: no copy on the device has to outlive the launch, which can be captured
// in a CUDA graph. It holds per tensor `kDepth` addresses, the size, and the number of the first block; a block finds
// its tensor by bisection in that list. A tensor of any size is one entry. Every CUDA version takes arguments of 4 KB,
// for which ResNet-50's 161 tensors need two launches; from CUDA 12.1 on it is 32,764 bytes for Volta and later, and a
// LargeTable holds all of BERT-large.
#pragma once

#include "../host_device.h"
#include "compat.cuh"

namespace airank_fast {

constexpr int kMostArgumentBytes = 32764;

template <int kDepth, int kBytes = 3840>
struct TensorTable {
  // The entries in kBytes: kDepth pointers, a size and a block number each.
  static constexpr int kCapacity = kBytes / (8 * kDepth + 8 + 4);

  void* data[kDepth][kCapacity];
  int64_t size[kCapacity];
  unsigned first_block[kCapacity];
  int num_tensors = 0;
  unsigned num_blocks = 0;
};

template <int kDepth>
using LargeTable = TensorTable<kDepth, 30000>;

// A number in device memory, float32 or float64; no pointer means 1.
struct DeviceScalar {
  const void* pointer;
  bool is_double;

  template <typename T>
  HOST_DEVICE T read() const {
    if (pointer == nullptr) return T(1);
    return is_double ? T(*static_cast<const double*>(pointer)) : T(*static_cast<const float*>(pointer));
  }

  // Given and not zero, as found_inf is in a step that is skipped.
  HOST_DEVICE bool is_set() const { return pointer != nullptr && read<double>() != 0; }
};

struct NoCopy {};

// The part of a tensor that one block works on: elements [begin, end).
struct Chunk {
  int tensor;
  int64_t begin;
  int64_t end;
};

template <int kDepth, int kBytes>
HOST_DEVICE Chunk find_chunk(const TensorTable<kDepth, kBytes>& table, unsigned block, int chunk_size) {
  int low = 0;
  int high = table.num_tensors - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.first_block[middle] <= block) low = middle;
    else high = middle - 1;
  }
  const int64_t begin = int64_t(block - table.first_block[low]) * chunk_size;
  const int64_t end = begin + chunk_size;
  return {low, begin, end < table.size[low] ? end : table.size[low]};
}

#ifndef __CUDACC_RTC__
// Host side: calls `flush(table)` whenever the table is full, and once more for the rest. `addresses(i, d)` is
// the d-th address of tensor i. Empty tensors get no block. Stops at the first error.
template <int kDepth, int kBytes = 3840, typename Sizes, typename Addresses, typename Flush>
cudaError_t for_each_table(int64_t num_tensors, int chunk_size, Sizes sizes, Addresses addresses, Flush flush) {
  TensorTable<kDepth, kBytes> table;
  for (int64_t i = 0; i < num_tensors; ++i) {
    const int64_t size = sizes(i);
    if (size == 0) continue;
    const int64_t blocks = (size + chunk_size - 1) / chunk_size;
    if (table.num_tensors == table.kCapacity || table.num_blocks + blocks > INT32_MAX) {
      const cudaError_t error = flush(table);
      if (error != cudaSuccess) return error;
      table.num_tensors = 0;
      table.num_blocks = 0;
    }
    const int slot = table.num_tensors++;
    for (int d = 0; d < kDepth; ++d) table.data[d][slot] = addresses(i, d);
    table.size[slot] = size;
    table.first_block[slot] = table.num_blocks;
    table.num_blocks += unsigned(blocks);
  }
  return table.num_tensors ? flush(table) : cudaSuccess;
}
#endif

}  // namespace airank_fast
