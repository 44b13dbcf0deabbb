// Small kernels in each of which a bug can be planted, to show that the emulator and the sanitizers find it:
// `planted_bugs N` runs them with bug N, and 0 plants none. test_planted_bugs.py has the table of bugs and finders.
#include "kernel_test.h"

namespace airank_fast {
namespace {

enum Bug {
  kNone,
  kMissingBarrier,
  kReuseWithoutBarrier,
  kUninitialisedShared,
  kTailPastTheEnd,
  kUnclippedChunk,
  kNonAtomicAccumulation,
  kMissingFence,
  kReturnBeforeBarrier,
  kDivergentBallot,
  kPastDynamicShared,
  kDifferentBarriers,
  kMissingSyncwarp,
  kWritePastShared,
  kMissingLane,
  kNumBugs
};

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kThreads = 64, kWarps = kThreads / 32;

HOST_DEVICE float warp_sum(float x) {
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
  return x;
}

// y[row] = sum of the row * its largest element: two reductions by way of the same shared memory.
template <Bug kBug>
__global__ void row_kernel(const float* x, float* y, int num_columns) {
  SHARED(float, parts, [32]);
  const float* row = x + blockIdx.x * num_columns;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (kBug == kReturnBeforeBarrier && 4 * int(threadIdx.x) >= num_columns) return;
  float sum = 0, largest = 0;
  const int in_packs = kBug == kTailPastTheEnd ? num_columns : num_columns / 4 * 4;
  if (kBug == kTailPastTheEnd || is_aligned<4>(row)) {
    for (int i = 4 * int(threadIdx.x); i < in_packs; i += 4 * kThreads) {
      const Pack<float, 4> pack = load_pack<4>(row + i);
      for (int k = 0; k < 4; ++k) sum += pack.get(k), largest = fmaxf(largest, pack.get(k));
    }
    for (int i = in_packs + int(threadIdx.x); i < num_columns; i += kThreads)
      sum += row[i], largest = fmaxf(largest, row[i]);
  } else {
    for (int i = threadIdx.x; i < num_columns; i += kThreads) sum += row[i], largest = fmaxf(largest, row[i]);
  }

  sum = warp_sum(sum);
  if (lane == 0) parts[warp] = sum;
  if constexpr (kBug == kDifferentBarriers) {
    if (warp == 0) __syncthreads();
    else __syncthreads();
  } else if constexpr (kBug != kMissingBarrier) {
    __syncthreads();
  }
  sum = 0;
  for (int w = 0; w < (kBug == kUninitialisedShared ? kWarps + 1 : kWarps); ++w) sum += parts[w];
  if constexpr (kBug != kReuseWithoutBarrier) __syncthreads();

  for (int lanes = 16; lanes > 0; lanes /= 2) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, lanes));
  if (lane == 0) parts[kBug == kWritePastShared ? warp + 32 : warp] = largest;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, parts[w]);
  if (threadIdx.x == 0) y[blockIdx.x] = sum * largest;
}

// x *= 2, in chunks; count = number of positive elements, added up by all blocks.
template <Bug kBug>
__global__ void chunk_kernel(float* x, int size, int chunk, float* count) {
  const int begin = int(blockIdx.x) * chunk;
  const int end = kBug == kUnclippedChunk || begin + chunk < size ? begin + chunk : size;
  float positive = 0;
  for (int start = begin; start < end; start += kThreads) {
    const int i = start + int(threadIdx.x);
    const bool inside = i < end;
    unsigned votes = 0;
    if constexpr (kBug == kDivergentBallot) {
      if (inside) votes = __ballot_sync(kAllLanes, x[i] > 0);
    } else if constexpr (kBug == kMissingLane) {
      votes = __ballot_sync(kAllLanes << 1, inside && x[i] > 0);
    } else {
      votes = __ballot_sync(kAllLanes, inside && x[i] > 0);
    }
    if (inside) x[i] *= 2;
    positive += float(__popc(votes));
  }
  if (threadIdx.x % 32 != 0) return;
  if constexpr (kBug == kNonAtomicAccumulation) {
    if (threadIdx.x == 0) *count += positive;
  } else {
    atomicAdd(count, positive);
  }
}

