// Skip-gram on the GPU: divides the workspaces, chooses the grids, and waits for what the draws have found. Free of
// torch, so that tests can compile it for the CPU.
#include "skip_gram.h"

#include <algorithm>

#include "skip_gram.cuh"

namespace airank_fast {
namespace {

constexpr int64_t kScratchBlocks = 64;  // at most, where a window does not fit into shared memory

// Hands out parts of one allocation, each at a multiple of 16 bytes; without one it measures.
class Workspace {
 public:
  explicit Workspace(void* memory) : memory_(static_cast<char*>(memory)) {}

  template <typename T>
  T* take(int64_t count) {
    char* const taken = memory_ == nullptr ? nullptr : memory_ + bytes_;
    bytes_ += ceil_div(count * int64_t(sizeof(T)), 16) * 16;
    return reinterpret_cast<T*>(taken);
  }

  int64_t bytes() const { return bytes_; }

 private:
  char* memory_;
  int64_t bytes_ = 0;
};

int64_t take_draws(const SkipGramLaunch& work, SkipGramTask& task) {
  Workspace workspace(work.draws);
  const int64_t bit_words = ceil_div(work.rows, 32);
  task.counters = workspace.take<SkipGramCounters>(1);
  for (uint32_t*& touched : task.touched) touched = workspace.take<uint32_t>(bit_words);
  for (int32_t*& before : task.before) before = workspace.take<int32_t>(bit_words);
  for (int32_t*& places : task.places) places = workspace.take<int32_t>(work.num_words);
  task.preceding = workspace.take<int32_t>(work.num_words);
  task.following = workspace.take<int32_t>(work.num_words);
  task.drawn = workspace.take<int32_t>(work.num_words * work.num_negatives);
  return workspace.bytes();
}

SkipGramTask describe(const SkipGramLaunch& work) {
  SkipGramTask task = {};
  for (int table = 0; table < 2; ++table) task.tables[table] = work.tables[table];
  task.words = work.words;
  task.offsets = work.offsets;
  task.negatives = work.negatives;
  task.rows = work.rows;
  task.num_words = work.num_words;
  task.sentences = work.sentences;
  task.window = work.window;
  task.num_negatives = work.num_negatives;
  task.seed = uint64_t(work.seed);
  task.parts = work.parts;
  task.is_int64 = work.is_int64;
  task.dim = int(work.dim);
  task.lr = float(work.lr);
  task.rate = float(1 / work.lr);
  task.copies = work.unlocked ? 1 : work.parts;
  take_draws(work, task);
  return task;
}

// The training's launch.
struct Plan {
  int threads;         // of a part
  int64_t room;        // floats of a block
  bool is_shared;      // in shared memory
  int64_t num_blocks;
};

// Threads have whole dimensions, as equally many as possible.
int threads_of(int64_t dim) {
  const int64_t each = std::max<int64_t>(1, ceil_div(dim, kSkipGramThreads));
  return int(std::max<int64_t>(1, ceil_div(ceil_div(dim, each), 32)) * 32);
}

Plan plan_of(const SkipGramLaunch& work, const SkipGramFound& found) {
  int device = 0, most_bytes = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&most_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess)
    most_bytes = 48 << 10;
  const int threads = threads_of(work.dim);
  const int64_t outputs = 1 + work.num_negatives;
  const int64_t tiles = ceil_div(found.most_inputs, kTileInputs) * ceil_div(outputs, kTileOutputs);
  const int64_t room = ceil_div(tiles * (32 + threads) + (outputs + found.most_inputs) * work.dim, 4) * 4;
  const bool is_shared = room * int64_t(sizeof(float)) <= most_bytes;
  const int64_t most_blocks = is_shared ? INT32_MAX : kScratchBlocks;
  return {threads, room, is_shared, std::min(work.parts, most_blocks)};
}

int64_t take_training(const SkipGramLaunch& work, const SkipGramFound& found, const Plan& plan,
                      const SkipGramResults& results, SkipGramTask& task) {
  Workspace workspace(results.workspace);
  task.losses = workspace.take<double>(work.parts * plan.threads);
  for (int table = 0; table < 2; ++table) {
    const int64_t size = task.copies * found.num_rows[table] * work.dim;
    task.trained[table] = task.copies == 1 ? results.deltas[table] : workspace.take<float>(size);
  }
  if (!plan.is_shared) task.scratch = workspace.take<float>(plan.num_blocks * plan.room);
  task.scratch_size = plan.room;
  return workspace.bytes();
}

dim3 grid_of(int64_t count, int64_t each, unsigned tables = 1) {
  return dim3(unsigned(ceil_div(std::max<int64_t>(count, 1), each)), tables);
}

constexpr dim3 kBlock(kSkipGramThreads);

template <bool kShared>
cudaError_t train(const SkipGramTask& task, const Plan& plan, cudaStream_t stream) {
  const size_t bytes = kShared ? size_t(plan.room) * sizeof(float) : 0;
  if (kShared) {
    const cudaError_t error = cudaFuncSetAttribute(skip_gram_train_kernel<kShared>,
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
    if (error != cudaSuccess) return error;
  }
  return launch(skip_gram_train_kernel<kShared>, dim3(unsigned(plan.num_blocks)), dim3(unsigned(plan.threads)), bytes,
                stream, task);
}

}  // namespace

int64_t skip_gram_draws_bytes(const SkipGramLaunch& work) {
  SkipGramTask task = {};
  return take_draws(work, task);
}

int64_t skip_gram_training_bytes(const SkipGramLaunch& work, const SkipGramFound& found) {
  SkipGramTask task = {};
  task.copies = work.unlocked ? 1 : work.parts;
  return take_training(work, found, plan_of(work, found), {}, task);
}

cudaError_t launch_skip_gram_draws(const SkipGramLaunch& work, SkipGramFound& found, cudaStream_t stream) {
  const SkipGramTask task = describe(work);
  const auto* zeros_end = reinterpret_cast<const char*>(task.before[0]);
  const size_t zero_bytes = size_t(zeros_end - reinterpret_cast<const char*>(task.counters));
  cudaError_t error = cudaMemsetAsync(task.counters, 0, zero_bytes, stream);
  if (error != cudaSuccess) return error;
  const dim3 of_words = grid_of(std::max(work.num_words, work.sentences + 1), kSkipGramThreads);
  error = launch(skip_gram_draw_kernel, of_words, kBlock, 0, stream, task);
  if (error != cudaSuccess) return error;
  error = launch(skip_gram_number_kernel, dim3(2), kBlock, 0, stream, task);
  if (error != cudaSuccess) return error;
  SkipGramCounters counters;
  error = cudaMemcpyAsync(&counters, task.counters, sizeof(counters), cudaMemcpyDeviceToHost, stream);
  if (error != cudaSuccess) return error;
  error = cudaStreamSynchronize(stream);
  if (error != cudaSuccess) return error;
  found.wrong_offsets = counters.wrong & kWrongOffsets;
  found.wrong_words = counters.wrong & kWrongWords;
  found.wrong_negatives = counters.wrong & kWrongNegatives;
  found.num_pairs = int64_t(counters.num_pairs);
  found.most_inputs = int64_t(counters.most_inputs);
  for (int table = 0; table < 2; ++table) found.num_rows[table] = int64_t(counters.num_rows[table]);
  return cudaSuccess;
}

cudaError_t launch_skip_gram_training(const SkipGramLaunch& work, const SkipGramFound& found,
                                      const SkipGramResults& results, cudaStream_t stream) {
  if (found.num_pairs == 0)
    return launch(skip_gram_loss_kernel, dim3(1), kBlock, 0, stream, nullptr, 0, results.loss_sum);
  SkipGramTask task = describe(work);
  const Plan plan = plan_of(work, found);
  if (plan.room > INT32_MAX) return cudaErrorInvalidValue;
  take_training(work, found, plan, results, task);
  task.most_inputs = int(found.most_inputs);
  for (int table = 0; table < 2; ++table) {
    task.num_rows[table] = found.num_rows[table];
    task.touched_rows[table] = results.rows[table];
    task.deltas[table] = results.deltas[table];
  }
  const dim3 of_places = grid_of(std::max(work.num_words, work.rows), kSkipGramThreads);
  const dim3 of_rows = grid_of(std::max(found.num_rows[0], found.num_rows[1]), kSkipGramWarps, 2);
  cudaError_t error = launch(skip_gram_place_kernel, of_places, kBlock, 0, stream, task);
  if (error != cudaSuccess) return error;
  error = launch(skip_gram_copy_kernel, of_rows, kBlock, 0, stream, task);
  if (error != cudaSuccess) return error;
  error = plan.is_shared ? train<true>(task, plan, stream) : train<false>(task, plan, stream);
  if (error != cudaSuccess) return error;
  error = launch(skip_gram_delta_kernel, of_rows, kBlock, 0, stream, task);
  if (error != cudaSuccess) return error;
  return launch(skip_gram_loss_kernel, dim3(1), kBlock, 0, stream, task.losses, work.parts * plan.threads,
                results.loss_sum);
}

}  // namespace airank_fast
