// Non-maximum suppression on the CPU, in each group of boxes; results to the bit as torchvision's in every group.
//
// Boxes are taken by falling score, and each is compared with the kept ones, a vector of them at a time. These lie
// twice: in one row, and in the cells of a grid (nms_grid.h), of which a box looks at the near ones where that is less
// work. So the number of comparisons grows as n, not as n^2, unless boxes are as large as the picture.
#include <torch/csrc/stable/library.h>

#include <numeric>
#include <tuple>
#include <vector>

#include "../nms_args.h"
#include "../nms_math.h"
#include "box_arrays.h"
#include "isa.h"
#include "nms_grid.h"
#include "numbers.h"
#include "sparse_table_sort.h"

namespace airank_fast {
namespace {

constexpr int64_t kLeastForGrid = 200;  // boxes; fewer are compared before a grid is made
constexpr int64_t kVectorsAtOnce = 8;   // of the row, between two looks at whether the box is removed

// What a thread keeps from group to group.
template <typename T>
struct NmsState {
  BoxArrays<T> row;
  BoxArrays<T> cells;
  NmsGrid grid;
};

// One group.
template <typename T>
struct NmsWork {
  const T* boxes;
  const int64_t* order;  // of the group's boxes, by falling score
  int64_t count;
  double threshold;
  uint8_t* kept;  // flags of all boxes

  // Others neither remove nor are removed: their IoU is 0 or NaN.
  bool can_overlap(const IouBox<T>& box) const {
    return !(threshold >= 0) || (box.x1 < box.x2 && box.y1 < box.y2 && std::isfinite(box.area));
  }
};

// The grid of a group; of one cell where another is not worth it.
template <typename T>
void nms_make_grid(const NmsWork<T>& work, double reach, int64_t lanes, NmsState<T>& state) {
  NmsGrid& grid = state.grid;
  grid.x = grid.y = {};
  if (work.count < kLeastForGrid || !std::isfinite(reach)) return;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double lowest[2] = {kInfinity, kInfinity}, highest[2] = {-kInfinity, -kInfinity}, distances[2] = {};
  int64_t number = 0;
  for (int64_t i = 0; i < work.count; ++i) {
    const IouBox<T> box = box_at(work.boxes, work.order[i]);
    if (!work.can_overlap(box)) continue;
    ++number;
    const NmsSpan spans[2] = {{box.x1, box.x2, reach}, {box.y1, box.y2, reach}};
    for (int axis = 0; axis < 2; ++axis) {
      lowest[axis] = std::min(lowest[axis], spans[axis].centre);
      highest[axis] = std::max(highest[axis], spans[axis].centre);
      distances[axis] += spans[axis].distance;
    }
  }
  if (number == 0) return;
  const int64_t most = int64_t(std::sqrt(double(number)));
  grid.x.set(lowest[0], highest[0], distances[0] / double(number), most);
  grid.y.set(lowest[1], highest[1], distances[1] / double(number), most);
  if (grid.num_cells() == 1) return;
  grid.filled.assign(size_t(grid.num_cells()), 0);
  grid.first.resize(size_t(grid.num_cells()));
  for (int64_t i = 0; i < work.count; ++i) {
    const IouBox<T> box = box_at(work.boxes, work.order[i]);
    if (!work.can_overlap(box)) continue;
    ++grid.filled[size_t(grid.cell_of(NmsSpan(box.x1, box.x2, 0).centre, NmsSpan(box.y1, box.y2, 0).centre))];
  }
  int64_t size = 0;
  for (size_t cell = 0; cell < grid.filled.size(); ++cell) {
    grid.first[cell] = size;
    size += whole_vectors(std::exchange(grid.filled[cell], 0), lanes);
  }
  state.cells.reset(size);
}

template <typename T, int kLanes>
struct NmsLoop {
  using V = typename VectorType<T, kLanes * sizeof(T)>::type;
  using Signature = void(const NmsWork<T>&, NmsState<T>&);

