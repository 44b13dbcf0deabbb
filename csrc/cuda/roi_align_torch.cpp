// airank_fast::roi_align and its backward for CUDA tensors: checks, addresses, the current stream; the work is in
// roi_align.cu.
#include "../roi_align_args.h"
#include "binding.h"
#include "roi_align.h"

namespace airank_fast {
namespace {

RoiAlignLaunch describe(const Tensor& like, const Tensor& rois, int64_t pictures, const std::vector<Tensor>& levels,
                        const RoiAlignOptions& options) {
  RoiAlignLaunch work;
  work.dtype = dtype_of(like);
  work.pictures = pictures;
  work.channels = like.size(1);
  work.num_rois = rois.size(0);
  work.height = options.height;
  work.width = options.width;
  work.sampling_ratio = options.sampling_ratio;
  work.aligned = options.aligned;
  work.channels_last = options.channels_last;
  work.rois = rois.data_ptr();
  for (const Tensor& level : levels) {
    const size_t l = size_t(work.num_levels++);
    work.levels[l] = {level.data_ptr(), level.size(2), level.size(3), options.scales[l]};
    if (l > 0) work.areas[l - 1] = options.areas[l - 1];
  }
  return work;
}

Tensor roi_align_cuda(Tensor x, OptionalTensor a, OptionalTensor b, OptionalTensor c, Tensor rois,
                      std::vector<double> scales, std::vector<double> areas, int64_t height, int64_t width,
                      int64_t sampling_ratio, bool aligned, bool channels_last) {
  const RoiAlignOptions options{scales, areas, height, width, sampling_ratio, aligned, channels_last};
  const std::vector<Tensor> levels = check_roi_align(x, {&a, &b, &c}, rois, options);
  const OnDevice device(x);
  rois = as_contiguous(rois);
  Tensor y = empty_picture(x, {rois.size(0), x.size(1), height, width}, channels_last,
                           roi_result_dtype(x.scalar_type()));
  RoiAlignLaunch work = describe(x, rois, x.size(0), levels, options);
  work.result = y.data_ptr();
  check_launch("roi_align", launch_roi_align(work, device.stream()));
  return y;
}

std::vector<Tensor> roi_align_backward_cuda(Tensor grad, Tensor rois, int64_t pictures, std::vector<int64_t> sizes,
                                            std::vector<double> scales, std::vector<double> areas,
                                            int64_t sampling_ratio, bool aligned, bool channels_last) {
  const RoiAlignOptions options = roi_backward_options(grad, scales, areas, sampling_ratio, aligned, channels_last);
  check_roi_align_backward(grad, rois, pictures, sizes, options);
  const OnDevice device(grad);
  rois = as_contiguous(rois);
  const std::vector<Tensor> gradients = roi_gradients(grad, pictures, sizes, channels_last);
  RoiAlignLaunch work = describe(grad, rois, pictures, gradients, options);
  work.grad = grad.data_ptr();
  check_launch("roi_align_backward", launch_roi_align_backward(work, device.stream()));
  return gradients;
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("roi_align", TORCH_BOX(&airank_fast::roi_align_cuda));
  m.impl("roi_align_backward", TORCH_BOX(&airank_fast::roi_align_backward_cuda));
}
