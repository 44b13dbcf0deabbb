// The loops of RoIAlign on the CPU over one RoI.
//
// Of a contiguous picture they take one plane: rows of a window are added up for each bin first, whole vectors at a time,
// and then columns; backward the other way round. Of a channels_last one they take the cells of a bin one by one, and
// many channels at a time, which are neighbours.
#pragma once

#include "isa.h"
#include "numbers.h"

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed to inlined functions only
#endif

#include "roi_align_taps.h"

namespace airank_fast {

// A RoI and the two tables of its cells; see RoiTaps.
template <typename M>
struct RoiView {
  const int32_t* row_begins;
  const int32_t* rows;
  const M* row_weights;
  const int32_t* column_begins;
  const int32_t* columns;
  const M* column_weights;
  int32_t height;  // bins
  int32_t width;
  int32_t first_column;  // of the window
  int32_t num_columns;
};

template <typename M>
RoiView<M> roi_view(const RoiPlan<M>& plan, int64_t k) {
  const RoiWindow& window = plan.windows[size_t(k)];
  return {plan.rows.of(k),
          plan.rows.cells.data(),
          plan.rows.weights.data(),
          plan.columns.of(k),
          plan.columns.cells.data(),
          plan.columns.weights.data(),
          plan.rows.bins,
          plan.columns.bins,
          window.first_column,
          window.columns};
}

// Rows of bins that a loop takes at a time: 7, 14 and 28 are usual.
constexpr int32_t kRoiRows = 7;

// The numbers of a picture as those of its arithmetic, and back.
template <typename From, typename To>
struct RoiConvertLoop {
  using Signature = void(const void*, int64_t, void*);
  HOST_DEVICE static void run(const void* from, int64_t size, void* to) {
    const From* __restrict x = static_cast<const From*>(from);
    To* __restrict y = static_cast<To*>(to);
    for (int64_t i = 0; i < size; ++i) {
      if constexpr (std::is_same_v<From, uint8_t>) store(&y[i], float(x[i]));
      else store(&y[i], load(x[i]));
    }
  }
};

// From a plane [., width] to the bins [height, width] of a RoI; `sums` has room for kRoiRows rows of its window.
template <typename M, typename T>
struct RoiPlaneLoop {
  using Signature = void(const RoiView<M>&, const M*, int64_t, M*, T*);

  template <int kTaps>
  HOST_DEVICE static void add_rows(const M* plane, int64_t width, const int32_t* cells, const M* weights, bool is_first,
                                   int32_t size, M* __restrict to) {
    const M* x[kTaps];
    for (int t = 0; t < kTaps; ++t) x[t] = plane + cells[t] * width;
    for (int32_t i = 0; i < size; ++i) {
      M sum = weights[0] * x[0][i];
      for (int t = 1; t < kTaps; ++t) sum += weights[t] * x[t][i];
      to[i] = is_first ? sum : to[i] + sum;
    }
  }

  template <int kRows>
  HOST_DEVICE static void add_columns(const RoiView<M>& roi, const M* sums, T* to) {
    for (int32_t q = 0; q < roi.width; ++q) {
      M bins[kRows] = {};
      for (int32_t t = roi.column_begins[q]; t < roi.column_begins[q + 1]; ++t) {
        const M weight = roi.column_weights[t];
        const M* x = sums + (roi.columns[t] - roi.first_column);
        for (int r = 0; r < kRows; ++r) bins[r] += weight * x[r * roi.num_columns];
      }
      for (int r = 0; r < kRows; ++r) store(&to[r * roi.width + q], bins[r]);
    }
  }

  HOST_DEVICE static void run(const RoiView<M>& roi, const M* plane, int64_t width, M* sums, T* to) {
    const M* window = plane + roi.first_column;
    for (int32_t first = 0; first < roi.height; first += kRoiRows) {
      const int32_t rows = roi.height - first < kRoiRows ? roi.height - first : kRoiRows;
      for (int32_t r = 0; r < rows; ++r) {
        M* of_bin = sums + r * roi.num_columns;
        int32_t t = roi.row_begins[first + r];
        const int32_t begin = t, end = roi.row_begins[first + r + 1];
        if (t == end)
          for (int32_t i = 0; i < roi.num_columns; ++i) of_bin[i] = 0;
        while (t < end) {
          const int32_t* cells = roi.rows + t;
          const M* weights = roi.row_weights + t;
          const int32_t size = roi.num_columns;
          switch (end - t) {
            case 1: add_rows<1>(window, width, cells, weights, t == begin, size, of_bin), t += 1; break;
            case 2: add_rows<2>(window, width, cells, weights, t == begin, size, of_bin), t += 2; break;
            case 3: add_rows<3>(window, width, cells, weights, t == begin, size, of_bin), t += 3; break;
            default: add_rows<4>(window, width, cells, weights, t == begin, size, of_bin), t += 4;
          }
        }
      }
      T* bins = to + first * roi.width;
      if (rows == kRoiRows) add_columns<kRoiRows>(roi, sums, bins);
      else
        for (int32_t r = 0; r < rows; ++r) add_columns<1>(roi, sums + r * roi.num_columns, bins + r * roi.width);
    }
  }
};

// From the gradient of a RoI's bins to that of a plane, added.
template <typename M, typename T>
struct RoiPlaneBackwardLoop {
  using Signature = void(const RoiView<M>&, const T*, M*, M*, int64_t);

