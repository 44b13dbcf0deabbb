// The loops of batch norm on the CPU: over a piece of NHWC memory seen as [rows, channels], channels inside, so that
// every statement is a vector of channels in any instruction set. Formulas in batch_norm_act_math.h.
//
// A piece has at most kPieceRows rows and kTile channels, so that the numbers per channel fit into the first-level
// cache, and a sum has at most kPieceRows terms in float before it is added to others in double.
#pragma once

#include <algorithm>
#include <cstring>

#include "../batch_norm_act_math.h"
#include "batch_norm_act_lines.h"
#include "isa.h"
#include "numbers.h"
#include "streaming.h"

namespace airank_fast {

constexpr int64_t kPieceRows = 128;  // a multiple of kGroup
constexpr int64_t kTile = 512;
// Rows that a loop takes at once: those whose bits are in one byte of the mask.
constexpr int64_t kGroup = 8;
// Whether a ReLU has loops of its own. Those for any slope take 5 to 15% longer where the data are in a cache.
template <typename E>
constexpr bool kHasRelu = std::is_same_v<E, float> || std::is_same_v<E, bfloat16>;
// Whether loops that store take a group at once, not its rows one by one: those of most use, as the compiler spends much
// of the whole build on them. Above all on 16-bit numbers, whose conversions are long.
template <typename E, Activation kActivation>
constexpr bool kStoresGroups =
    std::is_same_v<E, float> || (std::is_same_v<E, bfloat16> && kActivation != Activation::kAny);

// The type of bit patterns of T, in which a mask is all ones or all zeros.
template <typename T>
using bits_t = std::conditional_t<std::is_same_v<T, double>, uint64_t, uint32_t>;

// x, or 0 where the mask is 0; of NaN too.
template <typename T>
HOST_DEVICE T keep(T x, bits_t<T> mask) {
  return bits_as<T>(bits_as<bits_t<T>>(x) & mask);
}

// Prefetches `bytes` of memory. A group is read column by column, a pattern that the processor's own prefetcher does
// not detect; prefetching the next group line by line is 1.3-1.8x as fast outside the caches.
template <bool kWrite = false>
HOST_DEVICE void prefetch(const void* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(from) + i, kWrite, 2);
}

// Moments of a piece, about the mean of its first rows, which is so near that digits do not cancel.
template <typename E>
struct MomentsLoop {
  using T = math_t<E>;
  using Signature = void(const void*, int64_t, int64_t, int64_t, T*, T*);
  HOST_DEVICE static void run(const void* first, int64_t stride, int64_t num_rows, int64_t width, T* mean,
                              T* deviations) {
    const E* __restrict x = static_cast<const E*>(first);
    T pivot[kTile], sum[kTile], squares[kTile];
    for (int64_t c = 0; c < width; ++c) pivot[c] = sum[c] = squares[c] = 0;
    const int64_t num_first = std::min(num_rows, kGroup);
    for (int64_t r = 0; r < num_first; ++r)
      for (int64_t c = 0; c < width; ++c) pivot[c] += load(x[r * stride + c]);
    for (int64_t c = 0; c < width; ++c) pivot[c] *= T(1) / T(num_first);

    int64_t r = 0;
#ifdef AIRANK_FAST_X86_VARIANTS
    if constexpr (kHasLines<E>) {
      if (walks_lines<E>(width))
        for (; r + kGroup <= num_rows; r += kGroup)
          moments_lines(x + r * stride, stride, width, kGroup * stride, pivot, sum, squares);
    }
#endif
    for (; r + kGroup <= num_rows; r += kGroup) add<kGroup>(x + r * stride, stride, width, pivot, sum, squares);
    for (; r < num_rows; ++r) add<1>(x + r * stride, stride, width, pivot, sum, squares);
#pragma GCC ivdep
    for (int64_t c = 0; c < width; ++c)
      moments_from_sums(T(num_rows), pivot[c], sum[c], squares[c], &mean[c], &deviations[c]);
  }

  template <int64_t kRows>
  HOST_DEVICE static void add(const E* __restrict x, int64_t stride, int64_t width, const T* __restrict pivot,
                              T* __restrict sum, T* __restrict squares) {
#pragma GCC ivdep
    for (int64_t c = 0; c < width; ++c) {
      T of_rows = 0, squares_of_rows = 0;
#pragma GCC unroll 8
      for (int64_t k = 0; k < kRows; ++k) {
        const T distance = T(load(x[k * stride + c])) - pivot[c];
        of_rows += distance;
        squares_of_rows += distance * distance;
      }
      sum[c] += of_rows;
      squares[c] += squares_of_rows;
    }
  }
};

