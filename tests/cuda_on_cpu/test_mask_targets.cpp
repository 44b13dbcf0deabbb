// The launcher of masks of polygons: polygons of more edges than a block has threads, an object of two and one of none, a
// box without area, one that is not finite, and an object that is not there.
#include "cuda/mask_targets.h"
#include "kernel_test.h"

namespace airank_fast {
namespace {

// Pixels whose centres are inside: with edges far from all centres the COCO API's rule fills the same ones.
bool is_inside(const std::vector<double>& polygon, double x, double y) {
  bool inside = false;
  for (size_t i = 0, j = polygon.size() - 2; i < polygon.size(); j = i, i += 2)
    if ((polygon[i + 1] > y) != (polygon[j + 1] > y) &&
        x < polygon[i] + (polygon[j] - polygon[i]) * (y - polygon[i + 1]) / (polygon[j + 1] - polygon[i + 1]))
      inside = !inside;
  return inside;
}

std::vector<double> rectangle(double left, double top, double right, double bottom, int edges_of_side) {
  const double corners[5][2] = {{left, top}, {right, top}, {right, bottom}, {left, bottom}, {left, top}};
  std::vector<double> polygon;
  for (int side = 0; side < 4; ++side)
    for (int i = 0; i < edges_of_side; ++i)
      for (int axis = 0; axis < 2; ++axis)
        polygon.push_back(corners[side][axis] + (corners[side + 1][axis] - corners[side][axis]) * i / edges_of_side);
  return polygon;
}

void cases() {
  constexpr int64_t kSize = 9;
  const std::vector<std::vector<std::vector<double>>> objects = {
      {rectangle(2, 3, 7, 8, 40)}, {rectangle(1, 1, 4, 9, 1), rectangle(3, 2, 8, 5, 2)}, {}};
  const std::vector<std::vector<double>> boxes = {
      {0, 0, 9, 9, 0}, {0, 0, 9, 9, 1}, {0, 0, 9, 9, 2}, {0, 0, 9, 9, 3}, {2, 3, 2, 3, 0}, {0, std::nan(""), 9, 9, 0}};
  std::vector<double> points;
  std::vector<int64_t> polygon_ends{0}, object_ends{0};
  for (const auto& object : objects) {
    for (const auto& polygon : object) {
      points.insert(points.end(), polygon.begin(), polygon.end());
      polygon_ends.push_back(int64_t(points.size() / 2));
    }
    object_ends.push_back(int64_t(polygon_ends.size()) - 1);
  }
  Array<float> table(4 * boxes.size()), vertices(points.size()), result(boxes.size() * kSize * kSize);
  Array<int64_t> matched(boxes.size()), polygon_offsets(polygon_ends.size()), object_offsets(object_ends.size());
  std::vector<double> want(result.size());
  for (size_t i = 0; i < points.size(); ++i) vertices.set(i, points[i]);
  for (size_t i = 0; i < polygon_ends.size(); ++i) polygon_offsets[i] = polygon_ends[i];
  for (size_t i = 0; i < object_ends.size(); ++i) object_offsets[i] = object_ends[i];
  for (size_t k = 0; k < boxes.size(); ++k) {
    for (size_t i = 0; i < 4; ++i) table.set(4 * k + i, boxes[k][i]);
    matched[k] = int64_t(boxes[k][4]);
    const bool is_there = matched[k] < int64_t(objects.size()) && boxes[k][1] == boxes[k][1];
    // A box without area is a pixel, here of 9 x 9 pixels of its grid.
    const double factor = boxes[k][2] > boxes[k][0] ? 1 : 1.0 / kSize;
    for (int64_t y = 0; y < kSize; ++y)
      for (int64_t x = 0; x < kSize; ++x) {
        double& pixel = want[k * kSize * kSize + size_t(y * kSize + x)];
        pixel = is_there ? 0.0 : std::nan("");
        if (!is_there) continue;
        for (const auto& polygon : objects[size_t(matched[k])])
          if (is_inside(polygon, boxes[k][0] + (double(x) + 0.5) * factor, boxes[k][1] + (double(y) + 0.5) * factor))
            pixel = 1;
      }
  }
  MaskTargetsLaunch work;
  work.num_boxes = int64_t(boxes.size());
  work.size = kSize;
  work.objects = int64_t(objects.size());
  work.boxes = table.data();
  work.matched = matched.data();
  work.points = vertices.data();
  work.polygon_offsets = polygon_offsets.data();
  work.object_offsets = object_offsets.data();
  work.result = result.data();
  check_success("mask_targets", launch_mask_targets(work, nullptr));
  check_close("mask_targets", result, want, 0);
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