  HOST_DEVICE static void run(const NmsWork<T>& work, NmsState<T>& state) {
    const double reach = nms_reach(work.threshold);
    nms_make_grid(work, reach, kLanes, state);
    state.row.reset(whole_vectors(work.count, kLanes));
    NmsGrid& grid = state.grid;
    const bool has_cells = grid.num_cells() > 1;
    const T threshold = nms_threshold<T>(work.threshold);
    int64_t num_kept = 0;
    for (int64_t i = 0; i < work.count; ++i) {
      const IouBox<T> box = box_at(work.boxes, work.order[i]);
      uint8_t& kept = work.kept[work.order[i]];
      kept = 1;
      if (!work.can_overlap(box)) continue;
      const IouBox<V> wide = box_in_lanes<V>(box);
      const V limit = vector_of<V>(threshold);
      if (!has_cells) {
        kept = !is_removed(state.row, 0, num_kept, wide, limit);
      } else {
        const NmsSpan x(box.x1, box.x2, reach), y(box.y1, box.y2, reach);
        const int64_t left = grid.x.cell_of(x.centre - x.distance), right = grid.x.cell_of(x.centre + x.distance);
        const int64_t top = grid.y.cell_of(y.centre - y.distance), bottom = grid.y.cell_of(y.centre + y.distance);
        if ((right - left + 1) * (bottom - top + 1) * kLanes > num_kept) {
          kept = !is_removed(state.row, 0, num_kept, wide, limit);
        } else {
          for (int64_t row = top; row <= bottom && kept; ++row)
            for (int64_t cell = row * grid.x.num_cells() + left; cell <= row * grid.x.num_cells() + right; ++cell)
              if (is_removed(state.cells, grid.first[size_t(cell)], grid.filled[size_t(cell)], wide, limit)) {
                kept = 0;
                break;
              }
        }
        if (kept) {
          const size_t cell = size_t(grid.cell_of(x.centre, y.centre));
          state.cells.put(grid.first[cell] + grid.filled[cell]++, box);
        }
      }
      if (kept) state.row.put(num_kept++, box);
    }
  }