// Combined moments of `width` channels from rows of (mean[C], deviations[C], count), in double.
template <typename T>
struct CombineMomentsLoop {
  using Signature = void(const T*, int64_t, int64_t, int64_t, int64_t, double*, double*);

  HOST_DEVICE static void run(const T* parts, int64_t num_parts, int64_t num_channels, int64_t channel,
                              int64_t width, double* __restrict mean, double* __restrict deviations) {
    const int64_t stride = 2 * num_channels + 1;
    double count = 0;
    for (int64_t p = 0; p < num_parts; ++p) count += parts[p * stride + 2 * num_channels];
    const double inverse = 1 / std::max(count, 1.0);
    for (int64_t c = 0; c < width; ++c) mean[c] = deviations[c] = 0;
    for (int64_t p = 0; p < num_parts; ++p) {
      const T* __restrict part = parts + p * stride + channel;
      const double weight = parts[p * stride + 2 * num_channels] * inverse;
#pragma GCC ivdep
      for (int64_t c = 0; c < width; ++c) mean[c] += weight * double(part[c]);
    }
    for (int64_t p = 0; p < num_parts; ++p) {
      const T* __restrict part = parts + p * stride + channel;
      const double weight = parts[p * stride + 2 * num_channels];
#pragma GCC ivdep
      for (int64_t c = 0; c < width; ++c) {
        const double distance = double(part[c]) - mean[c];
        deviations[c] += double(part[num_channels + c]) + weight * (distance * distance);
      }
    }
  }
};

// x where `passes` is all ones; where it is all zeros, x times the slope, or 0 where that is 0.
template <Activation kActivation, typename T>
HOST_DEVICE T activated(T x, bits_t<T> passes, T negative_slope) {
  if constexpr (kActivation == Activation::kNone) return x;
  if constexpr (kActivation == Activation::kRelu) return keep(x, passes);
  const bits_t<T> below = bits_as<bits_t<T>>(negative_slope), above = bits_as<bits_t<T>>(T(1));
  const bits_t<T> kept = bits_t<T>(0) - bits_t<T>(negative_slope != 0);
  return keep(x * bits_as<T>(below ^ ((above ^ below) & passes)), passes | kept);
}

// Groups [begin, end) of rows.
template <typename E, bool kResidual, Activation kActivation, bool kMask>
struct ActLoop {
  using T = math_t<E>;
  using Signature = void(const void*, const void*, void*, uint8_t*, int64_t, int64_t, int64_t, int64_t, const T*,
                         const T*, const T*, T, bool);

  HOST_DEVICE static void run(const void* xs, const void* residuals, void* ys, uint8_t* mask, int64_t num_rows,
                              int64_t num_channels, int64_t begin, int64_t end, const T* mean, const T* scale,
                              const T* bias, T negative_slope, bool past_cache) {
    const E* x = static_cast<const E*>(xs);
    const E* residual = static_cast<const E*>(residuals);
    E* y = static_cast<E*>(ys);
    const bool lines = walks_lines<E>(num_channels);
    Scratch<E> scratch(past_cache && !lines ? kGroup * num_channels : 0);
    for (int64_t group = begin; group < end; ++group) {
      const int64_t row = group * kGroup, at = row * num_channels;
      const int64_t ahead = group + 1 < end ? kGroup * num_channels : 0;
      uint8_t* bytes = kMask ? mask + group * num_channels : nullptr;
      const bool whole = row + kGroup <= num_rows;
      const E* added = residual + (kResidual ? at : 0);
#ifdef AIRANK_FAST_X86_VARIANTS
      if constexpr (kHasLines<E>) {
        if (lines && whole) {
          act_lines<kResidual, kActivation, kMask>(x + at, added, y + at, bytes, num_channels, ahead, mean, scale,
                                                   bias, negative_slope, past_cache);
          continue;
        }
      }
#endif
      if (ahead) {
        const int64_t size = ahead * sizeof(E);
        prefetch(x + at + ahead, size);
        if constexpr (kResidual) prefetch(residual + at + ahead, size);
        if (!past_cache) prefetch<true>(y + at + ahead, size);
      }
      E* to = past_cache && whole ? scratch.data() : y + at;
      if (kStoresGroups<E, kActivation> && whole) {
        if constexpr (kStoresGroups<E, kActivation>)
          add<kGroup>(x + at, added, to, bytes, 0, num_channels, mean, scale, bias, negative_slope);
      } else {
        if constexpr (kMask) std::memset(bytes, 0, num_channels);
        for (int64_t k = 0; k < kGroup && row + k < num_rows; ++k) {
          const int64_t i = k * num_channels;
          add<1>(x + at + i, added + (kResidual ? i : 0), to + i, bytes, k, num_channels, mean, scale, bias,
                 negative_slope);
        }
      }
      if (past_cache && whole) stream(y + at, to, kGroup * num_channels * int64_t(sizeof(E)));
    }
    if (past_cache) stream_end();
  }

