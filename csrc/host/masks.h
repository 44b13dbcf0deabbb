// Masks as COCO's run lengths, and the matches that its AP counts. airank_fast/data/images/run_lengths.py and
// airank_fast/quality/coco_match.py describe the arrays, and do the same in Python. Uses neither Python nor torch.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

namespace airank_fast::host {

// Pixels begin ... end - 1 of a picture, counted down its columns.
struct Interval {
  int64_t begin, end;
};
using Intervals = std::vector<Interval>;

inline void append_interval(Intervals& out, int64_t begin, int64_t end) {
  if (begin >= end) return;
  if (!out.empty() && out.back().end == begin)
    out.back().end = end;
  else
    out.push_back({begin, end});
}

// Sorted intervals as counts of zeros, ones, zeros, ... that add up to the picture's pixels.
inline void append_counts(const Intervals& mask, int64_t pixels, std::vector<uint32_t>& counts) {
  int64_t at = 0;
  for (const Interval& ones : mask) {
    counts.push_back(static_cast<uint32_t>(ones.begin - at));
    counts.push_back(static_cast<uint32_t>(ones.end - ones.begin));
    at = ones.end;
  }
  if (at < pixels) counts.push_back(static_cast<uint32_t>(pixels - at));
}

// The pixels of a polygon by pycocotools' rule. The outline is drawn in pixels of a fifth, and a column begins or ends
// to be inside where the outline passes the column's middle.
class PolygonDrawer {
 public:
  void append(const double* corners, int64_t num, int64_t height, int64_t width, Intervals& out) {
    crossings_.clear();
    height_ = height;
    width_ = width;
    Point from = fifth(corners), last = from;
    for (int64_t i = 1; i <= num; ++i) {
      const Point to = fifth(corners + 2 * (i % num));
      edge(from, to, last);
      from = to;
    }
    std::sort(crossings_.begin(), crossings_.end());
    for (size_t i = 0; i + 1 < crossings_.size(); i += 2) append_interval(out, crossings_[i], crossings_[i + 1]);
  }

 private:
  struct Point {
    int64_t x, y;
  };

  static Point fifth(const double* corner) {
    return {static_cast<int64_t>(5 * corner[0] + .5), static_cast<int64_t>(5 * corner[1] + .5)};
  }

  // The points of an edge, each of which is compared with the one before it.
  void edge(Point from, Point to, Point& last) {
    const int64_t dx = std::abs(to.x - from.x), dy = std::abs(to.y - from.y), steps = std::max(dx, dy);
    if (steps == 0) return;
    const bool along_x = dx >= dy, flipped = along_x ? from.x > to.x : from.y > to.y;
    const Point low = flipped ? to : from, high = flipped ? from : to;
    const double slope = along_x ? static_cast<double>(high.y - low.y) / dx : static_cast<double>(high.x - low.x) / dy;
    for (int64_t step = 0; step <= steps; ++step) {
      const int64_t t = flipped ? steps - step : step;
      const int64_t across = static_cast<int64_t>((along_x ? low.y : low.x) + slope * t + .5);
      const Point next = along_x ? Point{low.x + t, across} : Point{across, low.y + t};
      if (next.x != last.x) cross(last, next);
      last = next;
    }
  }

  void cross(Point last, Point next) {
    const int64_t fifths = next.x < last.x ? next.x : next.x - 1;
    if (fifths < 0 || fifths % 5 != 2) return;  // no column's middle
    const int64_t x = fifths / 5;
    if (x >= width_) return;
    const double y = (static_cast<double>(std::min(last.y, next.y)) + .5) / 5 - .5;
    crossings_.push_back(x * height_ + static_cast<int64_t>(std::ceil(std::clamp(y, 0., double(height_)))));
  }

