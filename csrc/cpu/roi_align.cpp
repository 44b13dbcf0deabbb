// RoIAlign over the levels of a pyramid on the CPU, and its backward; formula in roi_align_math.h.
//
// RoIs are put into groups, by level and picture. Contiguous pictures are parallel over planes: all RoIs of a group read
// one plane, which stays in the cache. channels_last ones are parallel over RoIs, and in backward over channels. So each
// gradient is added up by one thread, over RoIs in their order: the same for any number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstring>
#include <limits>

#include "roi_align_loops.h"
#include "streaming.h"

namespace airank_fast {
namespace {

// Channels of a channels_last gradient that a thread takes at least: whole lines of the cache, and whole loops.
constexpr int64_t kChannels = 64;

// Calls work(next) on threads, where next() is the number of the next item, or -1: items differ in size.
template <typename Work>
void share_items(int64_t items, Work work) {
  std::atomic<int64_t> taken{0};
  const auto next = [&]() -> int64_t {
    const int64_t item = taken++;
    return item < items ? item : -1;
  };
  const int64_t threads = std::min<int64_t>(items, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) { work(next); });
}

void fill_zeros(const Tensor& tensor, int64_t element_bytes) {
  char* data = static_cast<char*>(tensor.data_ptr());
  torch::stable::parallel_for(0, tensor.numel(), int64_t(1) << 16, [&](int64_t begin, int64_t end) {
    std::memset(data + begin * element_bytes, 0, size_t((end - begin) * element_bytes));
  });
}

// Into the cache, line by line: the short rows of windows would be fetched one by one.
template <typename M>
void fetch(const M* from, int64_t count) {
  for (int64_t i = 0; i < count; i += kLineBytes / int64_t(sizeof(M))) __builtin_prefetch(from + i);
}

// Calls run(T{}) with the element type.
template <typename Run>
void with_element_type(const Tensor& x, Run run) {
  switch (x.scalar_type()) {
    case ScalarType::Double: return run(double{});
    case ScalarType::BFloat16: return run(bfloat16{});
    case ScalarType::Half: return run(float16{});
    case ScalarType::Float: return run(float{});
    default: return run(uint8_t{});
  }
}

template <typename T> using roi_math_t = math_t<std::conditional_t<std::is_same_v<T, uint8_t>, float, T>>;
template <typename T> using roi_result_t = std::conditional_t<std::is_same_v<T, uint8_t>, float, T>;

// The most cells of a bin.
template <typename M>
int64_t most_cells(const RoiPlan<M>& plan) {
  const auto most = [](const RoiTaps<M>& taps) {
    int32_t longest = 0;
    for (size_t i = 0; i + 1 < taps.begins.size(); ++i) longest = std::max(longest, taps.begins[i + 1] - taps.begins[i]);
    return int64_t(longest);
  };
  return most(plan.rows) * most(plan.columns);
}

// RoIs without a cell are 0, and those that are not finite NaN.
template <typename R, typename M>
void fill_rest(const RoiPlan<M>& plan, int64_t roi_size, R* result) {
  for (size_t k = 0; k < plan.windows.size(); ++k) {
    const RoiWindow& window = plan.windows[k];
    if (window.rows > 0 && window.columns > 0) continue;
    R value;
    store(&value, window.is_finite ? M(0) : std::numeric_limits<M>::quiet_NaN());
    std::fill_n(result + int64_t(k) * roi_size, roi_size, value);
  }
}

template <typename T>
void planes_forward(const RoiPlan<roi_math_t<T>>& plan, const std::vector<Tensor>& levels, int64_t roi_size,
                    roi_result_t<T>* result) {
  using M = roi_math_t<T>;
  using R = roi_result_t<T>;
  const int64_t channels = levels[0].size(1), bins = roi_size / channels;
  const auto loop = choose<RoiPlaneLoop<M, R>>();
  const auto convert = choose<RoiConvertLoop<T, M>>();
  share_items(int64_t(plan.groups.size()) * channels, [&](auto next) {
    Scratch<M> sums(kRoiRows * plan.most_columns);
    std::vector<M> wide;
    for (int64_t item; (item = next()) >= 0;) {
      const RoiGroup& group = plan.groups[size_t(item / channels)];
      const Tensor& picture = levels[size_t(group.level)];
      const int64_t c = item % channels, width = picture.size(3), size = picture.size(2) * width;
      const T* data = static_cast<const T*>(picture.data_ptr()) + (group.picture * channels + c) * size;
      const int64_t first = group.first_row * width, count = (group.last_row - group.first_row) * width;
      const M* plane;
      if constexpr (std::is_same_v<T, M>) {
        fetch(data + first, count);
        plane = data;
      } else {
        wide.resize(size_t(size));
        convert(data + first, count, wide.data() + first);
        plane = wide.data();
      }
      for (const int32_t k : group.rois)
        loop(roi_view(plan, k), plane, width, sums.data(), result + (k * channels + c) * bins);
    }
  });
}

template <typename T>
void planes_backward(const RoiPlan<math_t<T>>& plan, const T* grad, int64_t bins, const std::vector<Tensor>& levels) {
  using M = math_t<T>;
  const int64_t channels = levels[0].size(1);
  const auto loop = choose<RoiPlaneBackwardLoop<M, T>>();
  const auto convert = choose<RoiConvertLoop<M, T>>();
  share_items(int64_t(plan.groups.size()) * channels, [&](auto next) {
    Scratch<M> sums(kRoiRows * plan.most_columns);
    std::vector<M> wide;
    for (int64_t item; (item = next()) >= 0;) {
      const RoiGroup& group = plan.groups[size_t(item / channels)];
      const Tensor& picture = levels[size_t(group.level)];
      const int64_t c = item % channels, width = picture.size(3), size = picture.size(2) * width;
      T* data = static_cast<T*>(picture.data_ptr()) + (group.picture * channels + c) * size;
      M* plane;
      const int64_t first = group.first_row * width, count = (group.last_row - group.first_row) * width;
      std::memset(data, 0, size_t(size) * sizeof(T));
      if constexpr (std::is_same_v<T, M>) {
        plane = data;
      } else {
        wide.resize(size_t(size));
        std::fill_n(wide.data() + first, count, M(0));
        plane = wide.data();
      }
      for (const int32_t k : group.rois)
        loop(roi_view(plan, k), grad + (k * channels + c) * bins, sums.data(), plane, width);
      if constexpr (!std::is_same_v<T, M>) convert(plane + first, count, data + first);
    }
  });
}

template <typename T>
void pixels_forward(const RoiPlan<math_t<T>>& plan, const std::vector<Tensor>& levels, int64_t roi_size, T* result) {
  using M = math_t<T>;
  std::vector<std::pair<const RoiGroup*, int32_t>> order;
  for (const RoiGroup& group : plan.groups)
    for (const int32_t k : group.rois) order.emplace_back(&group, k);
  const int64_t channels = levels[0].size(1), most = most_cells(plan);
  const auto loop = choose_lanes<RoiPixels<T>::template Forward>();
  share_items(int64_t(order.size()), [&](auto next) {
    std::vector<RoiCell<M>> cells{size_t(most)};
    for (int64_t item; (item = next()) >= 0;) {
      const auto [group, k] = order[size_t(item)];
      const Tensor& picture = levels[size_t(group->level)];
      const int64_t size = picture.size(2) * picture.size(3) * channels;
      loop(roi_view(plan, k), static_cast<const T*>(picture.data_ptr()) + group->picture * size, picture.size(3),
           channels, cells.data(), result + k * roi_size);
    }
  });
}

template <typename T>
void pixels_backward(const RoiPlan<math_t<T>>& plan, const T* grad, int64_t roi_size,
                     const std::vector<Tensor>& levels) {
  using M = math_t<T>;
  const int64_t channels = levels[0].size(1), most = most_cells(plan);
  for (const Tensor& level : levels) fill_zeros(level, sizeof(T));
  // Some items for each thread; the sums do not depend on it.
  const int64_t parts = 4 * torch::stable::get_num_threads() / std::max<int64_t>(1, int64_t(plan.groups.size())) + 1;
  const int64_t block = ((channels + parts - 1) / parts + kChannels - 1) / kChannels * kChannels;
  const int64_t blocks = (channels + block - 1) / block;
  const auto loop = choose_lanes<RoiPixels<T>::template Backward>();
  const auto convert = choose<RoiConvertLoop<M, T>>();
  share_items(int64_t(plan.groups.size()) * blocks, [&](auto next) {
    std::vector<RoiCell<M>> cells{size_t(most)};
    std::vector<M> wide;
    for (int64_t item; (item = next()) >= 0;) {
      const RoiGroup& group = plan.groups[size_t(item / blocks)];
      const Tensor& picture = levels[size_t(group.level)];
      const int64_t c = item % blocks * block, n = std::min(block, channels - c);
      const int64_t width = picture.size(3), first = group.first_row * width;
      const int64_t pixels = (group.last_row - group.first_row) * width;
      T* data = static_cast<T*>(picture.data_ptr()) + group.picture * picture.size(2) * width * channels + c;
      M* to;
      int64_t pixel = channels;
      if constexpr (std::is_same_v<T, M>) {
        to = data;
      } else {
        pixel = n;
        wide.assign(size_t((first + pixels) * n), M(0));
        to = wide.data();
      }
      for (const int32_t k : group.rois)
        loop(roi_view(plan, k), grad + k * roi_size + c, channels, n, cells.data(), to, width * pixel, pixel);
      if constexpr (!std::is_same_v<T, M>)
        for (int64_t p = first; p < first + pixels; ++p) convert(to + p * n, n, data + p * channels);
    }
  });
}

Tensor roi_align_cpu(Tensor x, OptionalTensor a, OptionalTensor b, OptionalTensor c, Tensor rois,
                     std::vector<double> scales, std::vector<double> areas, int64_t height, int64_t width,
                     int64_t sampling_ratio, bool aligned, bool channels_last) {
  const RoiAlignOptions options{scales, areas, height, width, sampling_ratio, aligned, channels_last};
  const std::vector<Tensor> levels = check_roi_align(x, {&a, &b, &c}, rois, options);
  rois = as_contiguous(rois);
  std::vector<int64_t> sizes;
  for (const Tensor& level : levels) sizes.insert(sizes.end(), {level.size(2), level.size(3)});
  const int64_t channels = x.size(1), roi_size = channels * height * width;
  Tensor y = empty_picture(x, {rois.size(0), channels, height, width}, channels_last,
                           roi_result_dtype(x.scalar_type()));
  with_element_type(x, [&](auto element) {
    using T = decltype(element);
    auto* result = static_cast<roi_result_t<T>*>(y.data_ptr());
    const RoiPlan<roi_math_t<T>> plan("roi_align", rois, x.size(0), sizes, options);
    fill_rest(plan, roi_size, result);
    if constexpr (!std::is_same_v<T, uint8_t>) {
      if (channels_last) return pixels_forward<T>(plan, levels, roi_size, result);
    }
    planes_forward<T>(plan, levels, roi_size, result);
  });
  return y;
}

std::vector<Tensor> roi_align_backward_cpu(Tensor grad, Tensor rois, int64_t pictures, std::vector<int64_t> sizes,
                                           std::vector<double> scales, std::vector<double> areas,
                                           int64_t sampling_ratio, bool aligned, bool channels_last) {
  const RoiAlignOptions options = roi_backward_options(grad, scales, areas, sampling_ratio, aligned, channels_last);
  check_roi_align_backward(grad, rois, pictures, sizes, options);
  rois = as_contiguous(rois);
  const std::vector<Tensor> levels = roi_gradients(grad, pictures, sizes, channels_last);
  const int64_t bins = options.height * options.width;
  with_element_type(grad, [&](auto element) {
    using T = decltype(element);
    if constexpr (!std::is_same_v<T, uint8_t>) {
      const RoiPlan<math_t<T>> plan("roi_align_backward", rois, pictures, sizes, options);
      const T* from = static_cast<const T*>(grad.data_ptr());
      if (channels_last) pixels_backward<T>(plan, from, grad.size(1) * bins, levels);
      else planes_backward<T>(plan, from, bins, levels);
    }
  });
  return levels;
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("roi_align", TORCH_BOX(&airank_fast::roi_align_cpu));
  m.impl("roi_align_backward", TORCH_BOX(&airank_fast::roi_align_backward_cpu));
}
