// Which kept boxes can remove a box: those whose centres are near enough for an IoU above the threshold.
//
// IoU > t means more than t along each axis too. So widths differ by less than a factor of 1 / t, and the distance of
// two centres is below (1 - t) / (2 t) times the width of either box; the same holds for heights. Boxes lie in cells by
// their centres, and a box looks at the cells within that distance.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace airank_fast {

// The largest distance of centres, as a share of a box's size; IoUs and sizes are rounded. Infinite where every box
// has to be looked at.
inline double nms_reach(double threshold) {
  const double least = threshold - 1e-5;
  return least > 0 ? std::max(0.0, (1 - least) / (2 * least)) + 1e-5 : std::numeric_limits<double>::infinity();
}

// A box's centre along one axis, and the distance within which it looks.
struct NmsSpan {
  NmsSpan(double low, double high, double reach)
      : centre(0.5 * low + 0.5 * high), distance(reach * (high - low) + 1e-15 * (std::abs(low) + std::abs(high))) {}

  double centre;
  double distance;
};

// The cells along one axis. One cell, until set() finds that more are worth it.
class NmsAxis {
 public:
  // Of boxes with centres in [lowest, highest]; cells are as wide as a box of that distance looks, or wider.
  void set(double lowest, double highest, double mean_distance, int64_t most_cells) {
    const double extent = highest - lowest;
    const double cells = std::floor(std::min(double(most_cells), extent / (2 * mean_distance)));
    if (!(cells >= 2) || !std::isfinite(cells / extent)) return;
    lowest_ = lowest;
    cells_per_unit_ = cells / extent;
    last_ = int64_t(cells) - 1;
  }

  int64_t num_cells() const { return last_ + 1; }

  // Never falls while the position rises: what lies between two positions is in the cells between theirs.
  int64_t cell_of(double position) const {
    if (last_ == 0) return 0;
    return int64_t(std::clamp((position - lowest_) * cells_per_unit_, 0.0, double(last_)));
  }

 private:
  double lowest_ = 0;
  double cells_per_unit_ = 0;
  int64_t last_ = 0;
};

// Cells for some boxes, with room for those that will be kept.
struct NmsGrid {
  NmsAxis x, y;
  std::vector<int64_t> first;   // of each cell, in the room; at multiples of a vector's lanes
  std::vector<int64_t> filled;  // boxes in each cell

  int64_t num_cells() const { return x.num_cells() * y.num_cells(); }
  int64_t cell_of(double centre_x, double centre_y) const {
    return y.cell_of(centre_y) * x.num_cells() + x.cell_of(centre_x);
  }
};

}  // namespace airank_fast
