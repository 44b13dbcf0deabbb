// Batch norm + residual + activation on the CPU; loops in batch_norm_act_loops.h, formulas in batch_norm_act_math.h.
//
// Moments and sums are taken over pieces of at most 128 rows x 512 channels in float, and the pieces are added in
// double in their order: the result does not depend on the number of threads. Bytes per element of size e: forward
// 3 e (statistics; normalise and store) + 1/8 for the mask, e more with a residual; backward 5 e + 1/4 (sums over
// dy and x; dy, x and dx), e more with a residual. The second pass begins at the end of the first, which is cached.
// With fixed statistics forward and backward are one pass of 2 e + 1/8.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <tuple>

#include "../batch_norm_act_args.h"
#include "batch_norm_act_rows.h"

namespace airank_fast {
namespace {

template <typename F>
void with_bools(bool a, bool b, F f) {
  if (a) return b ? f(std::true_type(), std::true_type()) : f(std::true_type(), std::false_type());
  return b ? f(std::false_type(), std::true_type()) : f(std::false_type(), std::false_type());
}

template <typename E>
bool streams_rows(const void* result, int64_t rows, int64_t channels) {
  return streams(result, rows, channels * int64_t(sizeof(E)));
}

template <typename T>
T* numbers(const OptionalTensor& tensor) {
  return static_cast<T*>(address(tensor));
}

template <typename T>
double count_of(const T* parts, int64_t num_parts, int64_t num_channels) {
  double count = 0;
  for (int64_t p = 0; p < num_parts; ++p) count += parts[p * (2 * num_channels + 1) + 2 * num_channels];
  return count;
}

template <typename T>
void finish(const T* parts, int64_t num_parts, int64_t num_channels, const BatchNormRunning& running, T* statistics) {
  const double count = count_of(parts, num_parts, num_channels);
  int64_t* num_batches = numbers<int64_t>(running.num_batches);
  if (num_batches) ++*num_batches;
  const double factor = running.momentum ? *running.momentum : num_batches ? 1.0 / double(*num_batches) : 0.0;
  T* running_mean = count > 0 ? numbers<T>(running.mean) : nullptr;
  T* running_var = numbers<T>(running.var);
  const double inverse = 1 / std::max(count, 1.0);
  combine_moments(parts, num_parts, num_channels, [&](int64_t c, double mean, double deviations) {
    statistics[c] = T(mean);
    statistics[num_channels + c] = T(1 / std::sqrt(deviations * inverse + running.eps));
    if (running_mean == nullptr) return;
    running_mean[c] = running_average(running_mean[c], mean, factor);
    running_var[c] = running_average(running_var[c], unbiased_variance(deviations, count), factor);
  });
  statistics[2 * num_channels] = T(count);
}

Tensor moments_cpu(Tensor x) {
  check_nhwc("batch_norm_moments", "x", x);
  const int64_t channels = x.size(1);
  Tensor moments = empty_beside(x, {2 * channels + 1}, math_dtype(x));
  with_norm_type(x.scalar_type(), [&](auto element) {
    using T = math_t<decltype(element)>;
    int64_t num_pieces;
    const auto parts = moments_of_pieces<decltype(element)>(x.data_ptr(), num_rows(x), x.size(1), &num_pieces);
    T* out = numbers<T>(moments);
    combine_moments(parts.get(), num_pieces, channels, [&](int64_t c, double mean, double deviations) {
      out[c] = T(mean);
      out[channels + c] = T(deviations);
    });
    out[2 * channels] = T(num_rows(x));
  });
  return moments;
}

Tensor finish_cpu(Tensor moments, OptionalTensor running_mean, OptionalTensor running_var,
                  OptionalTensor num_batches_tracked, std::optional<double> momentum, double eps) {
  const BatchNormRunning running{running_mean, running_var, num_batches_tracked, momentum, eps};
  check_finish(moments, running);
  Tensor statistics = empty_beside(moments, {moments.size(1)});
  with_norm_type(moments.scalar_type(), [&](auto element) {
    using T = math_t<decltype(element)>;
    finish<T>(numbers<T>(moments), moments.size(0), moments.size(1) / 2, running, numbers<T>(statistics));
  });
  return statistics;
}

Tensor statistics_cpu(Tensor x, OptionalTensor running_mean, OptionalTensor running_var,
                      OptionalTensor num_batches_tracked, std::optional<double> momentum, double eps) {
  const BatchNormRunning running{running_mean, running_var, num_batches_tracked, momentum, eps};
  check_nhwc("batch_norm_statistics_", "x", x);
  check_running("batch_norm_statistics_", x, math_dtype(x), x.size(1), running);
  Tensor statistics = empty_beside(x, {2 * x.size(1) + 1}, math_dtype(x));
  with_norm_type(x.scalar_type(), [&](auto element) {
    using T = math_t<decltype(element)>;
    int64_t num_pieces;
    const auto parts = moments_of_pieces<decltype(element)>(x.data_ptr(), num_rows(x), x.size(1), &num_pieces);
    finish<T>(parts.get(), num_pieces, x.size(1), running, numbers<T>(statistics));
  });
  return statistics;
}

template <typename T>
void fill_scale(const OptionalTensor& weight, const T* rstd, int64_t num_channels, T* scale) {
  const T* w = numbers<T>(weight);
  for (int64_t c = 0; c < num_channels; ++c) scale[c] = w ? rstd[c] * w[c] : rstd[c];
}

std::tuple<Tensor, Tensor> act_cpu(Tensor x, OptionalTensor residual, OptionalTensor weight, OptionalTensor bias,
                                   Tensor statistics, double negative_slope, bool with_mask,
                                   std::string /*group: autograd's*/) {
  check_batch_norm_act(x, residual, weight, bias, statistics, negative_slope, with_mask);
  const int64_t rows = num_rows(x), channels = x.size(1);
  Tensor y = empty_as(x);
  Tensor mask = with_mask ? empty_beside(x, mask_shape(x), ScalarType::Byte)
                          : empty_beside(x, {0}, ScalarType::Byte);
  uint8_t* bits = with_mask ? numbers<uint8_t>(mask) : nullptr;
  with_norm_type(x.scalar_type(), [&](auto element) {
    using E = decltype(element);
    using T = math_t<E>;
    const bool past_cache = streams_rows<E>(y.data_ptr(), rows, channels);
    const T* mean = numbers<T>(statistics);
    const auto constants = norm_buffer<T>(2 * channels);
    T *scale = constants.get(), *shift = scale + channels;
    fill_scale(weight, mean + channels, channels, scale);
    for (int64_t c = 0; c < channels; ++c) shift[c] = bias ? numbers<T>(bias)[c] : T(0);
    with_activation<kHasRelu<E>>(negative_slope != 1, negative_slope, [&](auto activation) {
      with_bools(residual.has_value(), with_mask, [&](auto has_residual, auto has_mask) {
        constexpr Activation kActivation = activation.value;
        constexpr bool kMask = has_mask.value && kActivation != Activation::kNone;
        const auto loop = choose<ActLoop<E, has_residual.value, kActivation, kMask>>();
        for_norm_groups(rows, channels, [&](int64_t begin, int64_t end) {
          loop(x.data_ptr(), address(residual), y.data_ptr(), bits, rows, channels, begin, end, mean, scale, shift,
               T(negative_slope), past_cache);
        });
      });
    });
  });
  return {y, mask};
}

Tensor sums_cpu(Tensor dy, Tensor x, OptionalTensor mask, Tensor statistics, double negative_slope) {
  check_sums(dy, x, mask, statistics, negative_slope);
  const int64_t rows = num_rows(x), channels = x.size(1);
  const int64_t num_pieces = (rows + kPieceRows - 1) / kPieceRows;
  Tensor sums = empty_beside(x, {2, channels}, math_dtype(x));
  with_norm_type(x.scalar_type(), [&](auto element) {
    using E = decltype(element);
    using T = math_t<E>;
    const T* mean = numbers<T>(statistics);
    const uint8_t* bits = numbers<uint8_t>(mask);
    const auto parts = norm_buffer<T>(num_pieces * 2 * channels);
    with_activation<kHasRelu<E>>(bits != nullptr, negative_slope, [&](auto activation) {
      const auto loop = choose<SumsLoop<E, activation.value>>();
      for_norm_pieces(rows, channels, [&](int64_t piece, int64_t row, int64_t height, int64_t channel, int64_t width) {
        T* part = parts.get() + piece * 2 * channels + channel;
        const int64_t at = row * channels + channel;
        loop(static_cast<const E*>(dy.data_ptr()) + at, static_cast<const E*>(x.data_ptr()) + at,
             bits ? bits + row / kGroup * channels + channel : nullptr, channels, height, width, mean + channel,
             T(negative_slope), part, part + channels);
      });
    });
    const auto totals = norm_buffer<double>(2 * channels);
    std::fill_n(totals.get(), 2 * channels, 0.0);
    for (int64_t p = 0; p < num_pieces; ++p)
      for (int64_t c = 0; c < 2 * channels; ++c) totals[c] += parts[p * 2 * channels + c];
    T* out = numbers<T>(sums);
    for (int64_t c = 0; c < channels; ++c) {
      out[c] = T(totals[c]);
      out[channels + c] = T(totals[channels + c] * mean[channels + c]);  // times rstd
    }
  });
  return sums;
}

std::tuple<Tensor, Tensor> backward_cpu(Tensor dy, OptionalTensor x, OptionalTensor mask, OptionalTensor weight,
                                        Tensor statistics, OptionalTensor sums, double negative_slope,
                                        bool with_residual) {
  check_backward(dy, x, mask, weight, statistics, sums, negative_slope, with_residual);
  const int64_t rows = num_rows(dy), channels = dy.size(1);
  Tensor dx = empty_as(dy);
  Tensor dresidual = with_residual ? empty_as(dy) : empty_beside(dy, {0});
  with_norm_type(dy.scalar_type(), [&](auto element) {
    using E = decltype(element);
    using T = math_t<E>;
    const T *mean = numbers<T>(statistics), *rstd = mean + channels, *sum = numbers<T>(sums);
    const bool past_cache = streams_rows<E>(dx.data_ptr(), rows, channels);
    const auto constants = norm_buffer<T>(3 * channels);
    T *scale = constants.get(), *mean_dz = scale + channels, *slope = mean_dz + channels;
    fill_scale(weight, rstd, channels, scale);
    const T inverse = sum ? T(1) / mean[2 * channels] : T(0);
    for (int64_t c = 0; sum && c < channels; ++c) {
      mean_dz[c] = sum[c] * inverse;
      slope[c] = sum[channels + c] * rstd[c] * inverse;
    }
    with_bools(with_residual, sum == nullptr, [&](auto has_residual, auto fixed) {
      constexpr bool kFixed = fixed.value;
      with_activation<kHasRelu<E> && !kFixed>(mask.has_value(), negative_slope, [&](auto activation) {
        constexpr Activation kActivation = activation.value;
        constexpr bool kResidual = has_residual.value && kActivation != Activation::kNone;
        const auto loop = choose<BackwardLoop<E, kResidual, kActivation, kFixed>>();
        for_norm_groups(rows, channels, [&](int64_t begin, int64_t end) {
          loop(dy.data_ptr(), address(x), numbers<uint8_t>(mask), dx.data_ptr(), dresidual.data_ptr(), rows, channels,
               begin, end, mean, scale, mean_dz, slope, T(negative_slope), past_cache);
        });
      });
    });
  });
  return {dx, dresidual};
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("batch_norm_moments", TORCH_BOX(&airank_fast::moments_cpu));
  m.impl("batch_norm_finish_", TORCH_BOX(&airank_fast::finish_cpu));
  m.impl("batch_norm_statistics_", TORCH_BOX(&airank_fast::statistics_cpu));
  m.impl("batch_norm_act", TORCH_BOX(&airank_fast::act_cpu));
  m.impl("batch_norm_act_sums", TORCH_BOX(&airank_fast::sums_cpu));
  m.impl("batch_norm_act_backward", TORCH_BOX(&airank_fast::backward_cpu));
}
