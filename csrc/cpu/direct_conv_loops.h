// The loops of direct convolutions: tiles of products in registers.
//
// A tile of the first has some pixels by two vectors of filters, and adds the numbers that a filter covers, one by one,
// each times a vector of weights; weights are packed in that order for every two vectors. A tile of the second, for the
// gradient of a weight, has some numbers of a filter by two vectors of filters, and adds pixels one by one. The last
// filters may fill one vector only. Numbers of a tile are added in an order that depends on nothing else.
#pragma once

#include "direct_conv_plan.h"
#include "isa.h"
#include "vectors.h"

namespace airank_fast {

// Registers of a tile: 12 sums of 16 on AVX2, 16 of 32 on AVX-512.
template <int kLanes> constexpr int kConvWide = kLanes == 16 ? 8 : 6;  // lines of two vectors
constexpr int kConvNarrow = 8;                                          // lines of one vector
constexpr int64_t kConvBlock = 96;                                      // pixels that stay in the cache meanwhile

// Filters of a panel, for vectors of `lanes` floats.
template <typename T>
constexpr int64_t conv_panel(int64_t lanes) { return 2 * lanes * 4 / int64_t(sizeof(T)); }

template <typename T>
struct ConvGather {
  const T* source;   // padded
  const T* weights;  // [panels, numbers, panel]
  const T* bias;     // [panels, panel]
  T* output;
  const ConvRun* runs;
  const int64_t* parts;  // the first run of each, and behind the last
  int64_t num_parts;
  int64_t numbers;  // of all runs
  int64_t filters;
  ConvPixels pixels;
};

template <typename V, int kLines, int kVectors, typename T>
HOST_DEVICE void conv_gather_tile(const ConvRun* run, const ConvRun* end, const T* const* lines, const T* weights,
                                  int64_t panel, V (&sums)[kLines][kVectors]) {
  constexpr int64_t kSize = sizeof(V) / sizeof(T);
  const T* at[kLines];
  for (; run != end; ++run) {
    const int64_t size = run->size;
#pragma GCC unroll 16
    for (int j = 0; j < kLines; ++j) at[j] = lines[j] + run->offset;
    for (int64_t i = 0; i < size; ++i) {
      V w[kVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) w[v] = vector_at<V>(weights + v * kSize);
#pragma GCC unroll 16
      for (int j = 0; j < kLines; ++j) {
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) sums[j][v] += at[j][i] * w[v];
      }
      weights += panel;
    }
  }
}

// Fewer numbers than a tile has.
template <typename T>
HOST_DEVICE void conv_store(T* to, const T* from, int64_t count) {
  for (; count >= 4; count -= 4, to += 4, from += 4) std::memcpy(to, from, 4 * sizeof(T));
  for (int64_t i = 0; i < count; ++i) to[i] = from[i];
}

// A block of pixels: the weights of a part stay in the cache meanwhile. Each part is summed by itself, as long sums
// would round more.
template <typename V, int kLines, int kVectors, typename T>
HOST_DEVICE void conv_gather_lines(const ConvGather<T>& of, const int64_t* in, const int64_t* out, int64_t count,
                                   int64_t first, const T* weights, int64_t panel) {
  constexpr int64_t kSize = sizeof(V) / sizeof(T), kWidth = kVectors * kSize;
  const int64_t filters = std::min(kWidth, of.filters - first);
  V bias[kVectors];
  for (int v = 0; v < kVectors; ++v) bias[v] = vector_at<V>(of.bias + first + v * kSize);
  alignas(64) T kept[(kConvBlock + kLines) * kWidth];
  for (int64_t part = 0; part < of.num_parts; ++part) {
    const ConvRun *begin = of.runs + of.parts[part], *end = of.runs + of.parts[part + 1];
    const bool is_last = part + 1 == of.num_parts;
    for (int64_t p = 0; p < count; p += kLines) {
      const int64_t n = std::min<int64_t>(kLines, count - p);
      const T* lines[kLines];
#pragma GCC unroll 16
      for (int j = 0; j < kLines; ++j) lines[j] = of.source + in[p + std::min<int64_t>(j, n - 1)];
      V sums[kLines][kVectors];
#pragma GCC unroll 16
      for (int j = 0; j < kLines; ++j) {
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) sums[j][v] = part == 0 ? bias[v] : V{};
      }
      conv_gather_tile<V, kLines, kVectors>(begin, end, lines, weights, panel, sums);
      if (part > 0) {
#pragma GCC unroll 16
        for (int j = 0; j < kLines; ++j) {
#pragma GCC unroll 16
          for (int v = 0; v < kVectors; ++v) sums[j][v] += vector_at<V>(kept + (p + j) * kWidth + v * kSize);
        }
      }
      if (!is_last) {
        std::memcpy(kept + p * kWidth, sums, sizeof(sums));
        continue;
      }
#pragma GCC unroll 16
      for (int j = 0; j < kLines; ++j) {
        if (j >= n) break;
        T* to = of.output + out[p + j] + first;
        if (filters == kWidth) std::memcpy(to, sums[j], sizeof(sums[j]));
        else conv_store(to, reinterpret_cast<const T*>(sums[j]), filters);
      }
    }
    for (const ConvRun* run = begin; run != end; ++run) weights += run->size * panel;
  }
}

