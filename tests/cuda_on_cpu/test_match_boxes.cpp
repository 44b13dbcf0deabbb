// The launcher of match_boxes: anchors of all pictures, boxes of each, and with offsets; pictures without truths or
// boxes, more boxes than a block has, and offsets that are wrong.
#include "cuda/match_boxes.h"
#include "kernel_test.h"

namespace airank_fast {
namespace {

struct Case {
  std::vector<int64_t> truth_offsets;
  int64_t boxes;                     // of a picture
  bool boxes_of_all;
  std::vector<int64_t> box_offsets;  // instead of these
  bool allow_low_quality;
};

// Sides are powers of two and places whole numbers, whose IoUs are equal or differ by more than rounding.
template <typename T>
Array<T> boxes_of(size_t count, size_t salt) {
  Array<T> boxes(4 * count);
  for (size_t i = 0; i < count; ++i) {
    const double x = double(i * 5 % 61), y = double((i + salt) % 7), side = double(i % 3 == 2 ? 4 : 8);
    const double corners[4] = {x, y, x + side, y + side};
    for (size_t d = 0; d < 4; ++d) boxes.set(4 * i + d, corners[d]);
  }
  return boxes;
}

template <typename T>
double iou_of(const Array<T>& a, size_t i, const Array<T>& b, size_t j) {
  double inter = 1, areas[2] = {1, 1};
  for (size_t d = 0; d < 2; ++d) {
    const double low[2] = {a.get(4 * i + d), b.get(4 * j + d)}, high[2] = {a.get(4 * i + d + 2), b.get(4 * j + d + 2)};
    for (int k = 0; k < 2; ++k) areas[k] *= high[k] - low[k];
    inter *= std::fmax(0, std::fmin(high[0], high[1]) - std::fmax(low[0], low[1]));
  }
  return inter / (areas[0] + areas[1] - inter);
}

template <typename T>
void check(const Case& c) {
  const int64_t pictures = int64_t(c.truth_offsets.size()) - 1;
  const bool ragged = !c.box_offsets.empty();
  const int64_t results = ragged ? c.box_offsets.back() : pictures * c.boxes;
  const int64_t num_truths = c.truth_offsets.back();
  const Array<T> boxes = boxes_of<T>(size_t(c.boxes_of_all ? c.boxes : results), 0);
  const Array<T> truths = boxes_of<T>(size_t(num_truths), 1);
  std::vector<double> want(size_t(results), -1), want_ious(size_t(results), 0);
  for (int64_t picture = 0; picture < pictures; ++picture) {
    const int64_t first = ragged ? c.box_offsets[size_t(picture)] : picture * c.boxes;
    const int64_t last = ragged ? c.box_offsets[size_t(picture) + 1] : first + c.boxes;
    const size_t begin = size_t(c.truth_offsets[size_t(picture)]), end = size_t(c.truth_offsets[size_t(picture) + 1]);
    const auto box = [&](int64_t result) { return size_t(c.boxes_of_all ? result - first : result); };
    std::vector<double> best(want.size(), -1);
    for (int64_t r = first; r < last; ++r)
      for (size_t t = begin; t < end; ++t) {
        const double iou = iou_of(truths, t, boxes, box(r));
        double& largest = want_ious[size_t(r)];
        if (t == begin || iou > largest) largest = iou, best[size_t(r)] = double(t - begin);
        want[size_t(r)] = largest < 0.3 ? -1 : largest < 0.6 ? -2 : best[size_t(r)];
      }
    for (size_t t = begin; t < end && c.allow_low_quality; ++t) {
      double largest = 0;
      for (int64_t r = first; r < last; ++r) largest = std::fmax(largest, iou_of(truths, t, boxes, box(r)));
      for (int64_t r = first; r < last; ++r)
        if (iou_of(truths, t, boxes, box(r)) == largest) want[size_t(r)] = best[size_t(r)];
    }
  }

  const auto numbers = [](const std::vector<int64_t>& values) {
    Array<int64_t> array(values.size());
    for (size_t i = 0; i < values.size(); ++i) array[i] = values[i];
    return array;
  };
  Array<int64_t> truth_offsets = numbers(c.truth_offsets), box_offsets = numbers(c.box_offsets);
  Array<int64_t> matches(want.size());
  Array<T> ious(want.size()), largest(truths.size() / 4), box_copy(boxes), truth_copy(truths);
  MatchLaunch work;
  work.dtype = DtypeOf<T>::value;
  work.boxes = box_copy.data();
  work.pictures = pictures;
  work.boxes_each = c.boxes;
  work.boxes_of_all = c.boxes_of_all;
  work.box_offsets = ragged ? box_offsets.data() : nullptr;
  work.results = results;
  work.truths = truth_copy.data();
  work.truth_offsets = truth_offsets.data();
  work.num_truths = num_truths;
  work.low = 0.3;
  work.high = 0.6;
  work.allow_low_quality = c.allow_low_quality;
  work.largest = largest.data();
  work.matches = matches.data();
  work.ious = ious.data();
  check_success("match_boxes", launch_match_boxes(work, nullptr));
  check_close("match_boxes: matches", matches, want, 0);
  check_close("match_boxes: ious", ious, want_ious, 2 * kEpsilon<T>);

  for (int64_t wrong : {int64_t(-9), num_truths + 9, int64_t(1) << 60}) {  // nothing outside of the arrays is read
    truth_offsets[truth_offsets.size() / 2] = wrong;
    if (ragged) box_offsets[box_offsets.size() / 2] = wrong;
    check_success("match_boxes: wrong offsets", launch_match_boxes(work, nullptr));
  }
}

void cases() {
  check<float>({{0, 3, 3, 8}, 90, true, {}, true});
  check<float>({{0, 3, 3, 8}, 97, false, {}, true});
  check<double>({{0, 3, 3, 3, 8}, 0, false, {0, 33, 40, 40, 120}, true});
  check<float>({{0, 2}, 7, true, {}, false});
  check<float>({{0, 0}, 5, true, {}, true});
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
