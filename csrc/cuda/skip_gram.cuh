// Skip-gram with negative sampling on the GPU: one pass over a batch of sentences; formulas in skip_gram_math.h.
//
// Draws come first, a thread for each word. They set one bit for each row that they touch. The number of bits before it
// is a row's place in a compact copy, in which training takes place, and from which the deltas are made.
//
// Training: a block goes through the windows of a part in order, and a thread has some dimensions of all rows, so that
// only the dot products pass from thread to thread. They are taken 32 at a time, of 4 context rows and 8 others: each
// thread adds up its dimensions, a warp exchanges halves of the 32 sums until each lane has one, and those of the warps
// are added in order. That takes two barriers a window, whose rows lie in shared memory meanwhile. What they change by
// is added to the copy atomically: no other part can overwrite it, and where a part has a copy of its own, the order is
// fixed. Rows are read past the first cache, which does not see these additions.
//
// Bytes, with rows of 4 dim bytes: 2 rows per touched row to copy it and 3 for its delta; per window a row read and one
// added to for each of its words, mostly in the second cache. A window takes a chain of waits, much longer than its
// bytes: the device is in use where many parts run side by side.
#pragma once

#include "tensor_sums.cuh"
#include "vec.cuh"

#include "../skip_gram_math.h"

namespace airank_fast {

constexpr int kSkipGramThreads = 256;
constexpr int kSkipGramWarps = kSkipGramThreads / 32;
constexpr int kTileInputs = 4, kTileOutputs = 8;  // 32 pairs
constexpr int kSkipGramAhead = 16;                // rows of a window that are fetched at once
static_assert(kTileInputs * kTileOutputs == 32, "a pair for each lane");

// What the draws count, zeros at first.
struct SkipGramCounters {
  unsigned long long num_pairs;
  unsigned long long most_inputs;
  unsigned long long num_rows[2];
  unsigned wrong;  // kWrong...
};
constexpr unsigned kWrongOffsets = 1, kWrongWords = 2, kWrongNegatives = 4;

// Arguments of all kernels; of two arrays the first is for `input`, the second for `output`.
struct SkipGramTask {
  const float* tables[2];
  const void* words;
  const int64_t* offsets;
  const int64_t* negatives;
  int64_t rows;
  int64_t num_words;
  int64_t sentences;
  int64_t window;
  int64_t num_negatives;
  uint64_t seed;
  int64_t parts;
  bool is_int64;  // words, or else int32
  int dim;
  float lr;
  float rate;  // 1 / lr

  SkipGramCounters* counters;
  uint32_t* touched[2];  // a bit for each row, zeros at first
  int32_t* before[2];    // for each 32 bits how many are set before them
  int32_t* places[2];    // for each word its row, then the place of this row among the touched ones
  int32_t* drawn;        // its negatives: rows, then places; or kSkipGramSkipped
  int32_t* preceding;    // how many context words it has before it
  int32_t* following;    // and after it

  int64_t num_rows[2];
  int64_t copies;     // of the touched rows: one, or one for each part
  float* trained[2];  // [copies, num_rows, dim]
  int64_t* touched_rows[2];
  float* deltas[2];   // may be `trained`, where that is one copy
  double* losses;     // of each thread of each part
  double* loss_sum;
  int most_inputs;
  float* scratch;  // of each block, where shared memory is too small
  int64_t scratch_size;
};

// The first position of ascending numbers from which on they are above `value`, or their number.
HOST_DEVICE int64_t skip_gram_first_above(const int64_t* numbers, int64_t count, int64_t value) {
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (numbers[middle] > value) high = middle;
    else low = middle + 1;
  }
  return low;
}

// ---- draws -------------------------------------------------------------------------------------

__device__ __forceinline__ void skip_gram_touch(uint32_t* touched, int32_t row) {
  const uint32_t bit = 1u << (row % 32);
  if ((load_relaxed(touched + row / 32) & bit) == 0) atomicOr(touched + row / 32, bit);
}

