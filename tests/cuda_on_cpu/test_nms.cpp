// The launcher of non-maximum suppression: less than a tile of boxes, several tiles with a part of one, groups, none.
#include "cuda/nms.h"
#include "kernel_test.h"

namespace airank_fast {
namespace {

// Corners are whole numbers, whose IoUs are above 0.5 where the intersection is above half the union, exactly.
template <typename T>
void check(int64_t count, int64_t num_groups) {
  const size_t size = size_t(count);
  Array<T> boxes(4 * size);
  Array<int64_t> order(size), groups(size), kept(size), num_kept(1);
  for (size_t i = 0; i < size; ++i) {
    const double x = double(i * 7 % 40), y = double(i * 3 % 5), side = double(8 + i % 3);
    const double corners[4] = {x, y, x + side, y + side};
    for (size_t d = 0; d < 4; ++d) boxes.set(4 * i + d, corners[d]);
    order[i] = int64_t((i * 11 + 5) % size);
    groups[i] = num_groups > 0 ? int64_t(i) % num_groups : 0;
  }
  if (count % 11 == 0)
    for (size_t i = 0; i < size; ++i) order[i] = int64_t(size - 1 - i);  // 11 i would not be a permutation

  std::vector<double> want;
  for (size_t rank = 0; rank < size; ++rank) {
    const size_t i = size_t(order[rank]);
    bool removed = false;
    for (double k : want) {
      const size_t j = size_t(k);
      if (groups[i] != groups[j]) continue;
      double inter = 1, areas[2] = {1, 1};
      for (size_t d = 0; d < 2; ++d) {
        const double low[2] = {boxes.get(4 * i + d), boxes.get(4 * j + d)};
        const double high[2] = {boxes.get(4 * i + d + 2), boxes.get(4 * j + d + 2)};
        for (int b = 0; b < 2; ++b) areas[b] *= high[b] - low[b];
        inter *= std::fmax(0, std::fmin(high[0], high[1]) - std::fmax(low[0], low[1]));
      }
      removed |= 2 * inter > areas[0] + areas[1] - inter;
    }
    if (!removed) want.push_back(double(i));
  }
  const double number = double(want.size());
  want.resize(size, -1);

  NmsLaunch work;
  work.dtype = DtypeOf<T>::value;
  work.count = count;
  work.boxes = boxes.data();
  work.order = order.data();
  work.groups = num_groups > 0 ? groups.data() : nullptr;
  work.threshold = 0.5;
  Array<uint64_t> workspace(size_t(nms_workspace(count)));
  work.workspace = workspace.data();
  work.kept = kept.data();
  work.num_kept = num_kept.data();
  check_success("nms", launch_nms(work, nullptr));
  check_close("nms: num_kept", num_kept, {number}, 0);
  check_close("nms: kept", kept, want, 0);
}

void cases() {
  check<float>(0, 0);
  check<float>(1, 0);
  check<float>(23, 3);
  check<double>(65, 0);
  check<float>(64 * 3 + 7, 2);
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