  // Whether one of the boxes [first, first + count) of the room has an IoU above the limit.
  HOST_DEVICE static bool is_removed(const BoxArrays<T>& room, int64_t first, int64_t count, const IouBox<V>& box,
                                     V limit) {
    auto removed = limit < limit;  // no lane, of NaN too
    for (int64_t at = first; at < first + count;) {
      const int64_t end = std::min(first + count, at + kVectorsAtOnce * kLanes);
      for (; at < end; at += kLanes) removed |= box_iou(box, room.template vectors_at<V>(at)) > limit;
      if (any_of(removed)) return true;
    }
    return false;
  }
};

template <int kLanes> using NmsFloats = NmsLoop<float, kLanes>;
template <int kLanes> using NmsDoubles = NmsLoop<double, kLanes / 2>;

template <typename T>
auto nms_loop() {
  if constexpr (std::is_same_v<T, float>) return choose_lanes<NmsFloats>();
  else return choose_lanes<NmsDoubles>();
}

constexpr uint64_t kHalf = 0xffffffffu;  // of a number of 64 bits, which is sorted by its lower half first

// `order`, stably sorted by key(i), which is below `limit`.
template <typename Key>
void nms_sort(std::vector<int64_t>& order, int64_t limit, Key key) {
  std::vector<int64_t> keys(order.size());
  for (size_t i = 0; i < order.size(); ++i) keys[i] = key(order[i]);
  const auto sorted = sorted_table_keys(keys.data(), int64_t(order.size()), limit);
  std::vector<int64_t> by_key(order.size());
  for (size_t i = 0; i < order.size(); ++i) by_key[i] = order[size_t(position_of_key(sorted[i]))];
  order.swap(by_key);
}

// A number that rises as the score falls; as in torch's sort NaN comes first, and -0 is 0.
template <typename T>
auto nms_rank(T score) {
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  constexpr Bits kSign = Bits(1) << (8 * sizeof(T) - 1);
  if (score != score) return Bits(0);
  const Bits bits = bits_as<Bits>(score + T(0));
  return bits & kSign ? bits : Bits(~(bits | kSign));
}

template <typename T>
std::vector<int64_t> nms_order(const T* scores, int64_t count) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  nms_sort(order, kMaxTableRows, [&](int64_t i) { return int64_t(nms_rank(scores[i]) & kHalf); });
  if constexpr (sizeof(T) == 8)
    nms_sort(order, kMaxTableRows, [&](int64_t i) { return int64_t(nms_rank(scores[i]) >> 32); });
  return order;
}

// The indices of the kept boxes by falling score.
template <typename T>
std::vector<int64_t> nms_kept(const Tensor& boxes, const Tensor& scores, const OptionalTensor& idxs,
                              double threshold) {
  const int64_t count = boxes.size(0);
  std::vector<int64_t> order = nms_order(static_cast<const T*>(scores.data_ptr()), count);
  std::vector<uint8_t> kept(static_cast<size_t>(count));
  NmsWork<T> work{static_cast<const T*>(boxes.data_ptr()), order.data(), count, threshold, kept.data()};
  NmsState<T> state;
  const auto loop = nms_loop<T>();
  if (!idxs) {
    loop(work, state);
  } else {
    const int64_t* group = static_cast<const int64_t*>(idxs->data_ptr());
    const auto [least, most] = std::minmax_element(group, group + count);
    const auto number = [&, low = uint64_t(*least)](int64_t i) { return uint64_t(group[i]) - low; };
    std::vector<int64_t> by_group = order;
    const uint64_t span = uint64_t(*most) - uint64_t(*least);
    nms_sort(by_group, int64_t(std::min(span, kHalf)) + 1, [&](int64_t i) { return int64_t(number(i) & kHalf); });
    if (span > kHalf) nms_sort(by_group, kMaxTableRows, [&](int64_t i) { return int64_t(number(i) >> 32); });
    for (int64_t first = 0, end; first < count; first = end) {
      for (end = first + 1; end < count && group[by_group[size_t(end)]] == group[by_group[size_t(first)]];) ++end;
      work.order = by_group.data() + first;
      work.count = end - first;
      loop(work, state);
    }
  }
  std::erase_if(order, [&](int64_t i) { return !kept[size_t(i)]; });
  return order;
}

std::vector<int64_t> nms_indices(const char* op, Tensor boxes, Tensor scores, OptionalTensor idxs, double threshold) {
  check_nms(op, boxes, scores, idxs);
  if (boxes.size(0) == 0) return {};
  boxes = as_contiguous(boxes);
  scores = as_contiguous(scores);
  idxs = as_contiguous(idxs);
  return boxes.scalar_type() == ScalarType::Double ? nms_kept<double>(boxes, scores, idxs, threshold)
                                                   : nms_kept<float>(boxes, scores, idxs, threshold);
}

Tensor nms_cpu(Tensor boxes, Tensor scores, OptionalTensor idxs, double threshold) {
  const std::vector<int64_t> kept = nms_indices("nms", boxes, scores, idxs, threshold);
  Tensor result = empty_beside(boxes, {int64_t(kept.size())}, ScalarType::Long);
  std::copy(kept.begin(), kept.end(), static_cast<int64_t*>(result.data_ptr()));
  return result;
}

std::tuple<Tensor, Tensor> nms_padded_cpu(Tensor boxes, Tensor scores, OptionalTensor idxs, double threshold) {
  const std::vector<int64_t> kept = nms_indices("nms_padded", boxes, scores, idxs, threshold);
  Tensor result = empty_beside(boxes, {boxes.size(0)}, ScalarType::Long);
  Tensor count = empty_beside(boxes, {}, ScalarType::Long);
  int64_t* to = static_cast<int64_t*>(result.data_ptr());
  std::fill(std::copy(kept.begin(), kept.end(), to), to + boxes.size(0), -1);
  *static_cast<int64_t*>(count.data_ptr()) = int64_t(kept.size());
  return {result, count};
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("nms", TORCH_BOX(&airank_fast::nms_cpu));
  m.impl("nms_padded", TORCH_BOX(&airank_fast::nms_padded_cpu));
}
