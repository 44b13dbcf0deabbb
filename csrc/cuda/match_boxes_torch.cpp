// airank_fast::match_boxes for CUDA tensors: checks, addresses, the current stream; the work is in match_boxes.cu.
#include "match_boxes.h"

#include <tuple>

#include "../match_boxes_args.h"
#include "binding.h"

namespace airank_fast {
namespace {

const int64_t* int64s(const Tensor& tensor) { return static_cast<const int64_t*>(tensor.data_ptr()); }

std::tuple<Tensor, Tensor> match_boxes_cuda(Tensor boxes, OptionalTensor box_offsets, Tensor truths,
                                            Tensor truth_offsets, double high_threshold, double low_threshold,
                                            bool allow_low_quality_matches) {
  check_match_boxes(boxes, box_offsets, truths, truth_offsets,
                    {high_threshold, low_threshold, allow_low_quality_matches});
  const OnDevice device(boxes);
  boxes = as_contiguous(boxes);
  box_offsets = as_contiguous(box_offsets);
  truths = as_contiguous(truths);
  truth_offsets = as_contiguous(truth_offsets);
  MatchLaunch work;
  work.dtype = dtype_of(boxes);
  work.pictures = truth_offsets.size(0) - 1;
  work.num_truths = truths.size(0);
  if (boxes.is_cpu()) {
    check_match_contents("truth_offsets", int64s(truth_offsets), work.pictures, work.num_truths);
    if (box_offsets) check_match_contents("box_offsets", int64s(*box_offsets), work.pictures, boxes.size(0));
  }
  work.boxes = boxes.data_ptr();
  work.boxes_each = boxes.size(boxes.dim() - 2);
  work.boxes_of_all = boxes.dim() == 2;
  work.box_offsets = box_offsets ? int64s(*box_offsets) : nullptr;
  work.results = box_offsets ? boxes.size(0) : work.pictures * work.boxes_each;
  work.truths = truths.data_ptr();
  work.truth_offsets = int64s(truth_offsets);
  work.low = low_threshold;
  work.high = high_threshold;
  work.allow_low_quality = allow_low_quality_matches;
  const Tensor largest = empty_beside(truths, {allow_low_quality_matches ? work.num_truths : 0});
  work.largest = largest.data_ptr();
  const auto made = [&](ScalarType dtype) {
    return box_offsets ? empty_beside(boxes, {boxes.size(0)}, dtype)
                       : empty_beside(boxes, {work.pictures, work.boxes_each}, dtype);
  };
  const Tensor matches = made(ScalarType::Long), ious = made(boxes.scalar_type());
  work.matches = static_cast<int64_t*>(matches.data_ptr());
  work.ious = ious.data_ptr();
  check_launch("match_boxes", launch_match_boxes(work, device.stream()));
  return {matches, ious};
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("match_boxes", TORCH_BOX(&airank_fast::match_boxes_cuda));
}