template <typename T>
struct ConvGatherLoops {
  template <int kLanes>
  struct Loop {
    using Signature = void(const ConvGather<T>&, int64_t, int64_t);
    using V = typename VectorType<T, 4 * kLanes>::type;

    HOST_DEVICE static void run(const ConvGather<T>& of, int64_t begin, int64_t end) {
      constexpr int64_t kSize = sizeof(V) / sizeof(T), kPanel = 2 * kSize;
      int64_t in[kConvBlock], out[kConvBlock];
      for (int64_t p = begin; p < end; p += kConvBlock) {
        const int64_t count = std::min(kConvBlock, end - p);
        of.pixels.find(p, p + count, in, out);
        const T* weights = of.weights;
        for (int64_t first = 0; first < of.filters; first += kPanel) {
          if (of.filters - first > kSize)
            conv_gather_lines<V, kConvWide<kLanes>, 2>(of, in, out, count, first, weights, kPanel);
          else
            conv_gather_lines<V, kConvNarrow, 1>(of, in, out, count, first, weights, kPanel);
          weights += of.numbers * kPanel;
        }
      }
    }
  };
};

template <typename T>
struct ConvWeights {
  const T* source;         // padded
  const T* grad;           // [pixels, filters]
  const int64_t* offsets;  // of the numbers that a filter covers
  T* sums;                 // [numbers, row]
  int64_t filters;
  int64_t row;  // filters, filled up to whole panels
  ConvPixels pixels;
};

template <typename V, int kLines, int kVectors, typename T>
HOST_DEVICE void conv_weights_tile(const ConvWeights<T>& of, const int64_t* in, int64_t count, int64_t line, int64_t n,
                                   int64_t first, const T* grad) {
  constexpr int64_t kSize = sizeof(V) / sizeof(T);
  const T* lines[kLines];
#pragma GCC unroll 16
  for (int j = 0; j < kLines; ++j) lines[j] = of.source + of.offsets[line + std::min<int64_t>(j, n - 1)];
  V sums[kLines][kVectors] = {};
  for (int64_t p = 0; p < count; ++p) {
    const int64_t at = in[p];
    V g[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) g[v] = vector_at<V>(grad + v * kSize);
#pragma GCC unroll 16
    for (int j = 0; j < kLines; ++j) {
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sums[j][v] += lines[j][at] * g[v];
    }
    grad += kVectors * kSize;
  }
#pragma GCC unroll 16
  for (int j = 0; j < kLines; ++j) {
    if (j >= n) break;
    T* to = of.sums + (line + j) * of.row + first;
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const V sum = vector_at<V>(to + v * kSize) + sums[j][v];
      std::memcpy(to + v * kSize, &sum, sizeof(V));
    }
  }
}

// Adds the products of pixels [begin, end) to lines [line, last) of the sums.
template <typename T>
struct ConvWeightsLoops {
  template <int kLanes>
  struct Loop {
    using Signature = void(const ConvWeights<T>&, int64_t, int64_t, int64_t, int64_t);
    using V = typename VectorType<T, 4 * kLanes>::type;
    static constexpr int64_t kSize = sizeof(V) / sizeof(T);

    template <int kLines, int kVectors>
    HOST_DEVICE static void lines(const ConvWeights<T>& of, const int64_t* in, int64_t count, int64_t line,
                                  int64_t last, int64_t first, const T* grad) {
      constexpr int64_t kWidth = kVectors * kSize;
      const int64_t filters = std::min(kWidth, of.filters - first);
      // Side by side, as lines that are a power of two apart would share a few places in the cache.
      alignas(64) T panel[kConvBlock * kWidth];
      for (int64_t p = 0; p < count; ++p) {
        if (filters == kWidth) {
          std::memcpy(panel + p * kWidth, grad + p * of.filters, kWidth * sizeof(T));
        } else {
          for (int64_t k = 0; k < filters; ++k) panel[p * kWidth + k] = grad[p * of.filters + k];
          for (int64_t k = filters; k < kWidth; ++k) panel[p * kWidth + k] = 0;
        }
      }
      for (; line < last; line += kLines)
        conv_weights_tile<V, kLines, kVectors>(of, in, count, line, std::min<int64_t>(kLines, last - line), first,
                                               panel);
    }

    HOST_DEVICE static void run(const ConvWeights<T>& of, int64_t begin, int64_t end, int64_t line, int64_t last) {
      int64_t in[kConvBlock];
      for (int64_t p = begin; p < end; p += kConvBlock) {
        const int64_t count = std::min(kConvBlock, end - p);
        of.pixels.find(p, p + count, in, nullptr);
        for (int64_t first = 0; first < of.filters; first += 2 * kSize) {
          const T* grad = of.grad + p * of.filters + first;
          if (of.filters - first > kSize) lines<kConvWide<kLanes>, 2>(of, in, count, line, last, first, grad);
          else lines<kConvNarrow, 1>(of, in, count, line, last, first, grad);
        }
      }
    }
  };
};

}  // namespace airank_fast