  // Rows whose bits in the mask are first_bit and those after it.
  template <int64_t kRows>
  HOST_DEVICE static void add(const E* __restrict x, const E* __restrict residual, E* __restrict y,
                              uint8_t* __restrict mask, int64_t first_bit, int64_t width, const T* __restrict mean,
                              const T* __restrict scale, const T* __restrict bias, T negative_slope) {
#pragma GCC ivdep
    for (int64_t c = 0; c < width; ++c) {
      bits_t<T> byte = 0;
      if constexpr (kMask && kRows < kGroup) byte = mask[c];
#pragma GCC unroll 8
      for (int64_t k = 0; k < kRows; ++k) {
        T z = normalise(T(load(x[k * width + c])), mean[c], scale[c], bias[c]);
        if constexpr (kResidual) z += load(residual[k * width + c]);
        const bits_t<T> passes = -bits_t<T>(!(z <= 0));
        if constexpr (kMask) byte |= passes & (bits_t<T>(1) << (first_bit + k));
        store(&y[k * width + c], activated<kActivation>(z, passes, negative_slope));
      }
      if constexpr (kMask) mask[c] = uint8_t(byte);
    }
  }
};

// The gradient of z in row `bit` of a group, whose mask has the byte.
template <Activation kActivation, typename T>
HOST_DEVICE T passed(T dy, bits_t<T> byte, int64_t bit, T negative_slope) {
  return activated<kActivation>(dy, bits_t<T>(0) - ((byte >> bit) & 1), negative_slope);
}

// Sums of dz and of dz * (x - mean) over a piece.
template <typename E, Activation kActivation>
struct SumsLoop {
  using T = math_t<E>;
  static constexpr bool kMask = kActivation != Activation::kNone;
  using Signature = void(const void*, const void*, const uint8_t*, int64_t, int64_t, int64_t, const T*, T, T*, T*);

  HOST_DEVICE static void run(const void* first_dy, const void* first_x, const uint8_t* mask, int64_t stride,
                              int64_t num_rows, int64_t width, const T* mean, T negative_slope, T* sum,
                              T* products) {
    const E* dy = static_cast<const E*>(first_dy);
    const E* x = static_cast<const E*>(first_x);
    for (int64_t c = 0; c < width; ++c) sum[c] = products[c] = 0;
    [[maybe_unused]] const bool lines = walks_lines<E>(width);  // used where there are variants
    int64_t r = 0;
    for (; r + kGroup <= num_rows; r += kGroup) {
      const int64_t at = r * stride;
      const uint8_t* bytes = kMask ? mask + at / kGroup : nullptr;
#ifdef AIRANK_FAST_X86_VARIANTS
      if constexpr (kHasLines<E>) {
        if (lines) {
          sums_lines<kActivation>(dy + at, x + at, bytes, stride, width, kGroup * stride, mean, negative_slope, sum,
                                  products);
          continue;
        }
      }
#endif
      for (int64_t k = kGroup; k < 2 * kGroup && r + k < num_rows; ++k) {
        prefetch(dy + at + k * stride, width * sizeof(E));
        prefetch(x + at + k * stride, width * sizeof(E));
      }
      add<kGroup>(dy + at, x + at, bytes, 0, stride, width, mean, negative_slope, sum, products);
    }
    const uint8_t* last = kMask ? mask + r / kGroup * stride : nullptr;
    for (int64_t k = 0; r + k < num_rows; ++k) {
      const int64_t at = (r + k) * stride;
      add<1>(dy + at, x + at, last, k, stride, width, mean, negative_slope, sum, products);
    }
  }

  template <int64_t kRows>
  HOST_DEVICE static void add(const E* __restrict dy, const E* __restrict x, const uint8_t* __restrict mask,
                              int64_t first_bit, int64_t stride, int64_t width, const T* __restrict mean,
                              T negative_slope, T* __restrict sum, T* __restrict products) {
#pragma GCC ivdep
    for (int64_t c = 0; c < width; ++c) {
      bits_t<T> byte = 0;
      if constexpr (kMask) byte = mask[c];
      T of_rows = 0, products_of_rows = 0;
#pragma GCC unroll 8
      for (int64_t k = 0; k < kRows; ++k) {
        const T dz = passed<kActivation>(T(load(dy[k * stride + c])), byte, first_bit + k, negative_slope);
        of_rows += dz;
        products_of_rows += dz * (T(load(x[k * stride + c])) - mean[c]);
      }
      sum[c] += of_rows;
      products[c] += products_of_rows;
    }
  }
};

