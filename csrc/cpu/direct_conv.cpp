// Convolutions of pictures in channels_last on the CPU, computed directly; see airank_fast/ops/direct_conv.py.
//
// The source is copied once with its padding, the weights once in the order in which they are read. The loops are in
// direct_conv_loops.h. Parallel over pixels, for weights' gradients over the numbers of a filter and parts of the
// pixels of fixed number: results do not depend on the number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <memory>

#include "direct_conv_loops.h"

namespace airank_fast {
namespace {

constexpr int64_t kConvGrain = 1 << 16;   // fewer products are not worth a thread
constexpr int64_t kConvPart = 1 << 12;    // pixels of a part
constexpr int64_t kConvMostParts = 16;

int64_t conv_lanes() { return isa() >= Isa::avx512 ? 16 : isa() >= Isa::avx2 ? 8 : 4; }

int64_t conv_grain(int64_t products) { return std::max<int64_t>(1, kConvGrain / std::max<int64_t>(1, products)); }

// A picture's rows with their padding.
template <typename T>
struct PaddedSource {
  std::unique_ptr<T[]> copy;
  const T* data;

  PaddedSource(const Tensor& x, const ConvSide& rows, const ConvSide& columns, int64_t channels)
      : data(static_cast<const T*>(x.data_ptr())) {
    if (rows.is_source() && columns.is_source()) return;
    const int64_t lines = x.size(0) * rows.padded, row = columns.padded * channels, before = columns.before * channels;
    const int64_t inside = std::min(columns.size, columns.padded - columns.before) * channels;
    const T* const from = data;
    copy = std::make_unique_for_overwrite<T[]>(size_t(lines * row));
    torch::stable::parallel_for(0, lines, conv_grain(row), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        T* const to = copy.get() + k * row;
        const int64_t y = k % rows.padded - rows.before;
        const bool is_inside = y >= 0 && y < rows.size;
        std::fill(to, is_inside ? to + before : to + row, T(0));
        if (!is_inside) continue;
        std::copy_n(from + (k / rows.padded * rows.size + y) * columns.size * channels, inside, to + before);
        std::fill(to + before + inside, to + row, T(0));
      }
    });
    data = copy.get();
  }
};

// The sums over the filters' taps, for every phase of both sides. `pack(places, panel, width, to)` writes the weights
// of a panel, [numbers, width], for filters behind the last zeros.
template <typename T, typename Pack>
void gather(const Tensor& x, const ConvSide& rows, const ConvSide& columns, int64_t channels, int64_t filters,
            int64_t kernel_w, const T* bias, const Tensor& output, int64_t height, int64_t width, const Pack& pack) {
  const auto loop = choose_lanes<ConvGatherLoops<T>::template Loop>();
  const int64_t panel = conv_panel<T>(conv_lanes()), panels = (filters + panel - 1) / panel;
  const PaddedSource<T> source(x, rows, columns, channels);
  std::vector<T> biases(size_t(panels * panel));
  if (bias != nullptr) std::copy(bias, bias + filters, biases.begin());
  for (const ConvPhase& down : rows.phases) {
    for (const ConvPhase& across : columns.phases) {
      const ConvTaps taps(rows, down, columns, across, kernel_w, channels);
      const int64_t numbers = int64_t(taps.places.size()) * channels;
      const auto weights = std::make_unique_for_overwrite<T[]>(size_t(panels * panel * numbers));
      torch::stable::parallel_for(0, panels, conv_grain(panel * numbers), [&](int64_t begin, int64_t end) {
        for (int64_t p = begin; p < end; ++p) {
          T* const to = weights.get() + p * panel * numbers;
          const int64_t count = std::min(panel, filters - p * panel);
          if (count < panel) std::fill_n(to, panel * numbers, T(0));
          pack(taps.places, p * panel, count, panel, to);
        }
      });
      const int64_t in_row = columns.padded * channels, out_row = width * filters;
      const ConvPixels pixels{x.size(0),
                              down.count,
                              across.count,
                              rows.padded * in_row,
                              rows.in_step * in_row,
                              columns.in_step * channels,
                              down.first * out_row + across.first * filters,
                              height * out_row,
                              rows.out_step * out_row,
                              columns.out_step * filters};
      const ConvGather<T> of{source.data, weights.get(), biases.data(), static_cast<T*>(output.data_ptr()),
                             taps.runs.data(), taps.parts.data(), int64_t(taps.parts.size()) - 1, numbers, filters, pixels};
      torch::stable::parallel_for(0, pixels.count(), conv_grain(filters * numbers),
                                  [&](int64_t begin, int64_t end) { loop(of, begin, end); });
    }
  }
}