  std::vector<int64_t> crossings_;
  int64_t height_ = 0, width_ = 0;
};

// Intervals of several polygons, in any order, as sorted ones that do not touch.
inline void unite(Intervals& mask) {
  std::sort(mask.begin(), mask.end(), [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
  size_t kept = 0;
  for (size_t i = 1; i < mask.size(); ++i) {
    if (mask[i].begin <= mask[kept].end)
      mask[kept].end = std::max(mask[kept].end, mask[i].end);
    else
      mask[++kept] = mask[i];
  }
  if (!mask.empty()) mask.resize(kept + 1);
}

// The pixels of a picture where a mask of probabilities [side, side], stretched over a box, is above one half.
class MaskPaster {
 public:
  // As torchvision pastes: one ring of zeros, the box as much larger, in whole pixels, bilinear.
  void append(const float* mask, int64_t side, const float* box, int64_t height, int64_t width, Intervals& out) {
    const int64_t padded = side + 2;
    const float scale = static_cast<float>(static_cast<double>(padded) / side);
    const Span x = span(box[0], box[2], scale, width), y = span(box[1], box[3], scale, height);
    place(y, padded, rows_);
    place(x, padded, columns_);
    line_.assign(padded, 0.f);
    for (int64_t column = x.first; column < x.last; ++column) {
      const Tap& tap = columns_[column - x.first];
      for (int64_t r = 0; r < side; ++r) {
        const float* const row = mask + r * side;
        line_[r + 1] = tap.of(at(row, tap.low, side), at(row, tap.high, side));
      }
      const int64_t first = column * height;
      for (int64_t row = y.first; row < y.last;) {
        const Tap& start = rows_[row - y.first];
        int64_t end = row + 1;
        while (end < y.last && rows_[end - y.first].low == start.low) ++end;
        append_rows(first, row, end, y.first, line_[start.low], line_[start.high], out);
        row = end;
      }
    }
  }

 private:
  struct Span {
    int64_t start, size, first, last;  // of the enlarged box, and the part of it in the picture
  };
  struct Tap {
    int64_t low, high;
    float low_weight, high_weight;
    float of(float a, float b) const { return low_weight * a + high_weight * b; }
  };

  static Span span(float low, float high, float scale, int64_t limit) {
    const float half = (high - low) * .5f * scale, middle = (high + low) * .5f;
    const int64_t start = static_cast<int64_t>(middle - half), end = static_cast<int64_t>(middle + half);
    return {start, std::max<int64_t>(end - start + 1, 1), std::max<int64_t>(start, 0), std::min(end + 1, limit)};
  }

  static void place(const Span& span, int64_t from, std::vector<Tap>& taps) {
    const float scale = static_cast<float>(from) / span.size;
    taps.clear();
    for (int64_t i = span.first; i < span.last; ++i) {
      const float source = std::max(0.f, scale * (i - span.start + .5f) - .5f);
      const int64_t low = std::min(static_cast<int64_t>(source), from - 1);
      const float weight = std::clamp(source - low, 0.f, 1.f);
      taps.push_back({low, std::min(low + 1, from - 1), 1.f - weight, weight});
    }
  }

  static float at(const float* row, int64_t column, int64_t side) {
    return column == 0 || column == side + 1 ? 0.f : row[column - 1];
  }

  // Rows between the same two lines of the mask: where both are clearly on one side, so are the rows.
  void append_rows(int64_t column, int64_t row, int64_t end, int64_t first, float low, float high, Intervals& out) {
    constexpr float kClearly = 1e-5f;
    if (low < .5f - kClearly && high < .5f - kClearly) return;
    if (low > .5f + kClearly && high > .5f + kClearly) return append_interval(out, column + row, column + end);
    for (; row < end; ++row)
      if (rows_[row - first].of(low, high) > .5f) append_interval(out, column + row, column + row + 1);
  }

  std::vector<Tap> rows_, columns_;
  std::vector<float> line_;
};

// Masks by their counts, as intervals, areas and the columns that they reach over.
class Masks {
 public:
  Masks(const uint32_t* counts, const int64_t* offsets, const int64_t* heights, int64_t num)
      : offsets_(num + 1), areas_(num), first_(num), last_(num) {
    for (int64_t i = 0; i < num; ++i) {
      int64_t at = 0;
      for (int64_t j = offsets[i]; j + 1 < offsets[i + 1]; j += 2) {
        const int64_t begin = at + counts[j], end = begin + counts[j + 1];
        if (begin < end) intervals_.push_back({begin, end});
        areas_[i] += end - begin;
        at = end;
      }
      offsets_[i + 1] = intervals_.size();
      const bool is_empty = offsets_[i] == offsets_[i + 1];
      first_[i] = is_empty ? 0 : intervals_[offsets_[i]].begin / heights[i];
      last_[i] = is_empty ? -1 : (intervals_.back().end - 1) / heights[i];
    }
  }

  double area(int64_t i) const { return static_cast<double>(areas_[i]); }

  double shared(int64_t i, const Masks& others, int64_t j) const {
    if (last_[i] < others.first_[j] || others.last_[j] < first_[i]) return 0;
    const Interval *a = intervals_.data() + offsets_[i], *const a_end = intervals_.data() + offsets_[i + 1];
    const Interval *b = others.intervals_.data() + others.offsets_[j],
                   *const b_end = others.intervals_.data() + others.offsets_[j + 1];
    int64_t pixels = 0;
    while (a < a_end && b < b_end) {
      pixels += std::max<int64_t>(0, std::min(a->end, b->end) - std::max(a->begin, b->begin));
      a->end < b->end ? ++a : ++b;
    }
    return static_cast<double>(pixels);
  }

 private:
  Intervals intervals_;
  std::vector<int64_t> offsets_, areas_, first_, last_;
};

// Boxes (x, y, width, height) in the place of masks.
class Boxes {
 public:
  explicit Boxes(const double* boxes) : boxes_(boxes) {}

  double area(int64_t i) const { return boxes_[4 * i + 2] * boxes_[4 * i + 3]; }

  double shared(int64_t i, const Boxes& others, int64_t j) const {
    const double *a = boxes_ + 4 * i, *b = others.boxes_ + 4 * j;
    const double across = std::min(a[2] + a[0], b[2] + b[0]) - std::max(a[0], b[0]);
    const double down = std::min(a[3] + a[1], b[3] + b[1]) - std::max(a[1], b[1]);
    return across <= 0 || down <= 0 ? 0 : across * down;
  }

 private:
  const double* boxes_;
};

// What COCO's evaluation decides about the detections of one class in one picture after the other.
struct Matching {
  const double *thresholds, *ranges;  // [num_thresholds]; [num_ranges, 2], of areas
  int64_t num_thresholds, num_ranges;
  const int64_t *detections, *detection_offsets, *truths, *truth_offsets;  // by group, the detections best first
  int64_t num_groups;
  const double* truth_areas;
  const uint8_t* crowd;

  // matched, ignored: [num_ranges, all detections], one bit for each threshold.
  template <typename Shapes>
  void match(const Shapes& found, const Shapes& truth, uint16_t* matched, uint16_t* ignored) const {
    const int64_t all = detection_offsets[num_groups];
    std::vector<double> overlaps;
    std::vector<int64_t> order;
    std::vector<uint8_t> out_of_range, taken;
    for (int64_t group = 0; group < num_groups; ++group) {
      const int64_t first = detection_offsets[group], num = detection_offsets[group + 1] - first;
      const int64_t* const its = truths + truth_offsets[group];
      const int64_t num_truths = truth_offsets[group + 1] - truth_offsets[group];
      overlaps.resize(num * num_truths);
      for (int64_t i = 0; i < num; ++i)
        for (int64_t j = 0; j < num_truths; ++j)
          overlaps[i * num_truths + j] = overlap(found, detections[first + i], truth, its[j]);
      for (int64_t range = 0; range < num_ranges; ++range) {
        const double low = ranges[2 * range], high = ranges[2 * range + 1];
        const auto outside = [=](double area) { return area < low || area > high; };
        out_of_range.clear();
        for (int64_t j = 0; j < num_truths; ++j)
          out_of_range.push_back(crowd[its[j]] || outside(truth_areas[its[j]]));
        order.clear();
        for (const bool last : {false, true})  // those that count come first
          for (int64_t j = 0; j < num_truths; ++j)
            if (out_of_range[j] == last) order.push_back(j);
        uint16_t *const its_matched = matched + range * all + first, *const its_ignored = ignored + range * all + first;
        if (num_truths == 0) {
          for (int64_t i = 0; i < num; ++i)
            if (outside(found.area(detections[first + i]))) its_ignored[i] = (1 << num_thresholds) - 1;
          continue;
        }
        for (int64_t t = 0; t < num_thresholds; ++t) {
          taken.assign(num_truths, 0);
          for (int64_t i = 0; i < num; ++i) {
            const double* const row = overlaps.data() + i * num_truths;
            const int64_t best = choose(row, order, out_of_range, taken, its, thresholds[t]);
            const bool is_ignored = best < 0 ? outside(found.area(detections[first + i])) : out_of_range[best];
            if (best >= 0) taken[best] = 1;
            its_matched[i] |= static_cast<uint16_t>((best >= 0) << t);
            its_ignored[i] |= static_cast<uint16_t>(is_ignored << t);
          }
        }
      }
    }
  }

 private:
  template <typename Shapes>
  double overlap(const Shapes& found, int64_t i, const Shapes& truth, int64_t j) const {
    const double shared = found.shared(i, truth, j);
    if (shared == 0) return 0;
    return shared / (crowd[j] ? found.area(i) : found.area(i) + truth.area(j) - shared);
  }

  // The object that a detection takes, or -1: the last of those it overlaps most, one that counts before others.
  int64_t choose(const double* overlaps, const std::vector<int64_t>& order, const std::vector<uint8_t>& out_of_range,
                 const std::vector<uint8_t>& taken, const int64_t* its, double threshold) const {
    double most = std::min(threshold, 1 - 1e-10);
    int64_t best = -1;
    for (const int64_t j : order) {
      if (taken[j] && !crowd[its[j]]) continue;
      if (best >= 0 && !out_of_range[best] && out_of_range[j]) break;
      if (overlaps[j] < most) continue;
      most = overlaps[j];
      best = j;
    }
    return best;
  }
};

}  // namespace airank_fast::host