// Gradients of groups [begin, end) of rows. Per channel: mean, scale, mean_dz, slope; with fixed statistics only scale,
// and x is not read.
template <typename E, bool kResidual, Activation kActivation, bool kFixed>
struct BackwardLoop {
  using T = math_t<E>;
  static constexpr bool kMask = kActivation != Activation::kNone;
  static constexpr bool kGroups = kStoresGroups<E, kActivation> && !kFixed;
  using Signature = void(const void*, const void*, const uint8_t*, void*, void*, int64_t, int64_t, int64_t, int64_t,
                         const T*, const T*, const T*, const T*, T, bool);

  HOST_DEVICE static void run(const void* dys, const void* xs, const uint8_t* mask, void* dxs, void* dresiduals,
                              int64_t num_rows, int64_t num_channels, int64_t begin, int64_t end, const T* mean,
                              const T* scale, const T* mean_dz, const T* slope, T negative_slope, bool past_cache) {
    const E* dy = static_cast<const E*>(dys);
    const E* x = static_cast<const E*>(xs);
    E* dx = static_cast<E*>(dxs);
    E* dresidual = static_cast<E*>(dresiduals);
    const bool lines = walks_lines<E>(num_channels);
    const int64_t group_size = kGroup * num_channels;
    Scratch<E> scratch(past_cache && !lines ? (kResidual ? 2 : 1) * group_size : 0);
    for (int64_t group = begin; group < end; ++group) {
      const int64_t row = group * kGroup, at = row * num_channels;
      const int64_t ahead = group + 1 < end ? kGroup * num_channels : 0;
      const uint8_t* bytes = kMask ? mask + group * num_channels : nullptr;
      const bool whole = row + kGroup <= num_rows;
#ifdef AIRANK_FAST_X86_VARIANTS
      if constexpr (kHasLines<E>) {
        if (lines && whole) {
          backward_lines<kResidual, kActivation, kFixed>(dy + at, x + (kFixed ? 0 : at), bytes, dx + at,
                                                         dresidual + (kResidual ? at : 0), num_channels, ahead, mean,
                                                         scale, mean_dz, slope, negative_slope, past_cache);
          continue;
        }
      }
#endif
      if (ahead) {
        const int64_t size = ahead * sizeof(E);
        prefetch(dy + at + ahead, size);
        if constexpr (!kFixed) prefetch(x + at + ahead, size);
        if (!past_cache) {
          prefetch<true>(dx + at + ahead, size);
          if constexpr (kResidual) prefetch<true>(dresidual + at + ahead, size);
        }
      }
      const bool streamed = past_cache && whole;
      E* to = streamed ? scratch.data() : dx + at;
      E* residual_to = !kResidual ? nullptr : streamed ? scratch.data() + group_size : dresidual + at;
      if (kGroups && whole) {
        if constexpr (kGroups)
          add<kGroup>(dy + at, x + at, bytes, 0, to, residual_to, num_channels, mean, scale, mean_dz, slope,
                      negative_slope);
      } else {
        for (int64_t k = 0; k < kGroup && row + k < num_rows; ++k) {
          const int64_t i = k * num_channels;
          add<1>(dy + at + i, x + (kFixed ? 0 : at + i), bytes, k, to + i, residual_to + (kResidual ? i : 0),
                 num_channels, mean, scale, mean_dz, slope, negative_slope);
        }
      }
      if (streamed) {
        stream(dx + at, to, group_size * int64_t(sizeof(E)));
        if constexpr (kResidual) stream(dresidual + at, residual_to, group_size * int64_t(sizeof(E)));
      }
    }
    if (past_cache) stream_end();
  }

  template <int64_t kRows>
  HOST_DEVICE static void add(const E* __restrict dy, const E* __restrict x, const uint8_t* __restrict mask,
                              int64_t first_bit, E* __restrict dx, E* __restrict dresidual, int64_t width,
                              const T* __restrict mean, const T* __restrict scale, const T* __restrict mean_dz,
                              const T* __restrict slope, T negative_slope) {
#pragma GCC ivdep
    for (int64_t c = 0; c < width; ++c) {
      bits_t<T> byte = 0;
      if constexpr (kMask) byte = mask[c];
#pragma GCC unroll 8
      for (int64_t k = 0; k < kRows; ++k) {
        const int64_t i = k * width + c;
        const T dz = passed<kActivation>(T(load(dy[i])), byte, first_bit + k, negative_slope);
        if constexpr (kResidual) store(&dresidual[i], dz);
        if constexpr (kFixed) store(&dx[i], scale[c] * dz);
        else store(&dx[i], input_gradient(dz, T(load(x[i])), mean[c], scale[c], mean_dz[c], slope[c]));
      }
    }
  }
};

}  // namespace airank_fast
