// airank_fast::upsample_cross_entropy, upsample_argmax and upsample_confusion for CUDA tensors: checks, addresses, the
// current stream; the work is in upsample_cross_entropy.cu.
#include <tuple>

#include "../upsample_cross_entropy_args.h"
#include "binding.h"
#include "upsample_cross_entropy.h"

namespace airank_fast {
namespace {

UpsampleLaunch describe(const Tensor& logits, int64_t height, int64_t width, bool align_corners) {
  UpsampleLaunch work;
  work.dtype = dtype_of(logits);
  work.pictures = logits.size(0);
  work.classes = logits.size(1);
  work.in_height = logits.size(2);
  work.in_width = logits.size(3);
  work.height = height;
  work.width = width;
  work.align_corners = align_corners;
  work.logits = logits.data_ptr();
  for (int d = 0; d < 4; ++d) work.strides[d] = logits.stride(d);
  return work;
}

UpsampleLaunch describe(const Tensor& logits, const Tensor& labels, int64_t ignore_index, bool align_corners) {
  UpsampleLaunch work = describe(logits, labels.size(1), labels.size(2), align_corners);
  work.labels = labels.data_ptr();
  work.labels_are_bytes = labels.scalar_type() == ScalarType::Byte;
  work.ignore_index = ignore_index;
  return work;
}

std::tuple<Tensor, Tensor, Tensor> upsample_cross_entropy_cuda(Tensor logits, Tensor labels, OptionalTensor count,
                                                               int64_t ignore_index, bool align_corners,
                                                               bool with_gradient) {
  check_upsample_cross_entropy(logits, labels, count);
  const OnDevice device(logits);
  const ScalarType wide = upsample_loss_dtype(logits);
  labels = as_contiguous(labels);
  Tensor loss = empty_beside(logits, {}, wide), scale = empty_beside(logits, {}, wide);
  Tensor gradient = with_gradient ? upsample_gradient(logits, wide) : empty_beside(logits, {0}, wide);
  UpsampleLaunch work = describe(logits, labels, ignore_index, align_corners);
  Tensor statistics = empty_beside(logits, {labels.numel(), 2}, wide);
  Tensor sums = empty_beside(logits, {upsample_partial_sums(work)}, ScalarType::Double);
  work.count = count ? count->data_ptr() : nullptr;
  work.loss = loss.data_ptr();
  work.scale = scale.data_ptr();
  work.gradient = with_gradient ? gradient.data_ptr() : nullptr;
  work.channels_last = with_gradient && !gradient.is_contiguous();
  work.statistics = statistics.data_ptr();
  work.partial_sums = static_cast<double*>(sums.data_ptr());
  check_launch("upsample_cross_entropy", launch_upsample_cross_entropy(work, device.stream()));
  return {loss, gradient, scale};
}

Tensor upsample_argmax_cuda(Tensor logits, int64_t height, int64_t width, bool align_corners) {
  check_upsample_argmax(logits, height, width);
  const OnDevice device(logits);
  Tensor result = empty_beside(logits, {logits.size(0), height, width}, ScalarType::Long);
  if (result.numel() == 0) return result;
  UpsampleLaunch work = describe(logits, height, width, align_corners);
  work.predicted = static_cast<int64_t*>(result.data_ptr());
  check_launch("upsample_argmax", launch_upsample_classes(work, device.stream()));
  return result;
}

Tensor upsample_confusion_cuda(Tensor logits, Tensor labels, int64_t ignore_index, bool align_corners) {
  check_upsample_labels("upsample_confusion", logits, labels);
  const OnDevice device(logits);
  Tensor result = torch::stable::new_zeros(logits, {logits.size(1), logits.size(1)}, ScalarType::Long);
  if (labels.numel() == 0) return result;
  labels = as_contiguous(labels);
  UpsampleLaunch work = describe(logits, labels, ignore_index, align_corners);
  work.confusion = static_cast<int64_t*>(result.data_ptr());
  check_launch("upsample_confusion", launch_upsample_classes(work, device.stream()));
  return result;
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("upsample_cross_entropy", TORCH_BOX(&airank_fast::upsample_cross_entropy_cuda));
  m.impl("upsample_argmax", TORCH_BOX(&airank_fast::upsample_argmax_cuda));
  m.impl("upsample_confusion", TORCH_BOX(&airank_fast::upsample_confusion_cuda));
}