// Draws the negatives of word i, and returns its window; 0 where the table of negatives is none.
__device__ __forceinline__ int64_t skip_gram_draw(const SkipGramTask& task, int64_t i, int32_t id) {
  const Philox philox{task.seed, 0};
  const int64_t blocks = skip_gram_blocks(task.num_negatives);
  int32_t* drawn = task.drawn + i * task.num_negatives;
  int64_t window = 0;
  bool wrong = false;
  for (int64_t block = 0; block < blocks; ++block) {
    const Philox::Words numbers = philox(uint64_t(i * blocks + block));
#pragma unroll
    for (int number = 0; number < kPhiloxNumbers; ++number) {
      const int64_t k = block * kPhiloxNumbers + number - 1;
      if (k < 0) window = skip_gram_window(uint32_t(numbers.at[number]), task.window);
      else if (k < task.num_negatives) {
        const int64_t row = skip_gram_negative(uint32_t(numbers.at[number]), task.negatives, task.rows);
        wrong |= row >= task.rows;
        drawn[k] = int32_t(row);
      }
    }
  }
  skip_gram_skip_equals(id, drawn, task.num_negatives);
  return wrong ? 0 : window;
}

// A thread has a word, and an offset to check.
__global__ void __launch_bounds__(kSkipGramThreads) skip_gram_draw_kernel(const SkipGramTask task) {
  const int64_t i = int64_t(blockIdx.x) * kSkipGramThreads + threadIdx.x;
  unsigned wrong = 0;
  if (i <= task.sentences) {
    const int64_t offset = task.offsets[i];
    const bool good = offset >= (i == 0 ? 0 : task.offsets[i - 1]) && (i > 0 || offset == 0) &&
                      (i == task.sentences ? offset == task.num_words : offset <= task.num_words);
    wrong |= good ? 0 : kWrongOffsets;
  }
  int64_t inputs = 0;
  if (i < task.num_words) {
    const int64_t id = task.is_int64 ? static_cast<const int64_t*>(task.words)[i]
                                     : static_cast<const int32_t*>(task.words)[i];
    const int64_t next = skip_gram_first_above(task.offsets, task.sentences, i);
    const int64_t begin = task.offsets[next > 0 ? next - 1 : 0], end = task.offsets[next];
    int64_t window = 0;
    if (id < 0 || id >= task.rows) {
      wrong |= kWrongWords;
    } else {
      window = skip_gram_draw(task, i, int32_t(id));
      wrong |= window == 0 ? kWrongNegatives : 0;
    }
    const int64_t preceding = min(window, i - begin), following = min(window, end - 1 - i);
    task.places[0][i] = task.places[1][i] = int32_t(id);
    task.preceding[i] = int32_t(preceding);
    task.following[i] = int32_t(following);
    if (window > 0 && end - begin >= 2) {
      inputs = preceding + following;
      skip_gram_touch(task.touched[0], int32_t(id));
      skip_gram_touch(task.touched[1], int32_t(id));
      for (int64_t k = i * task.num_negatives; k < (i + 1) * task.num_negatives; ++k)
        if (task.drawn[k] != kSkipGramSkipped) skip_gram_touch(task.touched[1], task.drawn[k]);
    }
  }
  int64_t pairs = inputs, most = inputs;
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    pairs += __shfl_xor_sync(0xffffffffu, pairs, lanes);
    most = max(most, __shfl_xor_sync(0xffffffffu, most, lanes));
  }
  if (threadIdx.x % 32 == 0 && pairs > 0) {
    atomicAdd(&task.counters->num_pairs, static_cast<unsigned long long>(pairs));
    atomicMax(&task.counters->most_inputs, static_cast<unsigned long long>(most));
  }
  if (wrong != 0) atomicOr(&task.counters->wrong, wrong);
}

// A block for each table, whose bits its threads share out.
__global__ void __launch_bounds__(kSkipGramThreads) skip_gram_number_kernel(const SkipGramTask task) {
  SHARED(int32_t, of_warps, [kSkipGramWarps]);
  const int table = int(blockIdx.x), lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
  const int64_t size = (task.rows + 31) / 32, each = (size + kSkipGramThreads - 1) / kSkipGramThreads;
  const int64_t begin = min(size, threadIdx.x * each), end = min(size, begin + each);
  int32_t count = 0;
  for (int64_t w = begin; w < end; ++w) count += __popc(task.touched[table][w]);
  int32_t sum = count;
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const int32_t lower = __shfl_up_sync(0xffffffffu, sum, lanes);
    sum += lane >= lanes ? lower : 0;
  }
  if (lane == 31) of_warps[warp] = sum;
  __syncthreads();
  for (int lower = 0; lower < warp; ++lower) sum += of_warps[lower];
  if (threadIdx.x == kSkipGramThreads - 1) task.counters->num_rows[table] = static_cast<unsigned long long>(sum);
  int32_t before = sum - count;
  for (int64_t w = begin; w < end; ++w) {
    task.before[table][w] = before;
    before += __popc(task.touched[table][w]);
  }
}

