// The launchers of the sum of upsampled pictures and its backward: bilinear and nearest, larger, equal and smaller
// pictures, one channel and several, rows of more than a block.
#include "cuda/upsample_add_act.h"
#include "cuda/upsample_add_act.cuh"
#include "kernel_test.h"

namespace airank_fast {
namespace {

struct Size {
  int64_t height, width;
};

enum class Mode { kBilinear, kAlignCorners, kNearest };

// The two numbers of the original, of `in` along an axis, and the weight of the second.
struct Position {
  int64_t first, second;
  double weight;
};

Position position(int64_t i, int64_t in, int64_t out, Mode mode) {
  const double ratio = double(in) / double(out);
  double at = std::fmax(0.0, (double(i) + 0.5) * ratio - 0.5);
  if (mode == Mode::kAlignCorners) at = out > 1 ? double(i * (in - 1)) / double(out - 1) : 0.0;
  if (mode == Mode::kNearest) at = std::floor(double(i) * ratio + 1e-9);
  const int64_t first = int64_t(at + 1e-9);  // a third of three is one
  return {first, first + 1 < in ? first + 1 : first, at - double(first)};
}

template <typename T>
void check(int64_t pictures, int64_t channels, const std::vector<Size>& sizes, Mode mode, bool relu) {
  std::vector<Array<T>> inputs;
  for (const Size& s : sizes) inputs.push_back(Array<T>::random(size_t(pictures * channels * s.height * s.width)));
  const Size size = sizes[0];
  Array<T> y(inputs[0].size()), grad = Array<T>::random(inputs[0].size());
  UpsampleAddLaunch work;
  work.dtype = DtypeOf<T>::value;
  work.pictures = pictures;
  work.channels = channels;
  work.height = size.height;
  work.width = size.width;
  work.relu = relu;
  work.nearest = mode == Mode::kNearest;
  work.align_corners = mode == Mode::kAlignCorners;
  work.x = inputs[0].data();
  work.result = y.data();
  for (size_t i = 1; i < sizes.size(); ++i)
    work.others[work.num_others++] = {inputs[i].data(), sizes[i].height, sizes[i].width};
  check_success("upsample_add_act", launch_upsample_add_act(work, nullptr));

  std::vector<double> want = inputs[0].doubles();
  for (size_t i = 1; i < sizes.size(); ++i) {
    std::vector<double> want_gradient(inputs[i].size(), 0.0);
    for (size_t p = 0; p < want.size(); ++p) {
      const int64_t c = int64_t(p) % channels, column = int64_t(p) / channels % size.width;
      const int64_t row = int64_t(p) / channels / size.width % size.height;
      const int64_t n = int64_t(p) / channels / size.width / size.height;
      const Position v = position(row, sizes[i].height, size.height, mode);
      const Position h = position(column, sizes[i].width, size.width, mode);
      for (int corner = 0; corner < 4; ++corner) {
        const int64_t r = corner / 2 ? v.second : v.first, k = corner % 2 ? h.second : h.first;
        const size_t at = size_t(((n * sizes[i].height + r) * sizes[i].width + k) * channels + c);
        const double weight = (corner / 2 ? v.weight : 1 - v.weight) * (corner % 2 ? h.weight : 1 - h.weight);
        want[p] += weight * inputs[i].get(at);
        want_gradient[at] += weight * grad.get(p);
      }
    }
    Array<T> gradient(inputs[i].size());
    UpsampleAddLaunch back = work;
    back.x = grad.data();
    back.result = gradient.data();
    back.low_height = sizes[i].height;
    back.low_width = sizes[i].width;
    check_success("upsample_add_act_backward", launch_upsample_add_act_backward(back, nullptr));
    check_close("upsample_add_act_backward", gradient, want_gradient, 16 * kEpsilon<float> + kEpsilon<T>);
  }
  if (relu)
    for (double& number : want) number = std::fmax(number, 0.0);
  check_close("upsample_add_act", y, want, 16 * kEpsilon<float> + kEpsilon<T>);
}

void cases() {
  check<float>(2, 3, {{4, 5}, {2, 2}, {4, 5}, {1, 1}}, Mode::kBilinear, true);
  check<float>(1, 1, {{3, 130}, {2, 33}}, Mode::kAlignCorners, false);
  check<Half>(3, 2, {{4, 6}, {2, 3}, {7, 5}}, Mode::kNearest, true);
  check<Half>(1, 1, {{1, 1}, {2, 3}}, Mode::kBilinear, false);
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
