// Boxes matched with the truths of their picture on the CPU, in one pass: of the IoUs only those of a block of boxes
// with one truth are stored.
//
// Neighbouring boxes, as of an anchor grid or of proposals of a level, lie close together: a truth that does not reach
// the rectangle around a block has an IoU of 0 with all of its boxes. Such pairs, most of them, cost four comparisons a
// block. For low-quality matches a thread notes which boxes have reached the largest IoU so far of a truth; at the end
// those of the largest of all are looked up.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <tuple>
#include <vector>

#include "../match_boxes_args.h"
#include "../match_boxes_math.h"
#include "box_arrays.h"
#include "isa.h"

namespace airank_fast {
namespace {

constexpr int64_t kMatchBlock = 64;           // boxes
constexpr int64_t kPairsPerThread = 1 << 16;  // fewer are not worth a thread

// Boxes [first, first + count), of one picture or, as are anchors, of all.
struct MatchBlock {
  int64_t picture;  // -1: all
  int64_t first;
  int64_t count;
};

template <typename T>
struct MatchTask {
  const T* boxes;
  std::vector<IouBox<T>> truths;
  std::vector<uint8_t> plain_pictures;  // whose truths all have an area, so that no IoU with them is negative or NaN
  const int64_t* truth_offsets;
  int64_t pictures;
  int64_t boxes_of_all;  // boxes of every picture, where they are the same
  T low;
  T high;
  bool allow_low_quality;
  int64_t* matches;
  T* ious;
  int64_t* best;  // of each box the truth of the largest IoU; only for low-quality matches
};

// That a box has had the largest IoU so far of a truth.
template <typename T>
struct MatchNote {
  int64_t truth;
  int64_t box;  // among the results
  T iou;
};

// What a thread finds of the truths.
template <typename T>
struct MatchFound {
  explicit MatchFound(size_t truths) : largest(truths, T(0)), has_nan(truths, 0) {}

  std::vector<T> largest;        // IoU, or 0
  std::vector<uint8_t> has_nan;
  std::vector<MatchNote<T>> notes;  // of IoUs above 0
};

template <typename T, int kLanes>
struct MatchLoop {
  using V = typename VectorType<T, kLanes * sizeof(T)>::type;
  using Signature = void(const MatchTask<T>&, const MatchBlock&, MatchFound<T>&);

  HOST_DEVICE static void run(const MatchTask<T>& task, const MatchBlock& block, MatchFound<T>& found) {
    Numbers numbers;
    T left = task.boxes[4 * block.first], top = task.boxes[4 * block.first + 1], right = left, bottom = top;
    bool is_plain = true;  // no IoU with a truth that has an area is negative or NaN
    for (int64_t i = 0; i < kMatchBlock; ++i) {
      const IouBox<T> box = box_at(task.boxes, block.first + std::min(i, block.count - 1));
      numbers.x1[i] = box.x1;
      numbers.y1[i] = box.y1;
      numbers.x2[i] = box.x2;
      numbers.y2[i] = box.y2;
      numbers.area[i] = box.area;
      left = std::min(left, box.x1);
      top = std::min(top, box.y1);
      right = std::max(right, box.x2);
      bottom = std::max(bottom, box.y2);
      is_plain &= box.area >= 0;
    }
    const IouBox<T> around{left, top, right, bottom, T(0)};
    if (block.picture >= 0) return of_picture(task, block, block.picture, 0, numbers, around, is_plain, found);
    for (int64_t picture = 0; picture < task.pictures; ++picture)
      of_picture(task, block, picture, picture * task.boxes_of_all, numbers, around, is_plain, found);
  }

  // The block's boxes; the last one repeated to the end.
  struct Numbers {
    T x1[kMatchBlock], y1[kMatchBlock], x2[kMatchBlock], y2[kMatchBlock], area[kMatchBlock];
  };

  HOST_DEVICE static void of_picture(const MatchTask<T>& task, const MatchBlock& block, int64_t picture,
                                     int64_t first_result, const Numbers& numbers, const IouBox<T>& around,
                                     bool is_plain, MatchFound<T>& found) {
    const int64_t begin = task.truth_offsets[picture], end = task.truth_offsets[picture + 1];
    const bool may_skip = is_plain && task.plain_pictures[size_t(picture)];
    const int64_t result = first_result + block.first;
    T largest[kMatchBlock], ious[kMatchBlock], truths[kMatchBlock];  // numbers of truths as T, too
    for (int64_t i = 0; i < kMatchBlock; ++i) {
      largest[i] = may_skip || begin == end ? T(0) : -std::numeric_limits<T>::infinity();
      truths[i] = begin == end ? T(kMatchBelowLow) : T(0);
    }
    for (int64_t truth = begin; truth < end; ++truth) {
      const IouBox<T>& of = task.truths[size_t(truth)];
      if (may_skip && !(of.x1 < around.x2 && around.x1 < of.x2 && of.y1 < around.y2 && around.y1 < of.y2)) continue;
      const T most = compare(of, T(truth - begin), numbers, ious, largest, truths);
      if (task.allow_low_quality) note(task, block, truth, result, most, ious, found);
    }
    for (int64_t i = 0; i < block.count; ++i) {
      const int64_t truth = int64_t(truths[i]);
      task.ious[result + i] = largest[i];
      task.matches[result + i] = begin == end ? truth : match_of(truth, largest[i], task.low, task.high);
      if (task.allow_low_quality) task.best[result + i] = truth;
    }
  }

