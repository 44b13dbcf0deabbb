// Batch norm's loops over a whole tensor or picture in parallel, by pieces and by groups of rows: of batch_norm_act and
// instance_norm_act. What they compute does not depend on the number of threads.
#pragma once

#include <torch/csrc/stable/library.h>

#include <memory>

#include "batch_norm_act_loops.h"

namespace airank_fast {

// Fewer elements are not worth a thread.
constexpr int64_t kNormGrain = 1 << 14;
// Elements of a range that is read forward.
constexpr int64_t kNormRange = 1 << 17;

template <typename F>
auto with_norm_type(ScalarType dtype, F f) {
  switch (dtype) {
    case ScalarType::Double: return f(double());
    case ScalarType::BFloat16: return f(bfloat16());
    case ScalarType::Half: return f(float16());
    default: return f(float());
  }
}

// f(Activation as a constant); `any` is whether there is an activation.
template <bool kHasRelu, typename F>
void with_activation(bool any, double negative_slope, F f) {
  if (!any) return f(std::integral_constant<Activation, Activation::kNone>());
  if constexpr (kHasRelu)
    if (negative_slope == 0) return f(std::integral_constant<Activation, Activation::kRelu>());
  f(std::integral_constant<Activation, Activation::kAny>());
}

template <typename T>
std::unique_ptr<T[]> norm_buffer(int64_t size) {
  return std::unique_ptr<T[]>(new T[size]);  // not zeroed
}

// Calls f(piece, first row, rows, first channel, channels) for every piece.
template <typename F>
void for_norm_pieces(int64_t num_rows, int64_t num_channels, F f) {
  const int64_t num_pieces = (num_rows + kPieceRows - 1) / kPieceRows, num_tiles = (num_channels + kTile - 1) / kTile;
  const int64_t elements = std::min(kPieceRows, num_rows) * std::min(kTile, num_channels);
  const int64_t grain = std::max<int64_t>(1, kNormGrain / std::max<int64_t>(1, elements));
  torch::stable::parallel_for(0, num_pieces * num_tiles, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t piece = task / num_tiles, row = piece * kPieceRows, channel = task % num_tiles * kTile;
      f(piece, row, std::min(kPieceRows, num_rows - row), channel, std::min(kTile, num_channels - channel));
    }
  });
}

// f(begin, end) for ranges of groups of rows. A thread takes its ranges from the last to the first, because the last
// ones are still in a cache from the pass before; within a range f goes forward, for the prefetcher.
template <typename F>
void for_norm_groups(int64_t num_rows, int64_t num_channels, F f) {
  const int64_t elements = std::max<int64_t>(1, kGroup * num_channels);
  const int64_t grain = std::max<int64_t>(1, kNormGrain / elements);
  const int64_t range = std::max<int64_t>(1, kNormRange / elements);
  torch::stable::parallel_for(0, (num_rows + kGroup - 1) / kGroup, grain, [&](int64_t begin, int64_t end) {
    for (; end > begin; end -= range) f(std::max(begin, end - range), end);
  });
}

// Moments of all pieces, a row of (mean[C], deviations[C], count) for each.
template <typename E, typename T = math_t<E>>
std::unique_ptr<T[]> moments_of_pieces(const void* x, int64_t rows, int64_t channels, int64_t* num_pieces) {
  const int64_t stride = 2 * channels + 1;
  *num_pieces = (rows + kPieceRows - 1) / kPieceRows;
  auto parts = norm_buffer<T>(*num_pieces * stride);
  const E* data = static_cast<const E*>(x);
  const auto loop = choose<MomentsLoop<E>>();
  for_norm_pieces(rows, channels, [&](int64_t piece, int64_t row, int64_t height, int64_t channel, int64_t width) {
    T* part = parts.get() + piece * stride;
    loop(data + row * channels + channel, channels, height, width, part + channel, part + channels + channel);
    if (channel == 0) part[2 * channels] = T(height);
  });
  return parts;
}

// f(channel, mean, sum of squared deviations) for every channel, from rows of moments.
template <typename T, typename F>
void combine_moments(const T* parts, int64_t num_parts, int64_t num_channels, F f) {
  const auto loop = choose<CombineMomentsLoop<T>>();
  double mean[kTile], deviations[kTile];
  for (int64_t first = 0; first < num_channels; first += kTile) {
    const int64_t width = std::min(kTile, num_channels - first);
    loop(parts, num_parts, num_channels, first, width, mean, deviations);
    for (int64_t c = 0; c < width; ++c) f(first + c, mean[c], deviations[c]);
  }
}

}  // namespace airank_fast
