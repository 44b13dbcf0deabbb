// The transforms of Winograd's minimal filtering F(2x2, 3x3) on the CPU, and their adjoints; see airank_fast/ops/winograd.py.
//
// Pictures are [N, H, W, C], numbers of windows 16 arrays [N, rows, columns, C]: 4 x 4 for each window. A window is
// transformed along its columns, then along its rows, kChunk channels at a time, which stay in the first-level cache in
// between. Parallel over rows of windows; where these overlap, those of even number first: results do not depend on the
// number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>

#include "../winograd_args.h"
#include "isa.h"
#include "numbers.h"

namespace airank_fast {
namespace {

constexpr int64_t kChunk = 64;
// Fewer numbers are not worth a thread.
constexpr int64_t kGrain = 1 << 14;

// Four numbers along a side of a window, and their places in memory.
template <typename T>
struct Four {
  T* at[4];

  Four(T* first, int64_t step) : at{first, first + step, first + 2 * step, first + 3 * step} {}
};

// B^T d: of windows.
template <typename T>
HOST_DEVICE void window_line(const Four<const T>& from, const Four<T>& to, int64_t n) {
  const T *__restrict a = from.at[0], *__restrict b = from.at[1], *__restrict c = from.at[2], *__restrict d = from.at[3];
  T *__restrict p = to.at[0], *__restrict q = to.at[1], *__restrict r = to.at[2], *__restrict s = to.at[3];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    p[i] = a[i] - c[i];
    q[i] = b[i] + c[i];
    r[i] = c[i] - b[i];
    s[i] = b[i] - d[i];
  }
}

// B d, the adjoint; added to what is there or not.
template <bool kAdd, typename T>
HOST_DEVICE void window_line_adjoint(const Four<const T>& from, const Four<T>& to, int64_t n) {
  const T *__restrict a = from.at[0], *__restrict b = from.at[1], *__restrict c = from.at[2], *__restrict d = from.at[3];
  T *__restrict p = to.at[0], *__restrict q = to.at[1], *__restrict r = to.at[2], *__restrict s = to.at[3];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const T second = b[i] - c[i] + d[i], third = b[i] + c[i] - a[i];
    p[i] = kAdd ? p[i] + a[i] : a[i];
    q[i] = kAdd ? q[i] + second : second;
    r[i] = kAdd ? r[i] + third : third;
    s[i] = kAdd ? s[i] - d[i] : -d[i];
  }
}

// A^T m: of products.
template <typename T>
HOST_DEVICE void output_line(const Four<const T>& from, T* __restrict first, T* __restrict second, int64_t n) {
  const T *__restrict a = from.at[0], *__restrict b = from.at[1], *__restrict c = from.at[2], *__restrict d = from.at[3];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    first[i] = a[i] + b[i] + c[i];
    second[i] = b[i] - c[i] - d[i];
  }
}

// A y, the adjoint.
template <typename T>
HOST_DEVICE void output_line_adjoint(const T* __restrict first, const T* __restrict second, const Four<T>& to, int64_t n) {
  T *__restrict p = to.at[0], *__restrict q = to.at[1], *__restrict r = to.at[2], *__restrict s = to.at[3];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    p[i] = first[i];
    q[i] = first[i] + second[i];
    r[i] = first[i] - second[i];
    s[i] = -second[i];
  }
}

// A loop takes a row of windows, from the first of its pixels, and from the first of its numbers in the first array.
struct WindowRow {
  int64_t row;    // numbers of a row of pixels
  int64_t plane;  // numbers of an array
  int64_t columns;
  int64_t channels;
};

template <typename T>
struct WindowsLoop {
  using Signature = void(const T*, T*, const WindowRow&);

  HOST_DEVICE static void run(const T* pixels, T* numbers, const WindowRow& of) {
    const auto [row, plane, columns, channels] = of;
    T half[16 * kChunk];
    for (int64_t x = 0; x < columns; ++x) {
      for (int64_t c = 0; c < channels; c += kChunk) {
        const int64_t n = std::min(kChunk, channels - c);
        for (int64_t j = 0; j < 4; ++j)
          window_line<T>({pixels + (2 * x + j) * channels + c, row}, {half + j * kChunk, 4 * kChunk}, n);
        for (int64_t i = 0; i < 4; ++i)
          window_line<T>({half + 4 * i * kChunk, kChunk}, {numbers + 4 * i * plane + x * channels + c, plane}, n);
      }
    }
  }
};

template <typename T>
struct WindowsAdjointLoop {
  using Signature = void(const T*, T*, const WindowRow&);

  HOST_DEVICE static void run(const T* numbers, T* pixels, const WindowRow& of) {
    const auto [row, plane, columns, channels] = of;
    T half[16 * kChunk];
    for (int64_t x = 0; x < columns; ++x) {
      for (int64_t c = 0; c < channels; c += kChunk) {
        const int64_t n = std::min(kChunk, channels - c);
        for (int64_t i = 0; i < 4; ++i)
          window_line_adjoint<false, T>({numbers + 4 * i * plane + x * channels + c, plane},
                                        {half + 4 * i * kChunk, kChunk}, n);
        for (int64_t j = 0; j < 4; ++j)
          window_line_adjoint<true, T>({half + j * kChunk, 4 * kChunk}, {pixels + (2 * x + j) * channels + c, row}, n);
      }
    }
  }
};

template <typename T>
struct OutputsLoop {
  using Signature = void(const T*, T*, const WindowRow&);

