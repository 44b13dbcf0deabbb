// The sum of pictures of several resolutions, each upsampled to that of the first, and a ReLU, on the CPU; formula in
// upsample_math.h. Parallel over rows of pixels; in backward over rows of the gradient.
//
// Pictures are rows of pixels, pixels of channels: contiguous ones are planes of one channel. A row of lower resolution is
// upsampled along its width once, to float32, and stays in the cache for the rows of pixels between it and the next one,
// whose loops are over whole rows. Backward adds up rows of pixels first, and then neighbours in a row: each gradient
// is gathered in a fixed order, for any number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "../upsample_add_act_args.h"
#include "isa.h"
#include "numbers.h"
#include "streaming.h"

namespace airank_fast {
namespace {

// Numbers of a row that a loop takes at a time: their sums stay in the first cache.
constexpr int64_t kPiece = 1024;
// Fewer numbers are not worth a thread.
constexpr int64_t kGrain = 1 << 15;

// Where the pixels of a row lie between the cells of one of lower resolution.
template <typename M>
struct Columns {
  explicit Columns(const UpsampleAxis& axis) {
    for (int64_t i = 0; i < axis.out; ++i) {
      const int64_t cell = axis.cell(i);
      left.push_back(int32_t(cell));
      right.push_back(int32_t(std::min(cell + 1, axis.in - 1)));
      weights.push_back(axis.weight<M>(i));
    }
  }
  std::vector<int32_t> left;
  std::vector<int32_t> right;
  std::vector<M> weights;
};

// A row of lower resolution, upsampled along its width; null `weights`: to the nearest.
template <typename T>
struct WidenLoop {
  using M = math_t<T>;
  using Signature = void(const void*, int64_t, int64_t, const int32_t*, const int32_t*, const M*, M*);

  HOST_DEVICE static void run(const void* from, int64_t pixels, int64_t channels, const int32_t* left,
                              const int32_t* right, const M* weights, M* __restrict to) {
    const T* x = static_cast<const T*>(from);
    if (weights == nullptr) {
      for (int64_t i = 0; i < pixels; ++i) {
        const T* __restrict a = x + left[i] * channels;
        for (int64_t c = 0; c < channels; ++c) to[i * channels + c] = load(a[c]);
      }
      return;
    }
    if (channels == 1) {
      for (int64_t i = 0; i < pixels; ++i)
        to[i] = upsample_between(M(load(x[left[i]])), M(load(x[right[i]])), weights[i]);
      return;
    }
    for (int64_t i = 0; i < pixels; ++i) {
      const T* __restrict a = x + left[i] * channels;
      const T* __restrict b = x + right[i] * channels;
      const M weight = weights[i];
      for (int64_t c = 0; c < channels; ++c)
        to[i * channels + c] = upsample_between(M(load(a[c])), M(load(b[c])), weight);
    }
  }
};

// What is added to a row of pixels: a row of the same size, or one between two that were upsampled along their width.
template <typename M>
struct Term {
  const void* same;
  const M* above;
  const M* below;  // null: only the one above
  M weight;
};

template <typename T>
struct AddLoop {
  using M = math_t<T>;
  using Signature = void(const void*, const Term<M>*, int64_t, bool, void*, int64_t);

  HOST_DEVICE static void run(const void* first, const Term<M>* terms, int64_t count, bool relu, void* result,
                              int64_t size) {
    M sums[kPiece];
    for (int64_t begin = 0; begin < size; begin += kPiece) {
      const int64_t n = size - begin < kPiece ? size - begin : kPiece;
      const T* __restrict x = static_cast<const T*>(first) + begin;
      for (int64_t i = 0; i < n; ++i) sums[i] = load(x[i]);
      for (int64_t t = 0; t < count; ++t) {
        if (terms[t].same != nullptr) {
          const T* __restrict same = static_cast<const T*>(terms[t].same) + begin;
          for (int64_t i = 0; i < n; ++i) sums[i] += load(same[i]);
        } else if (terms[t].below == nullptr) {
          const M* __restrict above = terms[t].above + begin;
          for (int64_t i = 0; i < n; ++i) sums[i] += above[i];
        } else {
          const M* __restrict above = terms[t].above + begin;
          const M* __restrict below = terms[t].below + begin;
          const M weight = terms[t].weight;
          for (int64_t i = 0; i < n; ++i) sums[i] += upsample_between(above[i], below[i], weight);
        }
      }
      if (relu)
        for (int64_t i = 0; i < n; ++i) sums[i] = sums[i] < M(0) ? M(0) : sums[i];  // NaN stays
      T* __restrict y = static_cast<T*>(result) + begin;
      for (int64_t i = 0; i < n; ++i) store(&y[i], sums[i]);
    }
  }
};

// The sum of rows of a gradient, each with its share.
template <typename T>
struct GatherRowsLoop {
  using M = math_t<T>;
  using Signature = void(const void*, int64_t, const M*, int64_t, M*);