__device__ __forceinline__ int32_t skip_gram_place(const SkipGramTask& task, int table, int64_t row) {
  const uint32_t lower = task.touched[table][row / 32] & ((1u << (row % 32)) - 1);
  return task.before[table][row / 32] + __popc(lower);
}

// A thread has a word, whose rows become places, and a row of each table, which it lists if that is touched.
__global__ void __launch_bounds__(kSkipGramThreads) skip_gram_place_kernel(const SkipGramTask task) {
  const int64_t i = int64_t(blockIdx.x) * kSkipGramThreads + threadIdx.x;
  if (i < task.num_words && task.preceding[i] + task.following[i] > 0) {
    const int32_t id = task.places[0][i];
    task.places[0][i] = skip_gram_place(task, 0, id);
    task.places[1][i] = skip_gram_place(task, 1, id);
    for (int64_t k = i * task.num_negatives; k < (i + 1) * task.num_negatives; ++k)
      if (task.drawn[k] != kSkipGramSkipped) task.drawn[k] = skip_gram_place(task, 1, task.drawn[k]);
  }
  if (i < task.rows)
    for (int table = 0; table < 2; ++table)
      if (task.touched[table][i / 32] >> (i % 32) & 1) task.touched_rows[table][skip_gram_place(task, table, i)] = i;
}

// A warp has a touched row, of the table blockIdx.y.
__global__ void __launch_bounds__(kSkipGramThreads) skip_gram_copy_kernel(const SkipGramTask task) {
  const int table = int(blockIdx.y);
  const int64_t place = int64_t(blockIdx.x) * kSkipGramWarps + threadIdx.x / 32, num_rows = task.num_rows[table];
  if (place >= num_rows) return;
  const float* row = task.tables[table] + task.touched_rows[table][place] * task.dim;
  for (int d = int(threadIdx.x % 32); d < task.dim; d += 32) {
    const float value = row[d];
    for (int64_t copy = 0; copy < task.copies; ++copy)
      task.trained[table][(copy * num_rows + place) * task.dim + d] = value;
  }
}

// ---- training ----------------------------------------------------------------------------------

// A window of a part, and the block's memory for it.
struct SkipGramFrame {
  float* input;  // the part's copies
  float* output;
  int64_t centre;
  int preceding;
  int inputs;   // its context words
  int outputs;  // the centre word and the negatives, skipped ones too
  int output_tiles;
  int tiles;
  float* steps;  // [tiles, 32]
  float* sums;   // [tiles, warps, 32]
  float* rows;   // [outputs + inputs, dim]
};

// Row r of a window in the part's copy; null for a skipped one.
__device__ __forceinline__ float* skip_gram_row(const SkipGramTask& task, const SkipGramFrame& at, int r) {
  const int c = r - at.outputs;
  const int32_t place = c >= 0   ? task.places[0][at.centre - at.preceding + c + (c >= at.preceding)]
                        : r == 0 ? task.places[1][at.centre]
                                 : task.drawn[at.centre * task.num_negatives + r - 1];
  return place == kSkipGramSkipped ? nullptr : (c < 0 ? at.output : at.input) + int64_t(place) * task.dim;
}

// This thread's dimensions of all rows; zeros of a skipped one.
__device__ __forceinline__ void skip_gram_fetch(const SkipGramTask& task, const SkipGramFrame& at) {
  const int num_rows = at.outputs + at.inputs;
  for (int first = 0; first < num_rows; first += kSkipGramAhead) {
    const float* from[kSkipGramAhead];
#pragma unroll
    for (int j = 0; j < kSkipGramAhead; ++j)
      from[j] = first + j < num_rows ? skip_gram_row(task, at, first + j) : nullptr;
    for (int d = int(threadIdx.x); d < task.dim; d += int(blockDim.x)) {
      float values[kSkipGramAhead];
#pragma unroll
      for (int j = 0; j < kSkipGramAhead; ++j) values[j] = from[j] == nullptr ? 0.0f : load_relaxed(from[j] + d);
#pragma unroll
      for (int j = 0; j < kSkipGramAhead; ++j)
        if (first + j < num_rows) at.rows[(first + j) * task.dim + d] = values[j];
    }
  }
}