  // The IoUs with a truth, of number `place` in its picture, and the largest of them; NaN where one is.
  HOST_DEVICE static T compare(const IouBox<T>& truth, T place, const Numbers& numbers, T* ious, T* largest,
                               T* truths) {
    const IouBox<V> wide = box_in_lanes<V>(truth);
    const V places = vector_of<V>(place);
    V most = vector_of<V>(-std::numeric_limits<T>::infinity());
    for (int64_t i = 0; i < kMatchBlock; i += kLanes) {
      const IouBox<V> box{vector_at<V>(numbers.x1 + i), vector_at<V>(numbers.y1 + i), vector_at<V>(numbers.x2 + i),
                          vector_at<V>(numbers.y2 + i), vector_at<V>(numbers.area + i)};
      const V iou = box_iou(wide, box), before = vector_at<V>(largest + i), of = vector_at<V>(truths + i);
      const auto is_larger = (iou > before) | ((iou != iou) & (before == before));
      const V now = is_larger ? iou : before, whose = is_larger ? places : of;
      std::memcpy(ious + i, &iou, sizeof(V));
      std::memcpy(largest + i, &now, sizeof(V));
      std::memcpy(truths + i, &whose, sizeof(V));
      most = (iou > most) | (iou != iou) ? iou : most;
    }
    T result = -std::numeric_limits<T>::infinity();
    for (int lane = 0; lane < kLanes; ++lane) result = match_is_larger(most[lane], result) ? most[lane] : result;
    return result;
  }