  HOST_DEVICE static void run(const void* from, int64_t rows, const M* shares, int64_t size, M* to) {
    for (int64_t begin = 0; begin < size; begin += kPiece) {
      const int64_t n = size - begin < kPiece ? size - begin : kPiece;
      M* __restrict sums = to + begin;
      for (int64_t i = 0; i < n; ++i) sums[i] = 0;
      for (int64_t r = 0; r < rows; ++r) {
        const T* __restrict x = static_cast<const T*>(from) + r * size + begin;
        const M share = shares[r];
        for (int64_t i = 0; i < n; ++i) sums[i] += share * load(x[i]);
      }
    }
  }
};

// The same of the pixels of a row, for each cell.
template <typename T>
struct GatherColumnsLoop {
  using M = math_t<T>;
  using Signature = void(const M*, int64_t, int64_t, const int32_t*, const int32_t*, const M*, void*);

  HOST_DEVICE static void run(const M* from, int64_t cells, int64_t channels, const int32_t* begins,
                              const int32_t* counts, const M* shares, void* to) {
    T* y = static_cast<T*>(to);
    if (channels == 1) {
      for (int64_t j = 0; j < cells; shares += counts[j], ++j) {
        M sum = 0;
        for (int64_t p = 0; p < counts[j]; ++p) sum += shares[p] * from[begins[j] + p];
        store(&y[j], sum);
      }
      return;
    }
    constexpr int64_t kChannels = 64;
    for (int64_t j = 0; j < cells; shares += counts[j], ++j) {
      for (int64_t first = 0; first < channels; first += kChannels) {
        const int64_t n = channels - first < kChannels ? channels - first : kChannels;
        M sums[kChannels];
        for (int64_t c = 0; c < n; ++c) sums[c] = 0;
        for (int64_t p = 0; p < counts[j]; ++p) {
          const M* __restrict x = from + (begins[j] + p) * channels + first;
          for (int64_t c = 0; c < n; ++c) sums[c] += shares[p] * x[c];
        }
        for (int64_t c = 0; c < n; ++c) store(&y[j * channels + first + c], sums[c]);
      }
    }
  }
};

// Calls run(T{}) with the element type.
template <typename Run>
void with_picture_type(const Tensor& x, Run run) {
  switch (x.scalar_type()) {
    case ScalarType::Double: return run(double{});
    case ScalarType::BFloat16: return run(bfloat16{});
    case ScalarType::Half: return run(float16{});
    default: return run(float{});
  }
}

// A picture of lower resolution.
template <typename T>
struct Source {
  using M = math_t<T>;

  Source(const Tensor& x, const UpsampleSizes& result, bool nearest, bool align_corners, bool channels_last)
      : data(static_cast<const T*>(x.data_ptr())),
        sizes(upsample_sizes(x, channels_last)),
        rows(upsample_axis_of(sizes.height, result.height, nearest, align_corners)),
        columns(upsample_axis_of(sizes.width, result.width, nearest, align_corners)),
        is_same(sizes.height == result.height && sizes.width == result.width),
        is_nearest(nearest) {}

  const T* data;
  UpsampleSizes sizes;
  UpsampleAxis rows;
  Columns<M> columns;
  bool is_same;  // of the result's size
  bool is_nearest;
};

// One thread's two rows of a source, upsampled along their width.
template <typename T>
struct Widened {
  using M = math_t<T>;

  Widened(const Source<T>& source, const UpsampleSizes& result)
      : source(source), result(result), above(source.is_same ? 0 : result.row()), below(source.is_same ? 0 : result.row()) {}

  Term<M> at(int64_t picture, int64_t y) {
    if (source.is_same) return {source.data + (picture * result.height + y) * result.row(), nullptr, nullptr, M(0)};
    const int64_t cell = source.rows.cell(y), k = picture * source.sizes.height + cell;
    if (k != last) {
      if (k == last + 1 && cell > 0 && !source.is_nearest) std::swap(above, below);
      else widen(k, above.data());
      if (!source.is_nearest) widen(cell + 1 < source.sizes.height ? k + 1 : k, below.data());
      last = k;
    }
    if (source.is_nearest) return {nullptr, above.data(), nullptr, M(0)};
    return {nullptr, above.data(), below.data(), source.rows.template weight<M>(y)};
  }

  void widen(int64_t k, M* to) const {
    const Columns<M>& columns = source.columns;
    loop(source.data + k * source.sizes.row(), result.width, result.channels, columns.left.data(),
         columns.right.data(), source.is_nearest ? nullptr : columns.weights.data(), to);
  }

