// Instance norm + residual + activation on the CPU; loops of batch norm's and in instance_norm_act_loops.h.
//
// A unit is what is normalised alone: a picture in channels_last, or a contiguous plane, which is seen as rows of
// kLanes numbers, each lane with its own moments or sums, that are then combined. Small units, or many, are taken
// one by one by a thread, so that the second pass over one finds it in the thread's cache: each way every array is read
// from memory and written once. Of few large pictures all threads take parts of one after the other.
// Pieces are combined in double in their order: the result does not depend on the number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <tuple>

#include "../instance_norm_act_args.h"
#include "batch_norm_act_rows.h"
#include "instance_norm_act_loops.h"

namespace airank_fast {
namespace {

constexpr int64_t kLanes = 32;  // of a contiguous plane; whole lines of 16-bit numbers

// A unit's memory: rows of `width` numbers, and `rest` numbers of a last one that is shorter.
struct UnitRows {
  explicit UnitRows(const InstanceNormUnits& units)
      : of_one_channel(units.channels == 1),
        width(of_one_channel ? std::min(kLanes, units.pixels) : units.channels),
        rows(units.size() / width),
        rest(units.size() % width) {}

  int64_t rest_at() const { return rows * width; }

  // Of a unit's first channel in [N, 2, C].
  int64_t statistics_at(int64_t unit, int64_t num_channels) const {
    return of_one_channel ? unit / num_channels * 2 * num_channels + unit % num_channels : unit * 2 * num_channels;
  }

  bool of_one_channel;  // in all of a row
  int64_t width;
  int64_t rows;
  int64_t rest;
};

// f(unit) for all of them; where they are few and large, one after the other, for f to share out.
template <typename F>
void for_units(const InstanceNormUnits& units, F f) {
  const bool one_by_one = units.size() > kNormGrain && units.units < 2 * int64_t(torch::stable::get_num_threads());
  if (one_by_one) {
    for (int64_t unit = 0; unit < units.units; ++unit) f(unit);
    return;
  }
  const int64_t grain = std::max<int64_t>(1, kNormGrain / units.size());
  torch::stable::parallel_for(0, units.units, grain, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) f(unit);
  });
}

template <typename E>
bool streams_units(const void* result, const InstanceNormUnits& units, const UnitRows& shape) {
  const bool whole_lines = units.size() * int64_t(sizeof(E)) % kLineBytes == 0;
  return whole_lines && streams(result, units.units * shape.rows, shape.width * int64_t(sizeof(E)));
}

// The numbers of a unit's channels, spread over a row: mean, scale and bias; rstd is `numbers`' behind the means.
template <typename T>
struct SpreadNumbers {
  SpreadNumbers(const UnitRows& shape, int64_t num_channels, int64_t unit, const T* mean, const T* rstd,
                const OptionalTensor& weight, const OptionalTensor& bias)
      : numbers(norm_buffer<T>(5 * shape.width)),
        mean(numbers.get()),
        scale(this->mean + shape.width),
        bias(scale + shape.width),
        mean_dz(this->bias + shape.width),
        slope(mean_dz + shape.width) {
    const T* weights = static_cast<const T*>(address(weight));
    const T* biases = static_cast<const T*>(address(bias));
    for (int64_t c = 0; c < shape.width; ++c) {
      const int64_t k = shape.of_one_channel ? 0 : c, channel = shape.of_one_channel ? unit % num_channels : c;
      this->mean[c] = mean[k];
      scale[c] = weights ? rstd[k] * weights[channel] : rstd[k];
      this->bias[c] = biases ? biases[channel] : T(0);
    }
  }

  std::unique_ptr<T[]> numbers;
  T *mean, *scale, *bias, *mean_dz, *slope;
};