  HOST_DEVICE static void note(const MatchTask<T>& task, const MatchBlock& block, int64_t truth, int64_t result, T most,
                               const T* ious, MatchFound<T>& found) {
    if (most != most) found.has_nan[size_t(truth)] = 1;
    if (!(most > 0 && most >= found.largest[size_t(truth)])) return;
    found.largest[size_t(truth)] = most;
    for (int64_t i = 0; i < block.count; ++i)
      if (ious[i] == most) found.notes.push_back({truth, result + i, most});
  }
};

template <int kLanes> using MatchFloats = MatchLoop<float, kLanes>;
template <int kLanes> using MatchDoubles = MatchLoop<double, kLanes / 2>;

template <typename T>
auto match_loop() {
  if constexpr (std::is_same_v<T, float>) return choose_lanes<MatchFloats>();
  else return choose_lanes<MatchDoubles>();
}

// Truths that no box has an IoU above 0 with: all boxes of the largest, such as 0, are their matches.
template <typename T>
void match_with_none(const MatchTask<T>& task, const int64_t* box_offsets, int64_t picture, int64_t truth) {
  const int64_t first = box_offsets ? box_offsets[picture] : 0;
  const int64_t count = box_offsets ? box_offsets[picture + 1] - first : task.boxes_of_all;
  const int64_t result = box_offsets ? first : picture * count;
  std::vector<T> ious(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    ious[size_t(i)] = box_iou(task.truths[size_t(truth)], box_at(task.boxes, first + i));
  const auto most = std::max_element(ious.begin(), ious.end());
  for (int64_t i = 0; i < count; ++i)
    if (ious[size_t(i)] == *most) task.matches[result + i] = task.best[result + i];
}

// Gives each truth the boxes of its largest IoU.
template <typename T>
void match_low_quality(const MatchTask<T>& task, const int64_t* box_offsets,
                       const std::vector<MatchFound<T>>& found) {
  MatchFound<T> all(task.truths.size());
  for (const MatchFound<T>& of_thread : found)
    for (size_t truth = 0; truth < task.truths.size(); ++truth) {
      all.largest[truth] = std::max(all.largest[truth], of_thread.largest[truth]);
      all.has_nan[truth] |= of_thread.has_nan[truth];
    }
  for (const MatchFound<T>& of_thread : found)
    for (const MatchNote<T>& note : of_thread.notes)
      if (!all.has_nan[size_t(note.truth)] && note.iou == all.largest[size_t(note.truth)])
        task.matches[note.box] = task.best[note.box];
  for (int64_t picture = 0; picture < task.pictures; ++picture)
    for (int64_t truth = task.truth_offsets[picture]; truth < task.truth_offsets[picture + 1]; ++truth)
      if (!all.has_nan[size_t(truth)] && !(all.largest[size_t(truth)] > 0))
        match_with_none(task, box_offsets, picture, truth);
}

template <typename T>
std::tuple<Tensor, Tensor> match_boxes_of(const Tensor& boxes, const int64_t* box_offsets, const Tensor& truths,
                                          const Tensor& truth_offsets, const MatchOptions& options) {
  const int64_t pictures = truth_offsets.size(0) - 1, num_truths = truths.size(0);
  MatchTask<T> task{};
  task.boxes = static_cast<const T*>(boxes.data_ptr());
  task.truth_offsets = static_cast<const int64_t*>(truth_offsets.data_ptr());
  task.pictures = pictures;
  task.low = T(options.low_threshold);
  task.high = T(options.high_threshold);
  task.allow_low_quality = options.allow_low_quality_matches;
  for (int64_t i = 0; i < num_truths; ++i)
    task.truths.push_back(box_at(static_cast<const T*>(truths.data_ptr()), i));
  for (int64_t picture = 0; picture < pictures; ++picture) {
    const auto first = task.truths.begin();
    const auto has_area = [](const IouBox<T>& truth) { return truth.area > 0 && std::isfinite(truth.area); };
    task.plain_pictures.push_back(
        std::all_of(first + task.truth_offsets[picture], first + task.truth_offsets[picture + 1], has_area));
  }

  std::vector<MatchBlock> blocks;
  const auto add_blocks = [&](int64_t picture, int64_t first, int64_t end) {
    for (; first < end; first += kMatchBlock) blocks.push_back({picture, first, std::min(kMatchBlock, end - first)});
  };
  Tensor matches, ious;
  if (box_offsets) {
    for (int64_t picture = 0; picture < pictures; ++picture)
      add_blocks(picture, box_offsets[picture], box_offsets[picture + 1]);
    const Sizes sizes(boxes.sizes().data(), size_t(boxes.dim() - 1));
    matches = empty_beside(boxes, sizes, ScalarType::Long);
    ious = empty_beside(boxes, sizes);
  } else {
    task.boxes_of_all = boxes.size(0);
    add_blocks(-1, 0, boxes.size(0));
    matches = empty_beside(boxes, {pictures, boxes.size(0)}, ScalarType::Long);
    ious = empty_beside(boxes, {pictures, boxes.size(0)});
  }
  task.matches = static_cast<int64_t*>(matches.data_ptr());
  task.ious = static_cast<T*>(ious.data_ptr());
  std::vector<int64_t> best(task.allow_low_quality ? size_t(matches.numel()) : 0);
  task.best = best.data();

  const auto loop = match_loop<T>();
  std::vector<MatchFound<T>> found;
  std::mutex mutex;
  const int64_t truths_of_block = box_offsets ? num_truths / std::max<int64_t>(1, pictures) : num_truths;
  const int64_t grain = std::max<int64_t>(1, kPairsPerThread / std::max<int64_t>(1, kMatchBlock * truths_of_block));
  torch::stable::parallel_for(0, int64_t(blocks.size()), grain, [&](int64_t begin, int64_t end) {
    MatchFound<T> here(task.allow_low_quality ? task.truths.size() : 0);
    for (int64_t i = begin; i < end; ++i) loop(task, blocks[size_t(i)], here);
    const std::lock_guard lock(mutex);
    found.push_back(std::move(here));
  });
  if (task.allow_low_quality) match_low_quality(task, box_offsets, found);
  return {matches, ious};
}

std::tuple<Tensor, Tensor> match_boxes_cpu(Tensor boxes, OptionalTensor box_offsets, Tensor truths,
                                           Tensor truth_offsets, double high_threshold, double low_threshold,
                                           bool allow_low_quality_matches) {
  const MatchOptions options{high_threshold, low_threshold, allow_low_quality_matches};
  check_match_boxes(boxes, box_offsets, truths, truth_offsets, options);
  boxes = as_contiguous(boxes);
  truths = as_contiguous(truths);
  truth_offsets = as_contiguous(truth_offsets);
  const int64_t pictures = truth_offsets.size(0) - 1;
  check_match_contents("truth_offsets", static_cast<const int64_t*>(truth_offsets.data_ptr()), pictures,
                       truths.size(0));
  std::vector<int64_t> offsets;  // empty: all pictures have the same boxes
  if (box_offsets) {
    const Tensor numbers = as_contiguous(*box_offsets);
    const int64_t* from = static_cast<const int64_t*>(numbers.data_ptr());
    check_match_contents("box_offsets", from, pictures, boxes.size(0));
    offsets.assign(from, from + pictures + 1);
  } else if (boxes.dim() == 3) {
    for (int64_t picture = 0; picture <= pictures; ++picture) offsets.push_back(picture * boxes.size(1));
  }
  const int64_t* of_pictures = offsets.empty() ? nullptr : offsets.data();
  return boxes.scalar_type() == ScalarType::Double
             ? match_boxes_of<double>(boxes, of_pictures, truths, truth_offsets, options)
             : match_boxes_of<float>(boxes, of_pictures, truths, truth_offsets, options);
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("match_boxes", TORCH_BOX(&airank_fast::match_boxes_cpu));
}