template <typename T>
void convolve(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, const Tensor& y, const ConvArgs& args) {
  const ConvSide rows = output_side(args, args.height, args.out_height(), args.kernel_h);
  const ConvSide columns = output_side(args, args.width, args.out_width(), args.kernel_w);
  const T* w = static_cast<const T*>(weight.data_ptr());
  const int64_t channels = args.channels, filter = args.kernel_h * args.kernel_w * channels;
  gather<T>(x, rows, columns, channels, args.filters, args.kernel_w,
            bias ? static_cast<const T*>(bias->data_ptr()) : nullptr, y, args.out_height(), args.out_width(),
            [=](const std::vector<int64_t>& places, int64_t first, int64_t count, int64_t panel, T* to) {
              for (const int64_t place : places) {
                for (int64_t k = 0; k < count; ++k) {
                  const T* from = w + (first + k) * filter + place * channels;
                  for (int64_t c = 0; c < channels; ++c) to[c * panel + k] = from[c];
                }
                to += channels * panel;
              }
            });
}

template <typename T>
void convolve_back(const Tensor& grad, const Tensor& weight, const Tensor& x, const ConvArgs& args) {
  const ConvSide rows = input_side(args, args.height, args.out_height(), args.kernel_h);
  const ConvSide columns = input_side(args, args.width, args.out_width(), args.kernel_w);
  const T* w = static_cast<const T*>(weight.data_ptr());
  const int64_t channels = args.channels, filters = args.filters, filter = args.kernel_h * args.kernel_w * channels;
  gather<T>(grad, rows, columns, filters, channels, args.kernel_w, nullptr, x, args.height, args.width,
            [=](const std::vector<int64_t>& places, int64_t first, int64_t count, int64_t panel, T* to) {
              for (const int64_t place : places) {
                for (int64_t k = 0; k < filters; ++k, to += panel)
                  std::copy_n(w + k * filter + place * channels + first, count, to);
              }
            });
}

template <typename T>
void convolve_weight(const Tensor& grad, const Tensor& x, const Tensor& weight, const ConvArgs& args) {
  const auto loop = choose_lanes<ConvWeightsLoops<T>::template Loop>();
  const int64_t lanes = conv_lanes(), lines = lanes == 16 ? kConvWide<16> : kConvWide<8>;
  const int64_t channels = args.channels, filters = args.filters, filter = args.kernel_h * args.kernel_w * channels;
  const int64_t panel = conv_panel<T>(lanes), panels = (filters + panel - 1) / panel, row = panels * panel;
  const ConvSide rows = output_side(args, args.height, args.out_height(), args.kernel_h);
  const ConvSide columns = output_side(args, args.width, args.out_width(), args.kernel_w);
  const ConvPhase &down = rows.phases[0], &across = columns.phases[0];
  const ConvTaps taps(rows, down, columns, across, args.kernel_w, channels);
  const PaddedSource<T> source(x, rows, columns, channels);
  const int64_t in_row = columns.padded * channels;
  const ConvPixels pixels{args.pictures, down.count, across.count, rows.padded * in_row, args.stride * in_row,
                          args.stride * channels, 0, 0, 0, 0};
  const int64_t count = pixels.count();

  std::vector<int64_t> offsets;
  for (const int64_t offset : taps.offsets) {
    for (int64_t c = 0; c < channels; ++c) offsets.push_back(offset + c);
  }
  const int64_t numbers = int64_t(offsets.size()), tiles = (numbers + lines - 1) / lines;
  const int64_t parts = std::clamp<int64_t>(count / kConvPart, 1, kConvMostParts), part = (count + parts - 1) / parts;
  std::vector<T> sums(size_t(parts * numbers * row));
  torch::stable::parallel_for(0, parts * tiles, conv_grain(part * lines * row), [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t k = begin / tiles, stop = std::min(end, (k + 1) * tiles);
      const ConvWeights<T> of{source.data, static_cast<const T*>(grad.data_ptr()), offsets.data(),
                              sums.data() + k * numbers * row, filters, row, pixels};
      loop(of, k * part, std::min(count, (k + 1) * part), (begin - k * tiles) * lines,
           std::min(numbers, (stop - k * tiles) * lines));
      begin = stop;
    }
  });

  T* to = static_cast<T*>(weight.data_ptr());
  if (int64_t(taps.places.size()) < args.kernel_h * args.kernel_w) std::fill_n(to, filters * filter, T(0));
  torch::stable::parallel_for(0, panels, conv_grain(panel * parts * numbers), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      for (int64_t line = 0; line < numbers; ++line) {
        const int64_t at = taps.places[size_t(line / channels)] * channels + line % channels;
        for (int64_t k = p * panel; k < std::min(filters, (p + 1) * panel); ++k) {
          T sum = 0;
          for (int64_t q = 0; q < parts; ++q) sum += sums[size_t((q * numbers + line) * row + k)];
          to[k * filter + at] = sum;
        }
      }
    }
  });
}