// Sums over the warp: a lane gets that of the number at its own place. Lanes exchange halves, two by two.
template <int kHalf>
__device__ __forceinline__ float skip_gram_lane_sum(const float (&numbers)[2 * kHalf]) {
  const bool upper = threadIdx.x & kHalf;
  float sums[kHalf];
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const float kept = upper ? numbers[i + kHalf] : numbers[i], given = upper ? numbers[i] : numbers[i + kHalf];
    sums[i] = kept + __shfl_xor_sync(0xffffffffu, given, kHalf);
  }
  if constexpr (kHalf == 1) return sums[0];
  else return skip_gram_lane_sum<kHalf / 2>(sums);
}

// The sums of each warp for the pairs of a tile.
__device__ __forceinline__ void skip_gram_dots(const SkipGramTask& task, const SkipGramFrame& at, int tile) {
  const int c = tile / at.output_tiles * kTileInputs, k = tile % at.output_tiles * kTileOutputs;
  float sums[32] = {};
  for (int d = int(threadIdx.x); d < task.dim; d += int(blockDim.x)) {
    float outputs[kTileOutputs];
#pragma unroll
    for (int j = 0; j < kTileOutputs; ++j) outputs[j] = k + j < at.outputs ? at.rows[(k + j) * task.dim + d] : 0.0f;
#pragma unroll
    for (int i = 0; i < kTileInputs; ++i) {
      const float input = c + i < at.inputs ? at.rows[(at.outputs + c + i) * task.dim + d] : 0.0f;
#pragma unroll
      for (int j = 0; j < kTileOutputs; ++j) sums[i * kTileOutputs + j] += input * outputs[j];
    }
  }
  at.sums[tile * int(blockDim.x) + int(threadIdx.x)] = skip_gram_lane_sum<16>(sums);
}

// The step's factor of each pair, lr * slope * sign. Returns the loss of this thread's pairs.
__device__ __forceinline__ double skip_gram_steps(const SkipGramTask& task, const SkipGramFrame& at) {
  const int lane = int(threadIdx.x % 32), warps = int(blockDim.x / 32);
  double loss = 0;
  for (int tile = int(threadIdx.x / 32); tile < at.tiles; tile += warps) {
    const int c = tile / at.output_tiles * kTileInputs + lane / kTileOutputs;
    const int k = tile % at.output_tiles * kTileOutputs + lane % kTileOutputs;
    float step = 0;
    if (c < at.inputs && k < at.outputs && skip_gram_row(task, at, k) != nullptr) {
      float x = 0;
      for (int warp = 0; warp < warps; ++warp) x += at.sums[(tile * warps + warp) * 32 + lane];
      const float sign = k == 0 ? 1.0f : -1.0f;
      const SkipGramPair pair = skip_gram_pair(x, sign);
      step = task.lr * (sign * pair.slope);
      loss += double(logf(pair.factor) + pair.linear);
    }
    at.steps[tile * 32 + lane] = step;
  }
  return loss;
}

// Adds to this thread's dimensions of the part's copy, from the rows as they were.
__device__ __forceinline__ void skip_gram_move(const SkipGramTask& task, const SkipGramFrame& at) {
  for (int d = int(threadIdx.x); d < task.dim; d += int(blockDim.x))
    for (int k = 0; k < at.outputs; k += kTileOutputs) {
      float outputs[kTileOutputs], changes[kTileOutputs] = {};
#pragma unroll
      for (int j = 0; j < kTileOutputs; ++j) outputs[j] = k + j < at.outputs ? at.rows[(k + j) * task.dim + d] : 0.0f;
      for (int c = 0; c < at.inputs; ++c) {
        const int tile = c / kTileInputs * at.output_tiles + k / kTileOutputs;
        const auto steps = load_pack<kTileOutputs>(at.steps + tile * 32 + c % kTileInputs * kTileOutputs);
        const float input = at.rows[(at.outputs + c) * task.dim + d];
        float change = 0;
#pragma unroll
        for (int j = 0; j < kTileOutputs; ++j) {
          changes[j] += steps.get(j) * input;
          change += steps.get(j) * outputs[j];
        }
        atomicAdd(skip_gram_row(task, at, at.outputs + c) + d, change);
      }
#pragma unroll
      for (int j = 0; j < kTileOutputs; ++j) {
        float* row = k + j < at.outputs ? skip_gram_row(task, at, k + j) : nullptr;
        if (row != nullptr) atomicAdd(row + d, changes[j]);
      }
    }
}