// Mean and rstd of the channels of a unit.
template <typename E, typename T>
void statistics_of(const E* x, const UnitRows& shape, double eps, T* mean, T* rstd) {
  int64_t num_pieces;
  const auto parts = moments_of_pieces<E>(x, shape.rows, shape.width, &num_pieces);
  if (!shape.of_one_channel) {
    combine_moments(parts.get(), num_pieces, shape.width, [&](int64_t c, double m, double deviations) {
      mean[c] = T(m);
      rstd[c] = T(1 / std::sqrt(deviations / double(shape.rows) + eps));
    });
    return;
  }
  double means[kLanes], sum = 0, squares = 0;
  combine_moments(parts.get(), num_pieces, shape.width, [&](int64_t lane, double m, double deviations) {
    means[lane] = m;
    sum += m;
    squares += deviations;
  });
  sum *= double(shape.rows);
  for (int64_t i = 0; i < shape.rest; ++i) sum += load(x[shape.rest_at() + i]);
  const double count = double(shape.rest_at() + shape.rest), m = sum / count;
  double between = 0, of_rest = 0;
  for (int64_t lane = 0; lane < shape.width; ++lane) between += (means[lane] - m) * (means[lane] - m);
  for (int64_t i = 0; i < shape.rest; ++i) {
    const double distance = double(load(x[shape.rest_at() + i])) - m;
    of_rest += distance * distance;
  }
  *mean = T(m);
  *rstd = T(1 / std::sqrt((squares + double(shape.rows) * between + of_rest) / count + eps));
}

std::tuple<Tensor, Tensor> instance_norm_act_cpu(Tensor x, OptionalTensor weight, OptionalTensor bias,
                                                 OptionalTensor residual, double negative_slope, double eps,
                                                 bool channels_last) {
  check_instance_norm_act(x, weight, bias, residual, negative_slope, eps, channels_last);
  const InstanceNormUnits units = instance_norm_units(x, channels_last);
  const UnitRows shape(units);
  Tensor y = empty_picture(x, {x.size(0), x.size(1), x.size(2), x.size(3)}, channels_last);
  Tensor statistics = empty_beside(x, {x.size(0), 2, x.size(1)}, math_dtype(x));
  with_norm_type(x.scalar_type(), [&](auto element) {
    using E = decltype(element);
    using T = math_t<E>;
    const E* from = static_cast<const E*>(x.data_ptr());
    const E* added = static_cast<const E*>(address(residual));
    E* to = static_cast<E*>(y.data_ptr());
    const int64_t channels = x.size(1);
    const bool past_cache = streams_units<E>(to, units, shape);
    with_activation<kHasRelu<E>>(negative_slope != 1, negative_slope, [&](auto activation) {
      const auto loop = residual ? choose<ActLoop<E, true, activation.value, false>>()
                                 : choose<ActLoop<E, false, activation.value, false>>();
      for_units(units, [&](int64_t unit) {
        T *mean = static_cast<T*>(statistics.data_ptr()) + shape.statistics_at(unit, channels), *rstd = mean + channels;
        const int64_t at = unit * units.size();
        statistics_of(from + at, shape, eps, mean, rstd);
        const SpreadNumbers<T> n(shape, channels, unit, mean, rstd, weight, bias);
        const auto normalise_rows = [&](int64_t first, int64_t rows, int64_t width, int64_t begin, int64_t end) {
          loop(from + first, added ? added + first : nullptr, to + first, nullptr, rows, width, begin, end, n.mean,
               n.scale, n.bias, T(negative_slope), past_cache);
        };
        for_norm_groups(shape.rows, shape.width, [&](int64_t begin, int64_t end) {
          normalise_rows(at, shape.rows, shape.width, begin, end);
        });
        if (shape.rest) normalise_rows(at + shape.rest_at(), 1, shape.rest, 0, 1);
      });
    });
  });
  return {y, statistics};
}

// f(PassedBy as a constant).
template <typename F>
void with_passed_by(bool any, bool result, F f) {
  if (!any) return f(std::integral_constant<PassedBy, PassedBy::kAll>());
  if (result) return f(std::integral_constant<PassedBy, PassedBy::kResult>());
  f(std::integral_constant<PassedBy, PassedBy::kInput>());
}

