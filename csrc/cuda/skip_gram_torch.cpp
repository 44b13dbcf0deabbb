// airank_fast::skip_gram for CUDA tensors: checks, addresses, the current stream; the work is in skip_gram.cu.
#include "skip_gram.h"

#include <tuple>

#include "../skip_gram_args.h"
#include "binding.h"

namespace airank_fast {
namespace {

const char* const kOp = "skip_gram";

// Throws for what the device has found in the contents, in the words of the CPU kernel.
void check_contents(const SkipGramFound& found, const Tensor& words, const Tensor& offsets, int64_t rows) {
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  if (found.wrong_offsets) {
    const Tensor numbers = torch::stable::to(offsets, cpu);
    check_skip_gram_offsets(static_cast<const int64_t*>(numbers.data_ptr()), offsets.numel() - 1, words.numel());
  }
  if (found.wrong_words) {
    const Tensor ids = torch::stable::to(words, ScalarType::Long, std::nullopt, cpu);
    for (int64_t i = 0; i < ids.numel(); ++i)
      check_skip_gram_word(i, static_cast<const int64_t*>(ids.data_ptr())[i], rows);
  }
  check_skip_gram_negatives(found.wrong_negatives);
}

// For numbers that the host knows already.
Tensor scalar_on_cpu(int64_t number) {
  AtenTensorHandle made = nullptr;
  check_torch(aoti_torch_empty_strided(0, nullptr, nullptr, aoti_torch_dtype_int64(), aoti_torch_device_type_cpu(), -1,
                                       &made));
  const Tensor scalar(made);
  *static_cast<int64_t*>(scalar.data_ptr()) = number;
  return scalar;
}

// An allocation for at least so many bytes.
Tensor workspace_of(const Tensor& like, int64_t bytes) {
  return empty_beside(like, {ceil_div(bytes, 8)}, ScalarType::Long);
}

using Results = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Results skip_gram_cuda(Tensor input, Tensor output, Tensor words, Tensor offsets, Tensor negatives, double lr,
                       int64_t window, int64_t num_negatives, int64_t seed, int64_t threads, bool unlocked) {
  check_skip_gram(input, output, words, offsets, negatives, {lr, window, num_negatives, seed, threads, unlocked});
  const OnDevice device(input);
  words = as_contiguous(words);
  offsets = as_contiguous(offsets);
  negatives = as_contiguous(negatives);
  SkipGramLaunch work;
  work.tables[0] = static_cast<const float*>(input.data_ptr());
  work.tables[1] = static_cast<const float*>(output.data_ptr());
  work.rows = input.size(0);
  work.dim = input.size(1);
  work.words = words.data_ptr();
  work.is_int64 = words.scalar_type() == ScalarType::Long;
  work.num_words = words.numel();
  work.offsets = static_cast<const int64_t*>(offsets.data_ptr());
  work.sentences = offsets.numel() - 1;
  work.negatives = static_cast<const int64_t*>(negatives.data_ptr());
  work.lr = lr;
  work.window = window;
  work.num_negatives = num_negatives;
  work.seed = seed;
  work.parts = threads;
  work.unlocked = unlocked;
  const Tensor draws = workspace_of(input, skip_gram_draws_bytes(work));
  work.draws = draws.data_ptr();
  SkipGramFound found;
  check_launch(kOp, launch_skip_gram_draws(work, found, device.stream()));
  check_contents(found, words, offsets, work.rows);

  const Tensor workspace = workspace_of(input, skip_gram_training_bytes(work, found));
  const Tensor loss_sum = empty_beside(input, {}, ScalarType::Double);
  const Tensor rows[] = {empty_beside(input, {found.num_rows[0]}, ScalarType::Long),
                         empty_beside(input, {found.num_rows[1]}, ScalarType::Long)};
  const Tensor deltas[] = {empty_beside(input, {found.num_rows[0], work.dim}),
                           empty_beside(input, {found.num_rows[1], work.dim})};
  SkipGramResults results;
  for (int table = 0; table < 2; ++table) {
    results.rows[table] = static_cast<int64_t*>(rows[table].data_ptr());
    results.deltas[table] = static_cast<float*>(deltas[table].data_ptr());
  }
  results.loss_sum = static_cast<double*>(loss_sum.data_ptr());
  results.workspace = workspace.data_ptr();
  check_launch(kOp, launch_skip_gram_training(work, found, results, device.stream()));
  return {loss_sum, scalar_on_cpu(found.num_pairs), rows[0], deltas[0], rows[1], deltas[1]};
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("skip_gram", TORCH_BOX(&airank_fast::skip_gram_cuda));
}