  template <int kRows>
  HOST_DEVICE static void spread(const RoiView<M>& roi, const T* grad, M* sums) {
    for (int32_t i = 0; i < kRows * roi.num_columns; ++i) sums[i] = 0;
    for (int32_t q = 0; q < roi.width; ++q) {
      M bins[kRows];
      for (int r = 0; r < kRows; ++r) bins[r] = load(grad[r * roi.width + q]);
      for (int32_t t = roi.column_begins[q]; t < roi.column_begins[q + 1]; ++t) {
        const M weight = roi.column_weights[t];
        M* x = sums + (roi.columns[t] - roi.first_column);
        for (int r = 0; r < kRows; ++r) x[r * roi.num_columns] += weight * bins[r];
      }
    }
  }

  HOST_DEVICE static void run(const RoiView<M>& roi, const T* grad, M* sums, M* plane, int64_t width) {
    M* window = plane + roi.first_column;
    for (int32_t first = 0; first < roi.height; first += kRoiRows) {
      const int32_t rows = roi.height - first < kRoiRows ? roi.height - first : kRoiRows;
      const T* bins = grad + first * roi.width;
      if (rows == kRoiRows) spread<kRoiRows>(roi, bins, sums);
      else
        for (int32_t r = 0; r < rows; ++r) spread<1>(roi, bins + r * roi.width, sums + r * roi.num_columns);
      for (int32_t r = 0; r < rows; ++r) {
        const M* __restrict of_bin = sums + r * roi.num_columns;
        for (int32_t t = roi.row_begins[first + r]; t < roi.row_begins[first + r + 1]; ++t) {
          const M weight = roi.row_weights[t];
          M* __restrict to = window + roi.rows[t] * width;
          for (int32_t i = 0; i < roi.num_columns; ++i) to[i] += weight * of_bin[i];
        }
      }
    }
  }
};

// Some numbers of neighbouring channels.
template <typename T, int kLanes>
struct RoiLanes {
  using M = math_t<T>;
  typedef M Vector __attribute__((vector_size(kLanes * sizeof(M))));

  HOST_DEVICE static Vector at(const T* from) {
    Vector x;
    if constexpr (std::is_same_v<T, M>) {
      __builtin_memcpy(&x, from, sizeof(x));
    } else {
      M wide[kLanes];
      for (int l = 0; l < kLanes; ++l) wide[l] = load(from[l]);
      __builtin_memcpy(&x, wide, sizeof(x));
    }
    return x;
  }
  HOST_DEVICE static void put(T* to, const Vector& x) {
    if constexpr (std::is_same_v<T, M>) {
      __builtin_memcpy(to, &x, sizeof(x));
    } else {
      M wide[kLanes];
      __builtin_memcpy(wide, &x, sizeof(x));
      for (int l = 0; l < kLanes; ++l) store(&to[l], wide[l]);
    }
  }
};

// A cell of a bin, as the number of elements from the picture's start, and its weight.
template <typename M>
struct RoiCell {
  int64_t at;
  M weight;
};

// The cells of a bin; at most as many as the product of those of its row and of its column.
template <typename M>
HOST_DEVICE int32_t roi_cells(const RoiView<M>& roi, int32_t p, int32_t q, int64_t row, int64_t pixel,
                              RoiCell<M>* cells) {
  int32_t count = 0;
  for (int32_t r = roi.row_begins[p]; r < roi.row_begins[p + 1]; ++r)
    for (int32_t c = roi.column_begins[q]; c < roi.column_begins[q + 1]; ++c)
      cells[count++] = {roi.rows[r] * row + roi.columns[c] * pixel, roi.row_weights[r] * roi.column_weights[c]};
  return count;
}

// Vectors that a loop takes at a time.
constexpr int kRoiParts = 4;

// From a channels_last picture to a RoI's bins [height, width, channels].
template <typename T, int kLanes>
struct RoiPixelsLoop {
  using M = math_t<T>;
  using Signature = void(const RoiView<M>&, const void*, int64_t, int64_t, RoiCell<M>*, void*);

