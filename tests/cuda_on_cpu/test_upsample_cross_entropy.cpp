// The launchers of cross entropy, classes and counts of upsampled logits: larger and smaller pictures, rows of more than a
// block, strides of both memory formats, ignored and wrong labels, and classes too many for shared memory.
#include "cuda/upsample_cross_entropy.h"
#include "cuda/upsample_cross_entropy.cuh"
#include "kernel_test.h"

namespace airank_fast {
namespace {

struct Shape {
  int64_t pictures, classes, in_height, in_width, height, width;
};

// Cell and weight along an axis, in double.
struct Position {
  int64_t first, second;
  double weight;
};

Position position(int64_t i, int64_t in, int64_t out, bool align_corners) {
  const double scale = align_corners ? (out > 1 ? double(in - 1) / double(out - 1) : 0.0) : double(in) / double(out);
  const double at = align_corners ? double(i) * scale : std::fmax(0.0, (double(i) + 0.5) * scale - 0.5);
  const int64_t first = int64_t(at + 1e-9);  // 3 * (4 / 3) is 4
  return {first, first + 1 < in ? first + 1 : first, at - double(first)};
}

template <typename T, typename Label>
void check(const Shape& s, bool align_corners, bool channels_last, bool with_wrong_label) {
  using M = math_t<T>;
  const int64_t cells = s.in_height * s.in_width, pixels = s.height * s.width;
  const size_t size = size_t(s.pictures * s.classes * cells), all_pixels = size_t(s.pictures * pixels);
  Array<T> logits = Array<T>::random(size);
  Array<Label> labels(all_pixels);
  for (size_t p = 0; p < all_pixels; ++p) labels[p] = p % 5 == 3 ? Label(255) : Label(p * 7 % size_t(s.classes));
  if (with_wrong_label) labels[0] = Label(s.classes);
  UpsampleLaunch work;
  work.dtype = DtypeOf<T>::value;
  work.pictures = s.pictures, work.classes = s.classes;
  work.in_height = s.in_height, work.in_width = s.in_width;
  work.height = s.height, work.width = s.width;
  work.align_corners = align_corners;
  work.logits = logits.data();
  const int64_t strides[4] = {s.classes * cells, channels_last ? 1 : cells,
                              channels_last ? s.in_width * s.classes : s.in_width, channels_last ? s.classes : 1};
  for (int d = 0; d < 4; ++d) work.strides[d] = strides[d];
  work.labels = labels.data();
  work.labels_are_bytes = sizeof(Label) == 1;
  Array<M> loss(1), scale(1), gradient(size), statistics(2 * all_pixels);
  Array<double> partial_sums(size_t(upsample_partial_sums(work)));
  Array<int64_t> predicted(all_pixels), confusion = Array<int64_t>::filled(size_t(s.classes * s.classes), 0);
  work.loss = loss.data();
  work.scale = scale.data();
  work.gradient = gradient.data();
  work.channels_last = channels_last;
  work.statistics = statistics.data();
  work.partial_sums = partial_sums.data();
  work.confusion = confusion.data();
  check_success("upsample_cross_entropy", launch_upsample_cross_entropy(work, nullptr));
  check_success("upsample_confusion", launch_upsample_classes(work, nullptr));
  work.confusion = nullptr;
  work.predicted = predicted.data();
  check_success("upsample_argmax", launch_upsample_classes(work, nullptr));

  double want_loss = 0, count = 0;
  std::vector<double> want(size, 0.0), want_classes(all_pixels), want_counts(size_t(s.classes * s.classes), 0.0);
  std::vector<double> x(size_t(s.classes));
  for (size_t p = 0; p < all_pixels; ++p) {
    const int64_t n = int64_t(p) / pixels, label = int64_t(labels[p]);
    const Position y = position(int64_t(p) % pixels / s.width, s.in_height, s.height, align_corners);
    const Position c = position(int64_t(p) % s.width, s.in_width, s.width, align_corners);
    const int64_t rows[4] = {y.first, y.first, y.second, y.second};
    const int64_t columns[4] = {c.first, c.second, c.first, c.second};
    const double weights[4] = {(1 - y.weight) * (1 - c.weight), (1 - y.weight) * c.weight, y.weight * (1 - c.weight),
                               y.weight * c.weight};
    const auto at = [&](int64_t k, int corner) {
      return size_t(n * strides[0] + k * strides[1] + rows[corner] * strides[2] + columns[corner] * strides[3]);
    };
    double sum = 0;
    int64_t best = 0;
    for (int64_t k = 0; k < s.classes; ++k) {
      x[size_t(k)] = 0;
      for (int corner = 0; corner < 4; ++corner) x[size_t(k)] += weights[corner] * logits.get(at(k, corner));
      sum += std::exp(x[size_t(k)]);
      if (x[size_t(k)] > x[size_t(best)]) best = k;
    }
    want_classes[p] = double(best);
    if (label == 255) continue;
    count += 1;
    const bool wrong = label >= s.classes;
    want_loss += wrong ? NAN : std::log(sum) - x[size_t(label)];
    if (!wrong) want_counts[size_t(label * s.classes + best)] += 1;
    for (int64_t k = 0; k < s.classes; ++k)
      for (int corner = 0; corner < 4; ++corner)
        want[at(k, corner)] += wrong ? NAN : weights[corner] * (std::exp(x[size_t(k)]) / sum - (k == label));
  }
  check_close("upsample_cross_entropy", loss, {want_loss / count}, 64 * kEpsilon<M>);
  check_close("upsample_cross_entropy: scale", scale, {1 / count}, kEpsilon<M>);
  check_close("upsample_cross_entropy: gradient", gradient, want, 64 * kEpsilon<M>);
  check_close("upsample_argmax", predicted, want_classes, 0);
  check_close("upsample_confusion", confusion, want_counts, 0);
}

void cases() {
  check<float, uint8_t>({2, 3, 2, 3, 5, 7}, false, false, false);
  check<float, uint8_t>({1, 3, 3, 2, 6, 130}, true, true, true);
  check<Half, int64_t>({1, 2, 4, 5, 2, 3}, false, true, false);
  check<Half, int64_t>({1, 101, 1, 2, 2, 3}, true, false, false);
  check<Half, int64_t>({1, 2, 2, 2, 1, 1}, false, true, true);
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
