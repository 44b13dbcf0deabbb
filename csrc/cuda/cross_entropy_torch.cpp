// airank_fast::cross_entropy and its backward for CUDA tensors: checks, addresses, the current stream; the work is in
// cross_entropy.cu.
#include <tuple>

#include "../cross_entropy_args.h"
#include "binding.h"
#include "cross_entropy.h"

namespace airank_fast {
namespace {

CrossEntropyLaunch describe(const Tensor& logits, const Tensor& target, double label_smoothing, int64_t ignore_index) {
  CrossEntropyLaunch work;
  work.dtype = dtype_of(logits);
  work.num_rows = logits.size(0);
  work.num_classes = logits.size(1);
  work.logits = logits.data_ptr();
  work.logits_stride = logits.stride(0);
  work.target = static_cast<const int64_t*>(target.data_ptr());
  work.ignore_index = ignore_index;
  work.label_smoothing = label_smoothing;
  return work;
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy_cuda(Tensor logits, Tensor target, double label_smoothing,
                                                      int64_t ignore_index, int64_t reduction,
                                                      bool /*inplace_backward: autograd's*/) {
  check_cross_entropy(logits, target, label_smoothing, reduction);
  const OnDevice device(logits);
  target = as_contiguous(target);
  check_targets(target, logits.size(1), ignore_index);
  logits = with_dense_rows(logits);
  const bool reduced = Reduction(reduction) != Reduction::kNone;
  const int64_t rows = logits.size(0);
  const ScalarType wide = loss_dtype(logits);
  Tensor losses = empty_beside(logits, {rows}, wide);
  Tensor statistics = empty_beside(logits, {rows, 2}, wide);
  Tensor scale = empty_beside(logits, {}, wide);
  Tensor loss = reduced ? empty_beside(logits, {}, wide) : losses;

  CrossEntropyLaunch work = describe(logits, target, label_smoothing, ignore_index);
  work.mean = Reduction(reduction) == Reduction::kMean;
  work.statistics = statistics.data_ptr();
  work.scale = scale.data_ptr();
  work.losses = losses.data_ptr();
  work.loss = reduced ? loss.data_ptr() : nullptr;
  check_launch("cross_entropy", launch_cross_entropy(work, device.stream()));
  return {loss, statistics, scale};
}

void write_gradient(const Tensor& grad, const Tensor& logits, const Tensor& target, const Tensor& statistics,
                    const Tensor& scale, double label_smoothing, int64_t ignore_index, const Tensor& gradient) {
  check_cross_entropy_backward(grad, logits, target, statistics, scale, label_smoothing);
  const OnDevice device(logits);
  const Tensor dense_grad = as_contiguous(grad), dense_target = as_contiguous(target),
               dense_statistics = as_contiguous(statistics);
  CrossEntropyLaunch work = describe(logits, dense_target, label_smoothing, ignore_index);
  work.statistics = dense_statistics.data_ptr();
  work.scale = scale.data_ptr();
  work.grad = dense_grad.data_ptr();
  work.grad_stride = grad.dim();
  work.gradient = gradient.data_ptr();
  work.gradient_stride = gradient.stride(0);
  check_launch("cross_entropy_backward", launch_cross_entropy_backward(work, device.stream()));
}

Tensor cross_entropy_backward_cuda(Tensor grad, Tensor logits, Tensor target, Tensor statistics, Tensor scale,
                                   double label_smoothing, int64_t ignore_index) {
  const Tensor dense = with_dense_rows(logits);
  Tensor gradient = empty_beside(logits, logits.sizes());
  write_gradient(grad, dense, target, statistics, scale, label_smoothing, ignore_index, gradient);
  return gradient;
}

void cross_entropy_backward_in_place_cuda(Tensor logits, Tensor grad, Tensor target, Tensor statistics, Tensor scale,
                                          double label_smoothing, int64_t ignore_index) {
  const Tensor dense = with_dense_rows(logits);
  write_gradient(grad, dense, target, statistics, scale, label_smoothing, ignore_index, dense);
  if (dense.data_ptr() != logits.data_ptr()) torch::stable::copy_(logits, dense);
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("cross_entropy", TORCH_BOX(&airank_fast::cross_entropy_cuda));
  m.impl("cross_entropy_backward", TORCH_BOX(&airank_fast::cross_entropy_backward_cuda));
  m.impl("cross_entropy_backward_", TORCH_BOX(&airank_fast::cross_entropy_backward_in_place_cuda));
}
