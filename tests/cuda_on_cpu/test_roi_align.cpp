// The launchers of RoIAlign and its backward: two levels, both memory formats, RoIs over the edges, more than a block
// lists at once, of a picture that is not there and not finite, several chunks of channels, adaptive sampling, bytes.
#include "cuda/roi_align.h"
#include "cuda/roi_align.cuh"
#include "kernel_test.h"

namespace airank_fast {
namespace {

struct Size {
  int64_t height, width;
};

struct How {
  int64_t ratio;
  bool aligned, channels_last;
};

constexpr int64_t kPictures = 2, kHeight = 3, kWidth = 2;
constexpr double kArea = 40;  // from here on a RoI is of the second level

std::vector<std::vector<double>> boxes(int64_t count) {
  std::vector<std::vector<double>> rois = {{0, 1.25, 0.5, 6.5, 4.75},  {1, -6, -5.5, 7.25, 9},  {1, 3, 2, 30.5, 27.25},
                                           {0, 4, 4, 4.25, 4.125},     {2, 0, 0, 4, 4},         {-1, 0, 0, 4, 4},
                                           {0, 0, std::nan(""), 4, 4}, {0, 40, 40, 48, 52},     {1, 6, 7, 2.5, 3}};
  while (int64_t(rois.size()) < count) {
    const double x = 6 + 6 * next_random(), y = 4 + 4 * next_random();
    rois.push_back({double(rois.size() % 2), x, y, x + 4 + 3 * next_random(), y + 4 + 3 * next_random()});
  }
  rois.resize(size_t(count));
  return rois;
}

// Calls give(bin's row, bin's column, pixel's row, pixel's column, weight) for the four pixels of every sample.
template <typename Give>
void sampled(const std::vector<double>& roi, const Size& size, double scale, const How& how, Give give) {
  const double offset = how.aligned ? 0.5 : 0.0;
  double start[2], each[2];
  int64_t grid[2];
  for (int axis = 0; axis < 2; ++axis) {
    const double low = roi[size_t(2 - axis)], high = roi[size_t(4 - axis)];
    start[axis] = low * scale - offset;
    const double length = how.aligned ? (high - low) * scale : std::fmax((high - low) * scale, 1.0);
    each[axis] = length / double(axis == 0 ? kHeight : kWidth);
    grid[axis] = how.ratio > 0 ? how.ratio : int64_t(std::fmax(std::ceil(each[axis]), 0.0));
  }
  for (int64_t bin = 0; bin < kHeight * kWidth; ++bin)
    for (int64_t i = 0; i < grid[0] * grid[1]; ++i) {
      const int64_t p = bin / kWidth, q = bin % kWidth;
      double y = start[0] + (double(p) + (double(i / grid[1]) + 0.5) / double(grid[0])) * each[0];
      double x = start[1] + (double(q) + (double(i % grid[1]) + 0.5) / double(grid[1])) * each[1];
      if (y < -1 || y > double(size.height) || x < -1 || x > double(size.width)) continue;
      y = std::fmin(std::fmax(y, 0.0), double(size.height - 1));
      x = std::fmin(std::fmax(x, 0.0), double(size.width - 1));
      const double top = std::floor(y), left = std::floor(x);
      for (int corner = 0; corner < 4; ++corner) {
        const double dy = corner / 2 ? y - top : 1 - (y - top), dx = corner % 2 ? x - left : 1 - (x - left);
        if (dy * dx > 0)
          give(p, q, int64_t(top) + corner / 2, int64_t(left) + corner % 2, dy * dx / double(grid[0] * grid[1]));
      }
    }
}

template <typename T, typename M>
void check(int64_t channels, int64_t num_rois, const std::vector<Size>& sizes, const How& how) {
  constexpr bool kAreBytes = std::is_same_v<T, uint8_t>;
  const auto rois = boxes(num_rois);
  Array<M> table(size_t(5 * num_rois));
  for (size_t i = 0; i < table.size(); ++i) table.set(i, rois[i / 5][i % 5]);
  std::vector<Array<T>> pictures;
  for (const Size& size : sizes) {
    pictures.push_back(Array<T>::random(size_t(kPictures * channels * size.height * size.width)));
    if (kAreBytes)
      for (size_t i = 0; i < pictures.back().size(); ++i) pictures.back().set(i, double(i % 3 == 0));
  }
  const size_t result_size = size_t(num_rois * channels * kHeight * kWidth);
  Array<roi_result_t<T>> y(result_size), grad = Array<roi_result_t<T>>::random(result_size);
  RoiAlignLaunch work;
  work.dtype = DtypeOf<T>::value;
  work.pictures = kPictures;
  work.channels = channels;
  work.num_rois = num_rois;
  work.height = kHeight;
  work.width = kWidth;
  work.sampling_ratio = how.ratio;
  work.aligned = how.aligned;
  work.channels_last = how.channels_last;
  work.rois = table.data();
  for (size_t l = 0; l < sizes.size(); ++l)
    work.levels[work.num_levels++] = {pictures[l].data(), sizes[l].height, sizes[l].width, l == 0 ? 1.0 : 0.5};
  work.areas[0] = kArea;
  work.result = y.data();
  check_success("roi_align", launch_roi_align(work, nullptr));

  const auto place = [&](int64_t n, int64_t c, int64_t row, int64_t column, int64_t height, int64_t width) {
    return size_t(how.channels_last ? ((n * height + row) * width + column) * channels + c
                                    : ((n * channels + c) * height + row) * width + column);
  };
  std::vector<double> want(result_size, 0.0);
  std::vector<std::vector<double>> want_gradients;
  for (const Array<T>& picture : pictures) want_gradients.emplace_back(picture.size(), 0.0);
  for (int64_t k = 0; k < num_rois; ++k) {
    const std::vector<double>& roi = rois[size_t(k)];
    const double area = (roi[3] - roi[1]) * (roi[4] - roi[2]);
    const size_t l = sizes.size() > 1 && area >= kArea ? 1 : 0;
    const Size size = sizes[l];
    const bool is_there = roi[0] >= 0 && roi[0] < kPictures && !std::isnan(area);
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t bin = 0; !is_there && bin < kHeight * kWidth; ++bin)
        want[place(k, c, bin / kWidth, bin % kWidth, kHeight, kWidth)] = std::nan("");
      if (!is_there) continue;
      sampled(roi, size, work.levels[l].scale, how, [&](int64_t p, int64_t q, int64_t row, int64_t column, double w) {
        const size_t from = place(int64_t(roi[0]), c, row, column, size.height, size.width);
        const size_t to = place(k, c, p, q, kHeight, kWidth);
        want[to] += w * pictures[l].get(from);
        want_gradients[l][from] += w * grad.get(to);
      });
    }
  }
  check_close("roi_align", y, want, 16 * kEpsilon<float> + kEpsilon<T>);
  if constexpr (!kAreBytes) {
    std::vector<Array<T>> gradients;
    gradients.reserve(sizes.size());  // addresses are taken
    for (size_t l = 0; l < sizes.size(); ++l) {
      gradients.emplace_back(pictures[l].size());
      work.levels[l].data = gradients[l].data();
    }
    work.grad = grad.data();
    check_success("roi_align_backward", launch_roi_align_backward(work, nullptr));
    for (size_t l = 0; l < sizes.size(); ++l)
      check_close("roi_align_backward", gradients[l], want_gradients[l], 32 * kEpsilon<float> + kEpsilon<T>);
  }
}

void cases() {
  check<float, float>(3, 9, {{9, 11}, {5, 6}}, {2, false, false});
  check<Half, float>(17, 9, {{9, 11}, {5, 6}}, {-1, true, true});
  check<float, float>(1, 131, {{8, 9}}, {1, true, false});
  check<uint8_t, float>(1, 9, {{9, 11}}, {-1, false, false});
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
