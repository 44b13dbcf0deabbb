// airank_fast::nms and nms_padded for CUDA tensors: checks, torch's sort, addresses, the current stream; the work is in
// nms.cu.
#include "nms.h"

#include <array>
#include <optional>
#include <tuple>

#include "../nms_args.h"
#include "binding.h"

namespace airank_fast {
namespace {

// The indices by falling score; equal ones stay in their order.
Tensor nms_order(const Tensor& scores) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 4> stack{from(scores), from(std::optional<bool>(true)), from(int64_t(0)), from(true)};
  check_torch(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  to<Tensor>(stack[0]);  // the scores, which are owned
  return to<Tensor>(stack[1]);
}

std::tuple<Tensor, Tensor> kept_of(const char* op, Tensor boxes, const Tensor& scores, OptionalTensor idxs,
                                   double threshold, cudaStream_t stream) {
  boxes = as_contiguous(boxes);
  idxs = as_contiguous(idxs);
  const Tensor order = nms_order(scores);
  const Tensor kept = empty_beside(boxes, {boxes.size(0)}, ScalarType::Long);
  const Tensor count = empty_beside(boxes, {}, ScalarType::Long);
  NmsLaunch work;
  work.dtype = dtype_of(boxes);
  work.count = boxes.size(0);
  const Tensor workspace = empty_beside(boxes, {nms_workspace(work.count)}, ScalarType::Long);
  work.boxes = boxes.data_ptr();
  work.order = static_cast<const int64_t*>(order.data_ptr());
  work.groups = idxs ? static_cast<const int64_t*>(idxs->data_ptr()) : nullptr;
  work.threshold = threshold;
  work.workspace = static_cast<uint64_t*>(workspace.data_ptr());
  work.kept = static_cast<int64_t*>(kept.data_ptr());
  work.num_kept = static_cast<int64_t*>(count.data_ptr());
  check_launch(op, launch_nms(work, stream));
  return {kept, count};
}

std::tuple<Tensor, Tensor> nms_padded_cuda(Tensor boxes, Tensor scores, OptionalTensor idxs, double threshold) {
  check_nms("nms_padded", boxes, scores, idxs);
  const OnDevice device(boxes);
  return kept_of("nms_padded", boxes, scores, idxs, threshold, device.stream());
}

Tensor nms_cuda(Tensor boxes, Tensor scores, OptionalTensor idxs, double threshold) {
  check_nms("nms", boxes, scores, idxs);
  const OnDevice device(boxes);
  const auto [kept, count] = kept_of("nms", boxes, scores, idxs, threshold, device.stream());
  int64_t number = 0;
  check_launch("nms", cudaMemcpyAsync(&number, count.data_ptr(), sizeof(number), cudaMemcpyDeviceToHost,
                                      device.stream()));
  check_launch("nms", cudaStreamSynchronize(device.stream()));
  Tensor result = empty_beside(kept, {number});
  if (number > 0)
    check_launch("nms", cudaMemcpyAsync(result.data_ptr(), kept.data_ptr(), size_t(number) * sizeof(int64_t),
                                        cudaMemcpyDeviceToDevice, device.stream()));
  return result;
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("nms", TORCH_BOX(&airank_fast::nms_cuda));
  m.impl("nms_padded", TORCH_BOX(&airank_fast::nms_padded_cuda));
}
