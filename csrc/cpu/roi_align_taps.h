// The cells that RoIAlign reads on the CPU, found once for all channels: for every bin of a RoI's row or column its cells
// and their weights, each cell once. A bin is the sum over its rows and its columns of the product of both.
#pragma once

#include <algorithm>
#include <vector>

#include "../roi_align_args.h"

namespace airank_fast {

// Along one axis: bin b of RoI k has entries begins[k * (bins + 1) + b] to begins[k * (bins + 1) + b + 1].
template <typename M>
struct RoiTaps {
  int32_t bins;
  std::vector<int32_t> begins;
  std::vector<int32_t> cells;
  std::vector<M> weights;

  explicit RoiTaps(int64_t bins) : bins(int32_t(bins)) {}

  const int32_t* of(int64_t roi) const { return begins.data() + roi * (bins + 1); }

  // The first cell and the number of cells from there to the last one.
  std::pair<int32_t, int32_t> append(const RoiAxis<M>& axis) {
    const size_t first = cells.size();
    begins.push_back(int32_t(first));
    for (int32_t b = 0; b < bins; ++b) {
      const int32_t end = axis.is_finite() ? axis.last(b, M(axis.size)) : 0;
      for (int32_t i = end > 0 ? axis.first(b, M(-1)) : 0; i < end; ++i) {
        const RoiSample<M> at = axis.sample(b, i);
        if (!at.is_inside) continue;
        add(at.cell, (M(1) - at.weight) / M(axis.grid));
        if (at.weight > M(0)) add(at.cell + 1, at.weight / M(axis.grid));
      }
      begins.push_back(int32_t(cells.size()));
    }
    if (cells.size() == first) return {0, 0};
    const auto [low, high] = std::minmax_element(cells.begin() + int64_t(first), cells.end());
    return {*low, *high - *low + 1};
  }

 private:
  // Samples of a bin are neighbours: a cell that is there already is one of its last two.
  void add(int32_t cell, M weight) {
    const size_t of_bin = cells.size() - size_t(begins.back());
    for (size_t back = 1; back <= std::min<size_t>(2, of_bin); ++back)
      if (cells[cells.size() - back] == cell) {
        weights[weights.size() - back] += weight;
        return;
      }
    cells.push_back(cell);
    weights.push_back(weight);
  }
};

struct RoiWindow {
  int32_t first_row;
  int32_t rows;
  int32_t first_column;
  int32_t columns;
  bool is_finite;
};

// The RoIs of one picture of one level, in their order.
struct RoiGroup {
  int level;
  int64_t picture;
  std::vector<int32_t> rois;
  // Of all their windows:
  int32_t first_row = 0;
  int32_t last_row = 0;  // the one after it
};

template <typename M>
struct RoiPlan {
  RoiTaps<M> rows;
  RoiTaps<M> columns;
  std::vector<RoiWindow> windows;
  std::vector<RoiGroup> groups;  // of all pictures of all levels
  int32_t most_columns = 0;      // of a window

  // `sizes` are the heights and widths of the levels. Raises for a picture that is not there.
  RoiPlan(const char* op, const Tensor& rois, int64_t pictures, const std::vector<int64_t>& sizes,
          const RoiAlignOptions& options)
      : rows(options.height), columns(options.width) {
    const std::vector<M> areas(options.areas.begin(), options.areas.end());
    const int32_t ratio = roi_sampling_ratio(options.sampling_ratio);
    for (size_t level = 0; level < sizes.size() / 2; ++level)
      for (int64_t n = 0; n < pictures; ++n) groups.push_back({int(level), n, {}});
    const M* roi = static_cast<const M*>(rois.data_ptr());
    for (int64_t k = 0; k < rois.size(0); ++k, roi += 5) {
      check_roi_picture(op, k, double(roi[0]), pictures);
      const M* box = roi + 1;
      const size_t level = size_t(roi_level(box, areas.data(), int(areas.size())));
      const M scale = M(options.scales[level]);
      const int32_t height = int32_t(sizes[2 * level]), width = int32_t(sizes[2 * level + 1]);
      RoiAxis<M> down = roi_axis(box[1], box[3], scale, rows.bins, height, ratio, options.aligned);
      RoiAxis<M> across = roi_axis(box[0], box[2], scale, columns.bins, width, ratio, options.aligned);
      if (!down.is_finite() || !across.is_finite()) down.grid = across.grid = -1;
      const auto [first_row, num_rows] = rows.append(down);
      auto [first_column, num_columns] = columns.append(across);
      // Loops over whole vectors are faster, and most windows can be made wider.
      constexpr int32_t kWhole = 8;
      const int32_t wide = (num_columns + kWhole - 1) / kWhole * kWhole;
      if (wide <= width) {
        num_columns = wide;
        first_column = std::min(first_column, width - wide);
      }
      windows.push_back({first_row, num_rows, first_column, num_columns, down.is_finite()});
      most_columns = std::max(most_columns, num_columns);
      if (num_rows == 0 || num_columns == 0) continue;
      RoiGroup& group = groups[level * size_t(pictures) + size_t(roi[0])];
      const bool is_first = group.rois.empty();
      group.first_row = is_first ? first_row : std::min(group.first_row, first_row);
      group.last_row = is_first ? first_row + num_rows : std::max(group.last_row, first_row + num_rows);
      group.rois.push_back(int32_t(k));
    }
  }
};

}  // namespace airank_fast