  template <int kParts>
  HOST_DEVICE static int64_t take(const T* x, const RoiCell<M>* cells, int32_t count, int64_t first, int64_t channels,
                                  T* to) {
    using L = RoiLanes<T, kLanes>;
    int64_t c = first;
    for (; c + kParts * kLanes <= channels; c += kParts * kLanes) {
      typename L::Vector sums[kParts] = {};
      for (int32_t i = 0; i < count; ++i) {
        const T* from = x + cells[i].at + c;
#pragma GCC unroll 4
        for (int k = 0; k < kParts; ++k) sums[k] += cells[i].weight * L::at(from + k * kLanes);
      }
#pragma GCC unroll 4
      for (int k = 0; k < kParts; ++k) L::put(to + c + k * kLanes, sums[k]);
    }
    return c;
  }

  HOST_DEVICE static void run(const RoiView<M>& roi, const void* picture, int64_t width, int64_t channels,
                              RoiCell<M>* cells, void* result) {
    const T* x = static_cast<const T*>(picture);
    T* to = static_cast<T*>(result);
    for (int32_t p = 0; p < roi.height; ++p)
      for (int32_t q = 0; q < roi.width; ++q, to += channels) {
        const int32_t count = roi_cells(roi, p, q, width * channels, channels, cells);
        int64_t c = take<kRoiParts>(x, cells, count, 0, channels, to);
        c = take<1>(x, cells, count, c, channels, to);
        for (; c < channels; ++c) {
          M sum = 0;
          for (int32_t i = 0; i < count; ++i) sum += cells[i].weight * load(x[cells[i].at + c]);
          store(&to[c], sum);
        }
      }
  }
};

// From the gradient of a RoI's bins to that of some channels of a channels_last picture, added.
template <typename T, int kLanes>
struct RoiPixelsBackwardLoop {
  using M = math_t<T>;
  // The RoI, its gradient at the first channel, the distance of bins, channels to take, the picture's row, pixel.
  using Signature = void(const RoiView<M>&, const void*, int64_t, int64_t, RoiCell<M>*, M*, int64_t, int64_t);

  template <int kParts>
  HOST_DEVICE static int64_t give(const T* grad, const RoiCell<M>* cells, int32_t count, int64_t first,
                                  int64_t channels, M* picture) {
    using L = RoiLanes<T, kLanes>;
    using Wide = RoiLanes<M, kLanes>;
    int64_t c = first;
    for (; c + kParts * kLanes <= channels; c += kParts * kLanes) {
      typename L::Vector of_bin[kParts];
#pragma GCC unroll 4
      for (int k = 0; k < kParts; ++k) of_bin[k] = L::at(grad + c + k * kLanes);
      for (int32_t i = 0; i < count; ++i) {
        M* to = picture + cells[i].at + c;
#pragma GCC unroll 4
        for (int k = 0; k < kParts; ++k) {
          M* at = to + k * kLanes;
          Wide::put(at, Wide::at(at) + cells[i].weight * of_bin[k]);
        }
      }
    }
    return c;
  }

  HOST_DEVICE static void run(const RoiView<M>& roi, const void* from, int64_t bin, int64_t channels,
                              RoiCell<M>* cells, M* picture, int64_t row, int64_t pixel) {
    const T* grad = static_cast<const T*>(from);
    for (int32_t p = 0; p < roi.height; ++p)
      for (int32_t q = 0; q < roi.width; ++q, grad += bin) {
        const int32_t count = roi_cells(roi, p, q, row, pixel, cells);
        int64_t c = give<kRoiParts>(grad, cells, count, 0, channels, picture);
        c = give<1>(grad, cells, count, c, channels, picture);
        for (; c < channels; ++c)
          for (int32_t i = 0; i < count; ++i) picture[cells[i].at + c] += cells[i].weight * load(grad[c]);
      }
  }
};

// choose_lanes() takes loops whose number of floats is their one parameter; registers hold half as many doubles.
template <typename T>
struct RoiPixels {
  template <int kLanes> struct Forward : RoiPixelsLoop<T, kLanes * 4 / int(sizeof(math_t<T>))> {};
  template <int kLanes> struct Backward : RoiPixelsBackwardLoop<T, kLanes * 4 / int(sizeof(math_t<T>))> {};
};

}  // namespace airank_fast