std::tuple<Tensor, Tensor, Tensor> instance_norm_act_backward_cpu(Tensor grad, Tensor x, OptionalTensor y,
                                                                  OptionalTensor weight, OptionalTensor bias,
                                                                  Tensor statistics, double negative_slope,
                                                                  bool channels_last) {
  check_instance_norm_act_backward(grad, x, y, weight, bias, statistics, negative_slope, channels_last);
  const InstanceNormUnits units = instance_norm_units(x, channels_last);
  const UnitRows shape(units);
  const std::array<int64_t, 4> sizes{x.size(0), x.size(1), x.size(2), x.size(3)};
  Tensor dx = empty_picture(x, sizes, channels_last);
  Tensor dresidual = y ? empty_picture(x, sizes, channels_last) : empty_beside(x, {0});
  Tensor sums = empty_beside(x, {x.size(0), 2, x.size(1)}, math_dtype(x));
  with_norm_type(x.scalar_type(), [&](auto element) {
    using E = decltype(element);
    using T = math_t<E>;
    const int64_t channels = x.size(1);
    const E *dy = static_cast<const E*>(grad.data_ptr()), *from = static_cast<const E*>(x.data_ptr());
    const E* result = y ? static_cast<const E*>(y->data_ptr()) : from;
    E *to = static_cast<E*>(dx.data_ptr()), *to_residual = static_cast<E*>(dresidual.data_ptr());
    const bool past_cache = streams_units<E>(to, units, shape) && (!y || streams_units<E>(to_residual, units, shape));
    with_passed_by(negative_slope != 1, y.has_value(), [&](auto passed_by) {
      constexpr PassedBy kPassed = passed_by.value;
      constexpr bool kResult = kPassed == PassedBy::kResult;
      const auto sums_loop = choose<InstanceNormSumsLoop<E, kPassed>>();
      const auto loop = choose<InstanceNormBackwardLoop<E, kPassed>>();
      for_units(units, [&](int64_t unit) {
        const int64_t at = unit * units.size(), width = shape.width, first = shape.statistics_at(unit, channels);
        const T *mean = static_cast<const T*>(statistics.data_ptr()) + first, *rstd = mean + channels;
        const SpreadNumbers<T> n(shape, channels, unit, mean, rstd, weight, bias);
        const InstanceNormNumbers<T> numbers{n.mean, n.scale, n.bias, T(negative_slope)};

        const int64_t num_pieces = (shape.rows + kPieceRows - 1) / kPieceRows + (shape.rest != 0);
        const auto parts = norm_buffer<T>(num_pieces * 2 * width);
        for_norm_pieces(shape.rows, width, [&](int64_t piece, int64_t row, int64_t rows, int64_t c, int64_t columns) {
          T* part = parts.get() + piece * 2 * width + c;
          const int64_t i = at + row * width + c;
          const InstanceNormNumbers<T> of_columns{n.mean + c, n.scale + c, n.bias + c, numbers.negative_slope};
          sums_loop(dy + i, from + i, result + i, width, rows, columns, of_columns, part, part + width);
        });
        const int64_t rest = at + shape.rest_at();
        if (shape.rest) {
          T* part = parts.get() + (num_pieces - 1) * 2 * width;
          std::fill_n(part, 2 * width, T(0));
          sums_loop(dy + rest, from + rest, result + rest, width, 1, shape.rest, numbers, part, part + width);
        }
        const auto totals = norm_buffer<double>(2 * width);
        std::fill_n(totals.get(), 2 * width, 0.0);
        for (int64_t p = 0; p < num_pieces; ++p)
          for (int64_t i = 0; i < 2 * width; ++i) totals[i] += parts[p * 2 * width + i];
        if (shape.of_one_channel) {
          for (int64_t half : {int64_t(0), width})
            for (int64_t lane = 1; lane < width; ++lane) totals[half] += totals[half + lane];
        }
        T *sum_dz = static_cast<T*>(sums.data_ptr()) + first, *sum_products = sum_dz + channels;
        for (int64_t c = 0; c < units.channels; ++c) {
          sum_dz[c] = T(totals[c]);
          sum_products[c] = T(totals[width + c] * rstd[c]);  // of dz * xhat
        }
        const T inverse = T(1) / T(units.pixels);
        for (int64_t c = 0; c < width; ++c) {
          const int64_t k = shape.of_one_channel ? 0 : c;
          n.mean_dz[c] = sum_dz[k] * inverse;
          n.slope[c] = sum_products[k] * rstd[k] * inverse;
        }

        const auto back = [&](int64_t i, int64_t rows, int64_t columns, int64_t begin, int64_t end) {
          loop(dy + i, from + i, result + i, to + i, kResult ? to_residual + i : nullptr, rows, columns, begin, end,
               numbers, n.mean_dz, n.slope, past_cache);
        };
        for_norm_groups(shape.rows, width,
                        [&](int64_t begin, int64_t end) { back(at, shape.rows, width, begin, end); });
        if (shape.rest) back(rest, 1, shape.rest, 0, 1);
      });
    });
  });
  return {dx, dresidual, sums};
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("instance_norm_act", TORCH_BOX(&airank_fast::instance_norm_act_cpu));
  m.impl("instance_norm_act_backward", TORCH_BOX(&airank_fast::instance_norm_act_backward_cpu));
}