// total = sum of all elements: the block that finishes last adds up what the others left.
template <Bug kBug>
__global__ void last_block_kernel(const float* x, int size, float* partials, unsigned* num_finished, float* total) {
  DYN_SMEM(float, sums);
  SHARED(bool, is_last, );
  float sum = 0;
  for (int i = int(blockIdx.x * kThreads + threadIdx.x); i < size; i += int(gridDim.x) * kThreads) sum += x[i];
  sums[threadIdx.x] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) {
    partials[blockIdx.x] = sums[kBug == kPastDynamicShared ? kThreads : 0];
    if constexpr (kBug != kMissingFence) __threadfence();
    is_last = atomicAdd(num_finished, 1u) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last || threadIdx.x != 0) return;
  if constexpr (kBug != kMissingFence) __threadfence();
  sum = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) sum += partials[b];
  *total = sum;
}

// y = x with the lanes of each warp reversed, by way of shared memory.
template <Bug kBug>
__global__ void reverse_kernel(const float* x, float* y) {
  SHARED(float, values, [kThreads]);
  const int first = int(threadIdx.x) / 32 * 32, lane = int(threadIdx.x) % 32;
  values[threadIdx.x] = x[threadIdx.x];
  if constexpr (kBug == kMissingSyncwarp) __ballot_sync(kAllLanes, 1);  // all are there, but nothing is ordered
  else __syncwarp();
  y[threadIdx.x] = values[first + 31 - lane];
}

template <Bug kBug>
void cases() {
  const int num_rows = 3, num_columns = 97;
  Array<float> x(num_rows * num_columns);
  for (size_t i = 0; i < x.size(); ++i) x.set(i, double(i % 7));
  Array<float> y = Array<float>::filled(num_rows, 0);
  std::vector<double> want(num_rows);
  for (int row = 0; row < num_rows; ++row)
    for (int i = 0; i < num_columns; ++i) want[row] += 6 * x.get(row * num_columns + i);
  check_success("row", launch(row_kernel<kBug>, num_rows, kThreads, 0, nullptr, x.data(), y.data(), num_columns));
  check_close("row", y, want, 0);

  const int size = 1021, chunk = 250, num_chunks = (size + chunk - 1) / chunk;
  Array<float> doubled = Array<float>::random(size), count = Array<float>::filled(1, 0);
  want = doubled.doubles();
  double positive = 0;
  for (double& value : want) positive += value > 0, value *= 2;
  check_success("chunk", launch(chunk_kernel<kBug>, num_chunks, kThreads, 0, nullptr, doubled.data(), size, chunk,
                                count.data()));
  check_close("chunk", doubled, want, 0);
  if (kBug != kNonAtomicAccumulation) check_close("count", count, {positive}, 0);

  Array<float> ones = Array<float>::filled(1000, 1), partials(5), total = Array<float>::filled(1, 0);
  Array<unsigned> num_finished = Array<unsigned>::filled(1, 0);
  check_success("last block", launch(last_block_kernel<kBug>, 5, kThreads, kThreads * sizeof(float), nullptr,
                                     ones.data(), 1000, partials.data(), num_finished.data(), total.data()));
  check_close("last block", total, {1000}, 0);

  Array<float> forward = Array<float>::random(kThreads), backward = Array<float>::filled(kThreads, 0);
  want.resize(kThreads);
  for (int i = 0; i < kThreads; ++i) want[i] = forward.get(i / 32 * 32 + 31 - i % 32);
  check_success("reverse", launch(reverse_kernel<kBug>, 1, kThreads, 0, nullptr, forward.data(), backward.data()));
  check_close("reverse", backward, want, 0);
}

template <int... kBugs>
int run(int bug, std::integer_sequence<int, kBugs...>) {
  void (*all[])() = {cases<Bug(kBugs)>...};
  return under_every_schedule(all[bug]);
}

}  // namespace
}  // namespace airank_fast

int main(int, char** arguments) {
  const int bug = std::atoi(arguments[1]);
  return airank_fast::run(bug, std::make_integer_sequence<int, airank_fast::kNumBugs>());
}
