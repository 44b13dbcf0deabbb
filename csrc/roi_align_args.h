// The arguments of airank_fast::roi_align and its backward, with the same checks on every device.
#pragma once

#include <vector>

#include "pictures.h"
#include "roi_align_math.h"

namespace airank_fast {

// Of a bin's row or column the kernels on a GPU keep weights in shared memory.
constexpr int64_t kRoiMostBins = 256;

struct RoiAlignOptions {
  const std::vector<double>& scales;
  const std::vector<double>& areas;
  int64_t height;
  int64_t width;
  int64_t sampling_ratio;
  bool aligned;
  bool channels_last;
};

inline ScalarType roi_dtype(ScalarType picture) {
  return picture == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Pictures of bytes, as masks are, give float32.
inline bool is_bytes(ScalarType dtype) { return dtype == ScalarType::Byte || dtype == ScalarType::Bool; }
inline ScalarType roi_result_dtype(ScalarType picture) {
  return is_bytes(picture) ? ScalarType::Float : picture;
}

inline void check_roi_options(const char* op, const Tensor& like, const Tensor& rois, size_t num_levels,
                              const RoiAlignOptions& options) {
  CHECK_ARGUMENT(same_device(rois, like), op, ": rois must be on ", device_of(like), ", got ", device_of(rois));
  const ScalarType dtype = roi_dtype(like.scalar_type());
  CHECK_ARGUMENT(rois.scalar_type() == dtype, op, ": rois must be ", name_of(dtype), ", got ",
                 name_of(rois.scalar_type()));
  CHECK_ARGUMENT(rois.dim() == 2 && rois.size(1) == 5, op, ": rois must have shape [K, 5], got ", shape_of(rois));
  CHECK_ARGUMENT(options.scales.size() == num_levels, op, ": scales must have ", num_levels, " numbers, got ",
                 options.scales.size());
  CHECK_ARGUMENT(options.areas.size() + 1 == num_levels, op, ": areas must have ", num_levels - 1, " numbers, got ",
                 options.areas.size());
  CHECK_ARGUMENT(options.height >= 1 && options.height <= kRoiMostBins && options.width >= 1 &&
                     options.width <= kRoiMostBins,
                 op, ": output_size must be in [1, ", kRoiMostBins, "], got [", options.height, ", ", options.width,
                 "]");
  CHECK_ARGUMENT(options.sampling_ratio <= kRoiMostSamples, op, ": sampling_ratio must be at most ", kRoiMostSamples,
                 ", got ", options.sampling_ratio);
}

// The pictures of all levels; returns those that are given.
inline std::vector<Tensor> check_roi_align(const Tensor& x, const std::array<const OptionalTensor*, 3>& others,
                                           const Tensor& rois, const RoiAlignOptions& options) {
  const char* op = "roi_align";
  check_picture_shape(op, "x", x);
  const ScalarType dtype = x.scalar_type();
  CHECK_ARGUMENT(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
                     dtype == ScalarType::Half || is_bytes(dtype),
                 op, ": x must be float32, float64, bfloat16, float16, uint8 or bool, got ", name_of(dtype));
  CHECK_ARGUMENT(!options.channels_last || !is_bytes(dtype), op,
                 ": channels_last must be False for uint8 and bool, got True");
  check_picture_format(op, "x", x, options.channels_last);
  std::vector<Tensor> levels{x};
  const char* names[] = {"a", "b", "c"};
  for (size_t i = 0; i < others.size(); ++i) {
    if (!*others[i]) continue;
    const Tensor& other = **others[i];
    CHECK_ARGUMENT(same_device(other, x), op, ": ", names[i], " must be on ", device_of(x), ", got ",
                   device_of(other));
    CHECK_ARGUMENT(other.scalar_type() == dtype, op, ": ", names[i], " must be ", name_of(dtype), ", got ",
                   name_of(other.scalar_type()));
    check_picture_shape(op, names[i], other);
    CHECK_ARGUMENT(other.size(0) == x.size(0) && other.size(1) == x.size(1), op, ": ", names[i],
                   " must have shape [", x.size(0), ", ", x.size(1), ", h, w], got ", shape_of(other));
    check_picture_format(op, names[i], other, options.channels_last);
    levels.push_back(other);
  }
  check_roi_options(op, x, rois, levels.size(), options);
  return levels;
}

// The bins are the gradient's, where it has a height and a width.
inline RoiAlignOptions roi_backward_options(const Tensor& grad, const std::vector<double>& scales,
                                            const std::vector<double>& areas, int64_t sampling_ratio, bool aligned,
                                            bool channels_last) {
  const bool is_picture = grad.dim() == 4;
  return {scales,  areas, is_picture ? grad.size(2) : 0, is_picture ? grad.size(3) : 0, sampling_ratio,
          aligned, channels_last};
}

inline void check_roi_align_backward(const Tensor& grad, const Tensor& rois, int64_t pictures,
                                     const std::vector<int64_t>& sizes, const RoiAlignOptions& options) {
  const char* op = "roi_align_backward";
  check_picture(op, "grad", grad, options.channels_last);
  CHECK_ARGUMENT(pictures >= 0, op, ": pictures must be at least 0, got ", pictures);
  const bool are_pairs = !sizes.empty() && sizes.size() % 2 == 0 && sizes.size() <= 2 * kRoiLevels;
  CHECK_ARGUMENT(are_pairs && *std::min_element(sizes.begin(), sizes.end()) > 0, op,
                 ": sizes must be one to four pairs of at least 1, got ", text_of(Sizes(sizes.data(), sizes.size())));
  check_roi_options(op, grad, rois, sizes.size() / 2, options);
  CHECK_ARGUMENT(rois.size(0) == grad.size(0), op, ": rois must have shape [", grad.size(0), ", 5], got ",
                 shape_of(rois));
}

// On the CPU: the picture of a RoI.
inline void check_roi_picture(const char* op, int64_t i, double picture, int64_t pictures) {
  CHECK_ARGUMENT(picture >= 0 && picture < double(pictures), op, ": rois[", i, ", 0] must be in [0, ", pictures,
                 "), got ", picture);
}

// The gradients of all levels, of the gradient's dtype.
inline std::vector<Tensor> roi_gradients(const Tensor& grad, int64_t pictures, const std::vector<int64_t>& sizes,
                                         bool channels_last) {
  std::vector<Tensor> results;
  for (size_t l = 0; l + 1 < sizes.size(); l += 2)
    results.push_back(empty_picture(grad, {pictures, grad.size(1), sizes[l], sizes[l + 1]}, channels_last));
  return results;
}

}  // namespace airank_fast