  HOST_DEVICE static void run(const T* numbers, T* pixels, const WindowRow& of) {
    const auto [row, plane, columns, channels] = of;
    T half[8 * kChunk];
    for (int64_t x = 0; x < columns; ++x) {
      for (int64_t c = 0; c < channels; c += kChunk) {
        const int64_t n = std::min(kChunk, channels - c);
        for (int64_t j = 0; j < 4; ++j)
          output_line<T>({numbers + j * plane + x * channels + c, 4 * plane}, half + j * kChunk, half + (4 + j) * kChunk,
                         n);
        T* to = pixels + 2 * x * channels + c;
        for (int64_t i = 0; i < 2; ++i)
          output_line<T>({half + 4 * i * kChunk, kChunk}, to + i * row, to + i * row + channels, n);
      }
    }
  }
};

template <typename T>
struct OutputsAdjointLoop {
  using Signature = void(const T*, T*, const WindowRow&);

  HOST_DEVICE static void run(const T* pixels, T* numbers, const WindowRow& of) {
    const auto [row, plane, columns, channels] = of;
    T half[8 * kChunk];
    for (int64_t x = 0; x < columns; ++x) {
      for (int64_t c = 0; c < channels; c += kChunk) {
        const int64_t n = std::min(kChunk, channels - c);
        const T* from = pixels + 2 * x * channels + c;
        for (int64_t j = 0; j < 2; ++j)
          output_line_adjoint<T>(from + j * channels, from + row + j * channels, {half + j * kChunk, 2 * kChunk}, n);
        for (int64_t i = 0; i < 4; ++i)
          output_line_adjoint<T>(half + 2 * i * kChunk, half + (2 * i + 1) * kChunk,
                                 {numbers + 4 * i * plane + x * channels + c, plane}, n);
      }
    }
  }
};

// Runs `Loop` for every row of windows; `overlap`: they are added to pixels that two rows of windows share.
template <template <typename> typename Loop>
void for_window_rows(const Tensor& from, const Tensor& to, const WinogradSizes& sizes, bool from_pixels, bool overlap) {
  const auto of_type = [&](auto element) {
    using T = decltype(element);
    const auto loop = choose<Loop<T>>();
    const T* source = static_cast<const T*>(from.data_ptr());
    T* target = static_cast<T*>(to.data_ptr());
    const int64_t row = sizes.width * sizes.channels, of_windows = sizes.columns * sizes.channels;
    const int64_t plane = sizes.pictures * sizes.rows * of_windows;
    const int64_t parts = overlap ? 2 : 1, rows_of_part = (sizes.rows + parts - 1) / parts;
    const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, 16 * of_windows));
    for (int64_t part = 0; part < parts; ++part) {
      torch::stable::parallel_for(0, sizes.pictures * rows_of_part, grain, [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) {
          const int64_t picture = k / rows_of_part, y = k % rows_of_part * parts + part;
          if (y >= sizes.rows) continue;
          const int64_t of_pixels = (picture * sizes.height + 2 * y) * row;
          const int64_t of_numbers = (picture * sizes.rows + y) * of_windows;
          loop(source + (from_pixels ? of_pixels : of_numbers), target + (from_pixels ? of_numbers : of_pixels),
               {row, plane, sizes.columns, sizes.channels});
        }
      });
    }
  };
  if (from.scalar_type() == ScalarType::Double) return of_type(double());
  of_type(float());
}

Tensor windows_cpu(Tensor pixels) {
  const WinogradSizes sizes = check_winograd_pixels("winograd_windows", pixels, 2);
  Tensor made = empty_beside(pixels, {16, sizes.pictures, sizes.rows, sizes.columns, sizes.channels});
  for_window_rows<WindowsLoop>(pixels, made, sizes, true, false);
  return made;
}

Tensor windows_backward_cpu(Tensor grad) {
  const WinogradSizes sizes = check_winograd_numbers("winograd_windows_backward", grad, 2);
  Tensor pixels = empty_beside(grad, {sizes.pictures, sizes.height, sizes.width, sizes.channels});
  std::memset(pixels.data_ptr(), 0, size_t(pixels.numel()) * (grad.scalar_type() == ScalarType::Double ? 8 : 4));
  for_window_rows<WindowsAdjointLoop>(grad, pixels, sizes, false, true);
  return pixels;
}

Tensor outputs_cpu(Tensor products) {
  const WinogradSizes sizes = check_winograd_numbers("winograd_outputs", products, 0);
  Tensor pixels = empty_beside(products, {sizes.pictures, sizes.height, sizes.width, sizes.channels});
  for_window_rows<OutputsLoop>(products, pixels, sizes, false, false);
  return pixels;
}

Tensor outputs_backward_cpu(Tensor grad) {
  const WinogradSizes sizes = check_winograd_pixels("winograd_outputs_backward", grad, 0);
  Tensor made = empty_beside(grad, {16, sizes.pictures, sizes.rows, sizes.columns, sizes.channels});
  for_window_rows<OutputsAdjointLoop>(grad, made, sizes, true, false);
  return made;
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("winograd_windows", TORCH_BOX(&airank_fast::windows_cpu));
  m.impl("winograd_windows_backward", TORCH_BOX(&airank_fast::windows_backward_cpu));
  m.impl("winograd_outputs", TORCH_BOX(&airank_fast::outputs_cpu));
  m.impl("winograd_outputs_backward", TORCH_BOX(&airank_fast::outputs_backward_cpu));
}
