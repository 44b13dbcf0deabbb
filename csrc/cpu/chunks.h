// A list of tensors cut into chunks, for ops that need a sum over each tensor before they may change it.
//
// Chunks are of fixed size, sums are kept per chunk and added in order: results do not depend on the number of
// threads. Consecutive tensors form batches of about the size of the last-level cache, so that a second pass
// over a batch, which goes backwards, finds most of it there; a larger tensor is a batch of its own, of which
// that pass finds the end in the cache.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "../host_device.h"
#include "lists.h"

namespace airank_fast {

constexpr int64_t kChunkSize = 4096;         // elements; a multiple of every vector length
constexpr int64_t kBatchElements = 1 << 20;  // of 4-byte elements in four lists: 16 MB
constexpr int64_t kChunkGrain = 4;           // fewer chunks are not worth a thread

class Chunks {
 public:
  explicit Chunks(const TensorList& list) {
    first_.reserve(list.size() + 1);
    first_.push_back(0);
    for (const Tensor& tensor : list) {
      sizes_.push_back(tensor.numel());
      first_.push_back(first_.back() + (sizes_.back() + kChunkSize - 1) / kChunkSize);
    }
  }

  int64_t count() const { return first_.back(); }
  int64_t num_tensors() const { return static_cast<int64_t>(sizes_.size()); }

  // The sum over the chunks of one tensor.
  double sum(const std::vector<double>& per_chunk, int64_t tensor) const {
    double total = 0;
    for (int64_t chunk = first_[tensor]; chunk < first_[tensor + 1]; ++chunk) total += per_chunk[chunk];
    return total;
  }

  // Calls f(first tensor, end) for one batch after the other.
  template <typename F>
  void for_each_batch(F f) const {
    for (int64_t begin = 0; begin < num_tensors();) {
      int64_t end = begin + 1;
      for (int64_t held = sizes_[begin]; end < num_tensors() && held + sizes_[end] <= kBatchElements; ++end)
        held += sizes_[end];
      f(begin, end);
      begin = end;
    }
  }

  // Calls f(chunk, tensor, begin, end) for the chunks of the tensors [first, last), in parallel; a thread has
  // the same chunks in every call for the same tensors, and takes them backwards where `backwards` is set.
  template <typename F>
  void for_each(int64_t first, int64_t last, bool backwards, F f) const {
    torch::stable::parallel_for(first_[first], first_[last], kChunkGrain, [&](int64_t from, int64_t to) {
      if (from == to) return;
      const int64_t start = backwards ? to - 1 : from;
      int64_t tensor = std::upper_bound(first_.begin(), first_.end(), start) - first_.begin() - 1;
      for (int64_t i = 0; i < to - from; ++i) {
        const int64_t chunk = backwards ? to - 1 - i : from + i;
        while (chunk >= first_[tensor + 1]) ++tensor;
        while (chunk < first_[tensor]) --tensor;
        const int64_t begin = (chunk - first_[tensor]) * kChunkSize;
        f(chunk, tensor, begin, std::min(begin + kChunkSize, sizes_[tensor]));
      }
    });
  }

 private:
  std::vector<int64_t> sizes_;
  std::vector<int64_t> first_;  // number of each tensor's first chunk, and at the end the number of chunks
};

// A sum of squares in lanes, to which loops over blocks of kLanes elements add in order: the compiler vectorises them
// without -fassociative-math. A lane has 16 to 64 squares before the lanes are added in double.
template <typename T>
struct Squares {
  static constexpr int kLanes = 64;
  T lane[kLanes] = {};

  HOST_DEVICE double total() const {
    double sum = 0;
    for (int k = 0; k < kLanes; ++k) sum += lane[k];
    return sum;
  }
};

}  // namespace airank_fast