template <typename F>
void of_conv_type(const Tensor& x, const F& f) {
  if (x.scalar_type() == ScalarType::Double) return f(double());
  f(float());
}

Tensor direct_conv2d_cpu(Tensor x, Tensor weight, OptionalTensor bias, int64_t stride, int64_t padding,
                         int64_t dilation) {
  const char* op = "direct_conv2d";
  check_conv_tensor(op, "x", x, x);
  check_conv_tensor(op, "weight", weight, x);
  CHECK_ARGUMENT(weight.size(1) == x.size(1), op, ": weight must have ", x.size(1), " channels, got ", weight.size(1));
  check_conv_bias(op, bias, x, weight);
  const ConvArgs args{x.size(0), x.size(1), x.size(2), x.size(3), weight.size(0), weight.size(2), weight.size(3),
                      stride, padding, dilation};
  check_conv_geometry(op, args);
  const Tensor y = empty_picture(x, {args.pictures, args.filters, args.out_height(), args.out_width()}, true);
  of_conv_type(x, [&](auto element) { convolve<decltype(element)>(x, weight, bias, y, args); });
  return y;
}

Tensor direct_conv2d_input_cpu(Tensor grad, Tensor weight, int64_t height, int64_t width, int64_t stride,
                               int64_t padding, int64_t dilation) {
  const char* op = "direct_conv2d_input";
  check_conv_tensor(op, "grad", grad, grad);
  check_conv_tensor(op, "weight", weight, grad);
  const ConvArgs args{grad.size(0), weight.size(1), height, width, weight.size(0), weight.size(2), weight.size(3),
                      stride, padding, dilation};
  check_conv_grad(op, grad, args);
  const Tensor x = empty_picture(grad, {args.pictures, args.channels, height, width}, true);
  of_conv_type(grad, [&](auto element) { convolve_back<decltype(element)>(grad, weight, x, args); });
  return x;
}

Tensor direct_conv2d_weight_cpu(Tensor grad, Tensor x, int64_t kernel_h, int64_t kernel_w, int64_t stride,
                                int64_t padding, int64_t dilation) {
  const char* op = "direct_conv2d_weight";
  check_conv_tensor(op, "grad", grad, grad);
  check_conv_tensor(op, "x", x, grad);
  const ConvArgs args{x.size(0), x.size(1), x.size(2), x.size(3), grad.size(1), kernel_h, kernel_w,
                      stride, padding, dilation};
  check_conv_grad(op, grad, args);
  const Tensor weight = empty_picture(x, {args.filters, args.channels, kernel_h, kernel_w}, true);
  of_conv_type(x, [&](auto element) { convolve_weight<decltype(element)>(grad, x, weight, args); });
  return weight;
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("direct_conv2d", TORCH_BOX(&airank_fast::direct_conv2d_cpu));
  m.impl("direct_conv2d_input", TORCH_BOX(&airank_fast::direct_conv2d_input_cpu));
  m.impl("direct_conv2d_weight", TORCH_BOX(&airank_fast::direct_conv2d_weight_cpu));
}