// kShared: the window's rows lie in shared memory, or else in `scratch`. Loads in flight are worth more registers here
// than blocks beside this one.
template <bool kShared>
__global__ void __launch_bounds__(kSkipGramThreads, 1) skip_gram_train_kernel(const SkipGramTask task) {
  DYN_SMEM(float, shared);
  float* room = kShared ? shared : task.scratch + blockIdx.x * task.scratch_size;
  SkipGramFrame at;
  at.outputs = 1 + int(task.num_negatives);
  at.output_tiles = (at.outputs + kTileOutputs - 1) / kTileOutputs;
  const int most_tiles = (task.most_inputs + kTileInputs - 1) / kTileInputs * at.output_tiles;
  at.steps = room;
  at.sums = at.steps + most_tiles * 32;
  at.rows = at.sums + most_tiles * int(blockDim.x);
  for (int64_t part = blockIdx.x; part < task.parts; part += gridDim.x) {
    const int64_t copy = task.copies == 1 ? 0 : part;
    at.input = task.trained[0] + copy * task.num_rows[0] * task.dim;
    at.output = task.trained[1] + copy * task.num_rows[1] * task.dim;
    // The sentences that begin in [part, part + 1) * num_words / parts.
    int64_t ends[2];
    for (int end = 0; end < 2; ++end) {
      const int64_t from = ((part + end) * task.num_words + task.parts - 1) / task.parts;
      ends[end] = task.offsets[skip_gram_first_above(task.offsets, task.sentences, from - 1)];
    }
    double loss = 0;
    for (at.centre = ends[0]; at.centre < ends[1]; ++at.centre) {
      at.preceding = task.preceding[at.centre];
      at.inputs = at.preceding + task.following[at.centre];
      if (at.inputs == 0) continue;
      at.tiles = (at.inputs + kTileInputs - 1) / kTileInputs * at.output_tiles;
      skip_gram_fetch(task, at);
      for (int tile = 0; tile < at.tiles; ++tile) skip_gram_dots(task, at, tile);
      __syncthreads();
      loss += skip_gram_steps(task, at);
      __syncthreads();
      skip_gram_move(task, at);
    }
    task.losses[part * blockDim.x + threadIdx.x] = loss;
  }
}

// ---- results -----------------------------------------------------------------------------------

// A warp has a touched row, of the table blockIdx.y: the sum over the copies of (old - new) / lr.
__global__ void __launch_bounds__(kSkipGramThreads) skip_gram_delta_kernel(const SkipGramTask task) {
  const int table = int(blockIdx.y);
  const int64_t place = int64_t(blockIdx.x) * kSkipGramWarps + threadIdx.x / 32, num_rows = task.num_rows[table];
  if (place >= num_rows) return;
  const float* row = task.tables[table] + task.touched_rows[table][place] * task.dim;
  for (int d = int(threadIdx.x % 32); d < task.dim; d += 32) {
    const float old = row[d];
    float delta = 0;
    for (int64_t copy = 0; copy < task.copies; ++copy)
      delta += (old - task.trained[table][(copy * num_rows + place) * task.dim + d]) * task.rate;
    task.deltas[table][place * task.dim + d] = delta;
  }
}

// One block, for `count` losses.
__global__ void __launch_bounds__(kSkipGramThreads) skip_gram_loss_kernel(const double* losses, int64_t count,
                                                                          double* loss_sum) {
  Sums sums = {0, 0};
  for (int64_t i = threadIdx.x; i < count; i += kSkipGramThreads) sums.first += losses[i];
  sums = block_sums<kSkipGramThreads>(sums);
  if (threadIdx.x == 0) *loss_sum = sums.first;
}

}  // namespace airank_fast