  const Source<T>& source;
  const UpsampleSizes& result;
  Scratch<M> above;
  Scratch<M> below;
  int64_t last = -2;
  typename WidenLoop<T>::Signature* loop = choose<WidenLoop<T>>();
};

int64_t rows_of_thread(const UpsampleSizes& sizes) { return std::max<int64_t>(1, kGrain / sizes.row()); }

Tensor upsample_add_act_cpu(Tensor x, OptionalTensor a, OptionalTensor b, OptionalTensor c, bool relu, bool nearest,
                            bool align_corners, bool channels_last) {
  check_upsample_add_act(x, {&a, &b, &c}, channels_last);
  Tensor y = empty_picture(x, {x.size(0), x.size(1), x.size(2), x.size(3)}, channels_last);
  if (x.numel() == 0) return y;
  const UpsampleSizes sizes = upsample_sizes(x, channels_last);
  with_picture_type(x, [&](auto element) {
    using T = decltype(element);
    using M = math_t<T>;
    std::vector<Source<T>> sources;
    for (const OptionalTensor& other : {a, b, c})
      if (other) sources.emplace_back(*other, sizes, nearest, align_corners, channels_last);
    const T* from = static_cast<const T*>(x.data_ptr());
    T* to = static_cast<T*>(y.data_ptr());
    const auto loop = choose<AddLoop<T>>();
    const auto work = [&](int64_t begin, int64_t end) {
      std::vector<Widened<T>> widened;
      for (const Source<T>& source : sources) widened.emplace_back(source, sizes);
      Term<M> terms[3];
      for (int64_t row = begin; row < end; ++row) {
        for (size_t i = 0; i < widened.size(); ++i)
          terms[i] = widened[i].at(row / sizes.height, row % sizes.height);
        loop(from + row * sizes.row(), terms, int64_t(widened.size()), relu, to + row * sizes.row(), sizes.row());
      }
    };
    torch::stable::parallel_for(0, sizes.pictures * sizes.height, rows_of_thread(sizes), work);
  });
  return y;
}

Tensor upsample_add_act_backward_cpu(Tensor grad, int64_t height, int64_t width, bool nearest, bool align_corners,
                                     bool channels_last) {
  check_upsample_add_act_backward(grad, height, width, channels_last);
  Tensor result = empty_picture(grad, {grad.size(0), grad.size(1), height, width}, channels_last);
  if (grad.numel() == 0) return result;
  const UpsampleSizes from = upsample_sizes(grad, channels_last), to = upsample_sizes(result, channels_last);
  const UpsampleAxis rows = upsample_axis_of(height, from.height, nearest, align_corners);
  const UpsampleAxis columns = upsample_axis_of(width, from.width, nearest, align_corners);
  with_picture_type(grad, [&](auto element) {
    using T = decltype(element);
    using M = math_t<T>;
    std::vector<int32_t> begins, counts;
    std::vector<M> shares;
    for (int64_t j = 0; j < width; ++j) {
      const UpsampleReach<M> reach(columns, j);
      begins.push_back(int32_t(reach.begin));
      counts.push_back(int32_t(reach.end - reach.begin));
      for (int64_t i = reach.begin; i < reach.end; ++i) shares.push_back(reach.share(i, reach.weight(i)));
    }
    const auto gather_rows = choose<GatherRowsLoop<T>>();
    const auto gather_columns = choose<GatherColumnsLoop<T>>();
    const T* first = static_cast<const T*>(grad.data_ptr());
    T* result_row = static_cast<T*>(result.data_ptr());
    const int64_t of_thread = std::max<int64_t>(1, rows_of_thread(from) * height / from.height);
    torch::stable::parallel_for(0, to.pictures * height, of_thread, [&](int64_t begin, int64_t end) {
      Scratch<M> sums(from.row());
      std::vector<M> of_rows;
      for (int64_t k = begin; k < end; ++k) {
        const UpsampleReach<M> reach(rows, k % height);
        of_rows.clear();
        for (int64_t i = reach.begin; i < reach.end; ++i) of_rows.push_back(reach.share(i, reach.weight(i)));
        const T* x = first + (k / height * from.height + reach.begin) * from.row();
        gather_rows(x, reach.end - reach.begin, of_rows.data(), from.row(), sums.data());
        gather_columns(sums.data(), width, from.channels, begins.data(), counts.data(), shares.data(),
                       result_row + k * to.row());
      }
    });
  });
  return result;
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("upsample_add_act", TORCH_BOX(&airank_fast::upsample_add_act_cpu));
  m.impl("upsample_add_act_backward", TORCH_BOX(&airank_fast::upsample_add_act_backward_cpu));
}
