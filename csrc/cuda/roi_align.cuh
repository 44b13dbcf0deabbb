// RoIAlign over the levels of a pyramid on the GPU, and its backward; formula in roi_align_math.h.
//
// Mapping: forward, a thread takes a bin of a channel, the threads of a block neighbours in memory; the four pixels of
// each sample come from the caches. Backward, a block takes a tile of 8 x 8 pixels and 8 channels of a gradient, a thread
// four of its numbers. The block lists the RoIs whose samples may reach the tile, in their order, and computes of some
// at a time what part each row and column of the tile has of each bin; then every thread gathers what the bins give.
// Each number is the sum over RoIs in their order: without atomics, and the same in every run.
// Bytes per number from memory: of the result or the gradient e, written once; all else is read from the caches.
#pragma once

#include "vec.cuh"

#include "../roi_align_math.h"

namespace airank_fast {

constexpr int kRoiThreads = 128;
constexpr int kRoiTile = 8;  // pixels
constexpr int kRoiChannels = 8;
constexpr int kRoiLines = 2 * kRoiTile;               // rows and columns of a tile
constexpr int kRoiAtOnce = kRoiThreads / kRoiLines;   // RoIs of which a thread has a line each
constexpr int kRoiNumbers = kRoiTile * kRoiTile * kRoiChannels / kRoiThreads;  // of a thread
static_assert(kRoiThreads % (kRoiTile * kRoiChannels) == 0 && kRoiThreads % (kRoiTile * kRoiTile) == 0);
// Blocks of the backward that a multiprocessor's registers must suffice for.
template <typename M> constexpr int kRoiBlocks = sizeof(M) == 8 ? 3 : 5;

template <typename T> struct RoiResult { using type = T; };
template <> struct RoiResult<uint8_t> { using type = float; };
template <typename T> using roi_result_t = typename RoiResult<T>::type;

template <typename M>
struct RoiLevelTask {
  void* data;
  int32_t height;
  int32_t width;
  M scale;
  // Backward: tiles in a row and in a column of them.
  int32_t tiles_across;
  int32_t tiles_down;
};

template <typename M>
struct RoiTask {
  const M* rois;
  int64_t num_rois;
  int64_t pictures;
  int64_t channels;
  int32_t height;
  int32_t width;
  int32_t sampling_ratio;
  bool aligned;
  bool channels_last;
  int num_levels;
  RoiLevelTask<M> levels[kRoiLevels];
  M areas[kRoiLevels - 1];
};

// A RoI, its level and the axes on it; level -1: not finite, or of a picture that is not there.
template <typename M>
struct RoiPlace {
  int level;
  int64_t picture;
  RoiAxis<M> down;
  RoiAxis<M> across;
};

template <typename M>
__device__ __forceinline__ RoiPlace<M> roi_place(const RoiTask<M>& task, int64_t k) {
  const M* roi = task.rois + 5 * k;
  RoiPlace<M> place;
  place.level = roi_level(roi + 1, task.areas, task.num_levels - 1);
  const RoiLevelTask<M>& level = task.levels[place.level];
  place.down = roi_axis(roi[2], roi[4], level.scale, task.height, level.height, task.sampling_ratio, task.aligned);
  place.across = roi_axis(roi[1], roi[3], level.scale, task.width, level.width, task.sampling_ratio, task.aligned);
  const bool is_there = roi[0] >= M(0) && roi[0] < M(task.pictures);
  place.picture = is_there ? int64_t(roi[0]) : 0;
  if (!is_there || !place.down.is_finite() || !place.across.is_finite()) place.level = -1;
  return place;
}

template <typename T, typename M>
__global__ void __launch_bounds__(kRoiThreads) roi_align_kernel(const RoiTask<M> task, void* result) {
  const int64_t bins = int64_t(task.height) * task.width;
  const int64_t i = int64_t(blockIdx.x) * kRoiThreads + threadIdx.x;
  if (i >= task.num_rois * task.channels * bins) return;
  const int64_t k = i / (task.channels * bins), of_roi = i % (task.channels * bins);
  const int64_t channel = task.channels_last ? of_roi % task.channels : of_roi / bins;
  const int32_t bin = int32_t(task.channels_last ? of_roi / task.channels : of_roi % bins);
  const int32_t p = bin / task.width, q = bin % task.width;
  const RoiPlace<M> place = roi_place(task, k);
  auto* to = static_cast<roi_result_t<T>*>(result) + i;
  if (place.level < 0) {
    store(to, M(__builtin_nanf("")));
    return;
  }
  const RoiLevelTask<M>& level = task.levels[place.level];
  const int64_t pixel = task.channels_last ? task.channels : 1, row = level.width * pixel;
  const T* x = static_cast<const T*>(level.data) +
               (task.channels_last ? place.picture * level.height * row + channel
                                   : (place.picture * task.channels + channel) * level.height * row);
  const int32_t last_row = place.down.last(p, M(level.height)), last = place.across.last(q, M(level.width));
  M sum = 0;
  for (int32_t r = place.down.first(p, M(-1)); r < last_row; ++r) {
    const RoiSample<M> down = place.down.sample(p, r);
    if (!down.is_inside) continue;
    for (int32_t s = place.across.first(q, M(-1)); s < last; ++s) {
      const RoiSample<M> across = place.across.sample(q, s);
      if (!across.is_inside) continue;
      const T* at = x + down.cell * row + across.cell * pixel;
      M value = (M(1) - across.weight) * M(load(at[0]));
      if (across.weight > M(0)) value += across.weight * M(load(at[pixel]));
      M below = 0;
      if (down.weight > M(0)) {
        below = (M(1) - across.weight) * M(load(at[row]));
        if (across.weight > M(0)) below += across.weight * M(load(at[row + pixel]));
        below *= down.weight;
      }
      sum += (M(1) - down.weight) * value + below;
    }
  }
  const M count = M(place.down.grid) * M(place.across.grid);
  store(to, count > M(0) ? sum / count : M(0));
}

// Whether a sample of the axis may reach cells [first, first + kRoiTile).
template <typename M>
__device__ __forceinline__ bool roi_reaches(const RoiAxis<M>& axis, int32_t bins, int32_t first) {
  const M end = axis.start + M(bins) * axis.bin;
  const M low = axis.start < end ? axis.start : end, high = axis.start < end ? end : axis.start;
  return low <= M(first + kRoiTile) && high >= M(first - 1);
}

// A thread's numbers in a tile: of one column, one channel in channels_last pictures, else one row. Number j has the row
// first_row + j * rows and the channel first_channel + j * channels.
struct RoiNumbers {
  int32_t column;
  int32_t first_row;
  int32_t rows;
  int32_t first_channel;
  int32_t channels;
};

__device__ __forceinline__ RoiNumbers roi_numbers(bool channels_last) {
  const int32_t thread = int32_t(threadIdx.x);
  constexpr int32_t kPixels = kRoiTile * kRoiTile, kRow = kRoiTile * kRoiChannels;
  if (channels_last)
    return {thread / kRoiChannels % kRoiTile, thread / kRow, kRoiThreads / kRow, thread % kRoiChannels, 0};
  return {thread % kRoiTile, thread / kRoiTile % kRoiTile, 0, thread / kPixels, kRoiThreads / kPixels};
}

// A tile of a gradient: its level, picture, first pixel and first channel.
struct RoiTilePlace {
  int level;
  int64_t picture;
  int32_t top;
  int32_t left;
  int64_t channel;
};

template <typename M>
__device__ __forceinline__ RoiTilePlace roi_tile(const RoiTask<M>& task) {
  const int64_t chunks = (task.channels + kRoiChannels - 1) / kRoiChannels;
  int64_t block = blockIdx.x;
  int level = 0;
  while (true) {
    const RoiLevelTask<M>& of = task.levels[level];
    const int64_t blocks = task.pictures * of.tiles_down * of.tiles_across * chunks;
    if (block < blocks) break;
    block -= blocks;
    ++level;
  }
  const RoiLevelTask<M>& of = task.levels[level];
  const int64_t tile = block / chunks, tiles = int64_t(of.tiles_down) * of.tiles_across;
  return {level, tile / tiles, int32_t(tile % tiles / of.tiles_across) * kRoiTile,
          int32_t(tile % of.tiles_across) * kRoiTile, block % chunks * kRoiChannels};
}

// Dynamic shared memory: of `at_once` RoIs, at most kRoiAtOnce, the parts of each line of the tile, of all bins.
template <typename T, typename M>
__global__ void __launch_bounds__(kRoiThreads, kRoiBlocks<M>)
    roi_align_backward_kernel(const RoiTask<M> task, const T* grad, int at_once) {
  DYN_SMEM(M, parts);
  SHARED(int32_t, reaching, [kRoiThreads]);
  SHARED(int32_t, of_warps, [kRoiThreads / 32]);
  SHARED(int32_t, bins_of_lines, [kRoiAtOnce][kRoiLines][2]);
  const RoiTilePlace tile = roi_tile(task);
  const RoiLevelTask<M>& level = task.levels[tile.level];
  const int32_t parts_size = kRoiTile * (task.height + task.width);
  const int64_t bins = int64_t(task.height) * task.width;
  const int64_t bin_stride = task.channels_last ? task.channels : 1;
  const int64_t channel_stride = task.channels_last ? 1 : bins;
  const RoiNumbers own = roi_numbers(task.channels_last);
  const int thread = int(threadIdx.x), line = thread % kRoiLines, of_line = thread / kRoiLines;
  const bool is_row = line < kRoiTile;
  const int32_t cell = is_row ? tile.top + line : tile.left + line - kRoiTile;

  M sums[kRoiNumbers] = {};
  for (int64_t base = 0; base < task.num_rois; base += kRoiThreads) {
    bool reaches = false;
    if (base + thread < task.num_rois) {
      const RoiPlace<M> place = roi_place(task, base + thread);
      reaches = place.level == tile.level && place.picture == tile.picture &&
                roi_reaches(place.down, task.height, tile.top) && roi_reaches(place.across, task.width, tile.left);
    }
    const unsigned ballot = __ballot_sync(0xffffffffu, reaches);
    if (thread % 32 == 0) of_warps[thread / 32] = __popc(ballot);
    __syncthreads();
    int32_t count = 0, before = 0;
    for (int w = 0; w < kRoiThreads / 32; ++w) {
      if (w == thread / 32) before = count;
      count += of_warps[w];
    }
    if (reaches) reaching[before + __popc(ballot & ((1u << (thread % 32)) - 1))] = int32_t(base) + thread;
    __syncthreads();

    for (int32_t first = 0; first < count; first += at_once) {
      const int32_t here = count - first < at_once ? count - first : at_once;
      if (of_line < here) {
        const RoiPlace<M> place = roi_place(task, reaching[first + of_line]);
        const RoiAxis<M> axis = is_row ? place.down : place.across;
        const int32_t num_bins = is_row ? task.height : task.width;
        M* of_bins = parts + of_line * parts_size +
                     (is_row ? line * task.height : kRoiTile * task.height + (line - kRoiTile) * task.width);
        int32_t begin = num_bins, end = 0;
#pragma unroll 1
        for (int32_t b = 0; b < num_bins; ++b) {
          const M part = cell < axis.size && axis.grid > 0 ? axis.share(b, cell) : M(0);
          of_bins[b] = part;
          if (part > M(0)) {
            begin = begin < b ? begin : b;
            end = b + 1;
          }
        }
        bins_of_lines[of_line][line][0] = begin;
        bins_of_lines[of_line][line][1] = end;
      }
      __syncthreads();
      for (int32_t i = 0; i < here; ++i) {
        const M* of_rows = parts + i * parts_size;
        const M* of_column = of_rows + kRoiTile * task.height + own.column * task.width;
        const int32_t begin = bins_of_lines[i][kRoiTile + own.column][0];
        const int32_t end = bins_of_lines[i][kRoiTile + own.column][1];
        if (begin >= end) continue;
        const T* of_roi = grad + reaching[first + i] * task.channels * bins;
#pragma unroll
        for (int j = 0; j < kRoiNumbers; ++j) {
          const int32_t r = own.first_row + j * own.rows;
          const int64_t channel = tile.channel + own.first_channel + j * own.channels;
          if (channel >= task.channels) continue;
          // One to three bins each: unrolled, these loops would only take registers.
#pragma unroll 1
          for (int32_t p = bins_of_lines[i][r][0]; p < bins_of_lines[i][r][1]; ++p) {
            const T* from = of_roi + channel * channel_stride + p * task.width * bin_stride;
            M of_row = 0;
#pragma unroll 1
            for (int32_t q = begin; q < end; ++q) of_row += of_column[q] * M(load(from[q * bin_stride]));
            sums[j] += of_rows[r * task.height + p] * of_row;
          }
        }
      }
      __syncthreads();
    }
  }

  T* gradient = static_cast<T*>(level.data);
#pragma unroll
  for (int j = 0; j < kRoiNumbers; ++j) {
    const int64_t channel = tile.channel + own.first_channel + j * own.channels;
    const int64_t y = tile.top + own.first_row + j * own.rows, x = tile.left + own.column;
    if (channel >= task.channels || y >= level.height || x >= level.width) continue;
    const int64_t to = task.channels_last
                           ? ((tile.picture * level.height + y) * level.width + x) * task.channels + channel
                           : ((tile.picture * task.channels + channel) * level.height + y) * level.width + x;
    store(gradient + to, sums[j]);
  }
}

}  // namespace airank_fast
