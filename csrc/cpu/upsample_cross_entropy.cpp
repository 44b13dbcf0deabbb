// Cross entropy, classes and confusion counts of bilinearly upsampled logits on the CPU, parallel over rows of logits: a
// thread upsamples the rows of pixels between one row of logits and the next, which it keeps as planes. Formulas in
// upsample_math.h and cross_entropy_math.h.
//
// Full-size logits exist only 16 pixels at a time. The gradient of the sum is computed with the loss, as all but its
// factor is known: logits are upsampled once and their exponentials taken once. Row i of the gradient is the sum of what
// comes from the pixels below it and of what comes from those above, in this order, for any number of threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <tuple>
#include <vector>

#include "../upsample_cross_entropy_args.h"
#include "upsample_cross_entropy_rows.h"

namespace airank_fast {
namespace {

// Fewer upsampled logits are not worth a thread.
constexpr int64_t kGrain = 1 << 15;

template <typename M>
struct Loops;
template <>
struct Loops<float> {
  static auto loss() { return choose_lanes<UpsampleLossOfFloat>(); }
  static auto gradient() { return choose_lanes<UpsampleGradientOfFloat>(); }
  static auto classes() { return choose_lanes<UpsampleClassOfFloat>(); }
};
template <>
struct Loops<double> {
  static auto loss() { return choose_lanes<UpsampleLossOfDouble>(); }
  static auto gradient() { return choose_lanes<UpsampleGradientOfDouble>(); }
  static auto classes() { return choose_lanes<UpsampleClassOfDouble>(); }
};

// Calls run(T{}) with the logits' element type.
template <typename Run>
void with_logits_type(const Tensor& logits, Run run) {
  switch (logits.scalar_type()) {
    case ScalarType::Double: return run(double{});
    case ScalarType::BFloat16: return run(bfloat16{});
    case ScalarType::Half: return run(float16{});
    default: return run(float{});
  }
}

// A picture of classes, int64 or uint8, contiguous.
class Labels {
 public:
  Labels(const Tensor& labels, int64_t classes, int64_t ignore_index)
      : bytes_(labels.scalar_type() == ScalarType::Byte ? static_cast<const uint8_t*>(labels.data_ptr()) : nullptr),
        words_(bytes_ == nullptr ? static_cast<const int64_t*>(labels.data_ptr()) : nullptr),
        height_(labels.size(1)),
        width_(labels.size(2)),
        classes_(classes),
        ignore_index_(ignore_index) {}

  // A row as int32, -1 where it does not count; returns how many do.
  int64_t read(int64_t row, int32_t* to) {
    return bytes_ != nullptr ? read(bytes_ + row * width_, to) : read(words_ + row * width_, to);
  }

  // Raises for the first label that is neither a class nor ignored, if a row with one was read.
  void check(const char* op) const {
    if (!wrong_.load()) return;
    for (int64_t i = 0;; ++i) {
      const int64_t label = bytes_ != nullptr ? bytes_[i] : words_[i];
      CHECK_ARGUMENT(label == ignore_index_ || (label >= 0 && label < classes_), op, ": labels[",
                     i / width_ / height_, ", ", i / width_ % height_, ", ", i % width_, "] must be in [0, ", classes_,
                     ") or the ignore_index ", ignore_index_, ", got ", label);
    }
  }

 private:
  template <typename Label>
  int64_t read(const Label* from, int32_t* to) {
    int64_t counted = 0, wrong = 0;
    for (int64_t x = 0; x < width_; ++x) {
      const int64_t label = from[x];
      const bool counts = label != ignore_index_, is_class = uint64_t(label) < uint64_t(classes_);
      to[x] = counts && is_class ? int32_t(label) : -1;
      counted += counts && is_class;
      wrong += counts && !is_class;
    }
    if (wrong != 0) wrong_ = true;
    return counted;
  }

  const uint8_t* bytes_;
  const int64_t* words_;
  int64_t height_;
  int64_t width_;
  int64_t classes_;
  int64_t ignore_index_;
  std::atomic<bool> wrong_{false};
};

// Logits and the pixels between them.
template <typename T>
struct Upsampling {
  using M = math_t<T>;

  Upsampling(const Tensor& logits, int64_t height, int64_t width, bool align_corners)
      : data(static_cast<const T*>(logits.data_ptr())),
        strides{logits.stride(0), logits.stride(1), logits.stride(2), logits.stride(3)},
        pictures(logits.size(0)),
        classes(logits.size(1)),
        rows(upsample_axis(logits.size(2), height, align_corners)),
        columns(upsample_axis(logits.size(3), width, align_corners)),
        load(choose<UpsampleLoad<T>>()) {}

  int64_t plane_numbers() const { return classes * columns.stride(); }

  // Calls work(begin, end) on threads, for rows of logits of all pictures.
  template <typename Work>
  void over_rows(Work work) const {
    const int64_t of_row = std::max<int64_t>(1, rows.out * columns.pixels() * classes / rows.in);
    torch::stable::parallel_for(0, pictures * rows.in, std::max<int64_t>(1, kGrain / of_row), work);
  }

  const T* data;
  int64_t strides[4];
  int64_t pictures;
  int64_t classes;
  UpsampleAxis rows;
  UpsampleColumns<M> columns;
  typename UpsampleLoad<T>::Signature* load;
};

// Goes down the rows of logits, and for each through the rows of pixels between it and the next one.
template <typename T>
class Walk {
  using M = math_t<T>;

 public:
  explicit Walk(const Upsampling<T>& upsampling)
      : of_(upsampling),
        above_(of_.plane_numbers()),
        below_(of_.plane_numbers()),
        scratch_(kUpsampleScratch * of_.classes * kUpsampleBlock) {
    const UpsampleColumns<M>& columns = of_.columns;
    row = {};
    row.classes = of_.classes;
    row.stride = columns.stride();
    row.blocks = columns.blocks;
    row.first = columns.first.data();
    row.steps = columns.steps.data();
    row.weights = columns.weights.data();
    row.scratch = scratch_.data();
  }

  // Calls pixels(y) for each row y of pixels, of all pictures, of the next row k of logits; `row` describes it.
  template <typename Pixels>
  void next(int64_t k, Pixels pixels) {
    const UpsampleAxis& rows = of_.rows;
    const int64_t picture = k / rows.in, i = k % rows.in;
    if (k == last_ + 1 && i > 0) std::swap(above_, below_);
    else load(picture, i, above_.data());
    load(picture, std::min(i + 1, rows.in - 1), below_.data());
    last_ = k;
    row.above = above_.data();
    row.below = below_.data();
    const int64_t end = rows.begin(i + 1);
    for (int64_t y = rows.begin(i); y < end; ++y) {
      row.weight = rows.template weight<M>(y);
      pixels(picture * rows.out + y);
    }
  }

  UpsampleRow<M> row;

 private:
  void load(int64_t picture, int64_t i, M* planes) const {
    of_.load(of_.data + picture * of_.strides[0] + i * of_.strides[2], of_.strides[1], of_.strides[3], of_.classes,
             of_.columns.cells, of_.columns.stride(), planes);
  }

  const Upsampling<T>& of_;
  Scratch<M> above_;
  Scratch<M> below_;
  Scratch<M> scratch_;
  int64_t last_ = -2;
};

// The gradient of the sum of the losses, row by row.
template <typename M>
class Gradient {
 public:
  Gradient(const Tensor& gradient, int64_t stride)
      : data_(static_cast<M*>(gradient.data_ptr())),
        classes_(gradient.size(1)),
        height_(gradient.size(2)),
        width_(gradient.size(3)),
        strides_{gradient.stride(0), gradient.stride(1), gradient.stride(2), gradient.stride(3)},
        stride_(stride),
        seams_(size_t(gradient.size(0) * height_)) {}

  // Writes row k of all pictures: `own`, from the pixels below it, and `before`, from those above, or null where they
  // are another thread's. `next` is from the same pixels as `own`, and goes to the row below.
  void write(int64_t k, M* own, M* next, const M* before) {
    end_of_row(own);
    end_of_row(next);
    const bool is_last = k % height_ == height_ - 1;
    M* to = data_ + k / height_ * strides_[0] + k % height_ * strides_[2];
    for (int64_t c = 0; c < classes_; ++c) {
      M* sum = own + c * stride_;
      if (is_last) add(sum, next + c * stride_);
      if (before != nullptr) add(sum, before + c * stride_);
    }
    for (int64_t j = 0; j < width_; ++j)
      for (int64_t c = 0; c < classes_; ++c) to[c * strides_[1] + j * strides_[3]] = own[c * stride_ + j];
  }

  // Keeps what the last row of a thread gives to the first one of another.
  void leave(int64_t k, const M* next) { seams_[size_t(k)].assign(next, next + classes_ * stride_); }

  void close_seams() {
    for (size_t k = 0; k < seams_.size(); ++k) {
      if (seams_[k].empty()) continue;
      M* to = data_ + int64_t(k) / height_ * strides_[0] + int64_t(k) % height_ * strides_[2];
      for (int64_t c = 0; c < classes_; ++c)
        for (int64_t j = 0; j < width_; ++j) to[c * strides_[1] + j * strides_[3]] += seams_[k][size_t(c * stride_ + j)];
    }
  }

 private:
  // The column beyond the last one is the last one.
  void end_of_row(M* planes) const {
    for (int64_t c = 0; c < classes_; ++c) planes[c * stride_ + width_ - 1] += planes[c * stride_ + width_];
  }

  void add(M* __restrict to, const M* __restrict from) const {
    for (int64_t j = 0; j < width_; ++j) to[j] += from[j];
  }

  M* data_;
  int64_t classes_;
  int64_t height_;
  int64_t width_;
  int64_t strides_[4];
  int64_t stride_;
  std::vector<std::vector<M>> seams_;
};

// What a row of logits adds to the loss.
struct RowSum {
  double loss = 0;
  int64_t counted = 0;
};

// By row of logits; a null `gradient`: the losses alone.
template <typename T, typename M = math_t<T>>
std::vector<RowSum> losses_of(const Upsampling<T>& upsampling, Labels& labels, Gradient<M>* gradient) {
  const auto loop = gradient != nullptr ? Loops<M>::gradient() : Loops<M>::loss();
  const int64_t rows = upsampling.rows.in, all_rows = upsampling.pictures * rows;
  const int64_t size = gradient != nullptr ? upsampling.plane_numbers() : 0;
  std::vector<RowSum> sums(static_cast<size_t>(all_rows));
  upsampling.over_rows([&](int64_t begin, int64_t end) {
    Walk<T> walk(upsampling);
    std::vector<int32_t> of_row(static_cast<size_t>(upsampling.columns.pixels()));
    walk.row.labels = of_row.data();
    Scratch<M> own(size), next(size), before(size);
    for (int64_t k = begin; k < end; ++k) {
      RowSum& sum = sums[size_t(k)];
      walk.row.loss = &sum.loss;
      walk.row.above_gradient = own.data();
      walk.row.below_gradient = next.data();
      std::fill_n(own.data(), size, M(0));
      std::fill_n(next.data(), size, M(0));
      walk.next(k, [&](int64_t y) {
        const int64_t counted = labels.read(y, of_row.data());
        if (counted > 0) loop(walk.row);
        sum.counted += counted;
      });
      if (gradient == nullptr) continue;
      gradient->write(k, own.data(), next.data(), k > begin && k % rows != 0 ? before.data() : nullptr);
      std::swap(next, before);
    }
    if (gradient != nullptr && end % rows != 0) gradient->leave(end, before.data());
  });
  if (gradient != nullptr) gradient->close_seams();
  return sums;
}

std::tuple<Tensor, Tensor, Tensor> upsample_cross_entropy_cpu(Tensor logits, Tensor labels, OptionalTensor count,
                                                              int64_t ignore_index, bool align_corners,
                                                              bool with_gradient) {
  check_upsample_cross_entropy(logits, labels, count);
  const ScalarType wide = upsample_loss_dtype(logits);
  Tensor loss = empty_beside(logits, {}, wide), scale = empty_beside(logits, {}, wide);
  Tensor gradient = with_gradient ? upsample_gradient(logits, wide) : empty_beside(logits, {0}, wide);
  labels = as_contiguous(labels);
  Labels classes(labels, logits.size(1), ignore_index);
  with_logits_type(logits, [&](auto element) {
    using T = decltype(element);
    using M = math_t<T>;
    RowSum total;
    if (labels.numel() == 0) {
      std::fill_n(static_cast<M*>(gradient.data_ptr()), gradient.numel(), M(0));
    } else {
      const Upsampling<T> upsampling(logits, labels.size(1), labels.size(2), align_corners);
      std::optional<Gradient<M>> rows;
      if (with_gradient) rows.emplace(gradient, upsampling.columns.stride());
      for (const RowSum& row : losses_of(upsampling, classes, rows ? &*rows : nullptr)) {
        total.loss += row.loss;
        total.counted += row.counted;
      }
      classes.check("upsample_cross_entropy");
    }
    const double divisor = count ? double(*static_cast<const M*>(count->data_ptr())) : double(total.counted);
    *static_cast<M*>(loss.data_ptr()) = M(total.loss / divisor);
    *static_cast<M*>(scale.data_ptr()) = divisor != 0 ? M(1 / divisor) : M(0);
  });
  return {loss, gradient, scale};
}

// Calls use(y, classes of row y of pixels) on threads; `of_thread` makes it, once a thread.
template <typename Make>
void over_classes(const Tensor& logits, int64_t height, int64_t width, bool align_corners, Make of_thread) {
  with_logits_type(logits, [&](auto element) {
    using T = decltype(element);
    const auto loop = Loops<math_t<T>>::classes();
    const Upsampling<T> upsampling(logits, height, width, align_corners);
    upsampling.over_rows([&](int64_t begin, int64_t end) {
      Walk<T> walk(upsampling);
      auto use = of_thread();
      std::vector<int32_t> of_row(static_cast<size_t>(width));
      walk.row.predicted = of_row.data();
      for (int64_t k = begin; k < end; ++k)
        walk.next(k, [&](int64_t y) {
          loop(walk.row);
          use(y, of_row.data());
        });
    });
  });
}

Tensor upsample_argmax_cpu(Tensor logits, int64_t height, int64_t width, bool align_corners) {
  check_upsample_argmax(logits, height, width);
  Tensor result = empty_beside(logits, {logits.size(0), height, width}, ScalarType::Long);
  if (result.numel() == 0) return result;
  int64_t* to = static_cast<int64_t*>(result.data_ptr());
  over_classes(logits, height, width, align_corners, [&] {
    return [&](int64_t y, const int32_t* classes) { std::copy_n(classes, width, to + y * width); };
  });
  return result;
}

// One thread's counts; adds them to all when it is done. Neighbouring pixels, which mostly are of one class, count in
// different copies, as an addition would wait for the one before it.
class Counts {
 public:
  Counts(int64_t classes, int64_t* all, std::mutex& mutex)
      : size_(classes * classes), counts_(size_t(kCopies * size_)), all_(all), mutex_(mutex) {}
  ~Counts() {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < counts_.size(); ++i) all_[int64_t(i) % size_] += counts_[i];
  }
  Counts(const Counts&) = delete;

  int64_t& at(int64_t x, int64_t pair) { return counts_[size_t(x % kCopies * size_ + pair)]; }

 private:
  static constexpr int64_t kCopies = 4;
  int64_t size_;
  std::vector<int64_t> counts_;
  int64_t* all_;
  std::mutex& mutex_;
};

Tensor upsample_confusion_cpu(Tensor logits, Tensor labels, int64_t ignore_index, bool align_corners) {
  check_upsample_labels("upsample_confusion", logits, labels);
  const int64_t classes = logits.size(1), width = labels.size(2);
  Tensor result = empty_beside(logits, {classes, classes}, ScalarType::Long);
  int64_t* all = static_cast<int64_t*>(result.data_ptr());
  std::fill_n(all, classes * classes, 0);
  if (labels.numel() == 0) return result;
  labels = as_contiguous(labels);
  Labels pictures(labels, classes, ignore_index);
  std::mutex mutex;
  over_classes(logits, labels.size(1), width, align_corners, [&] {
    return [&pictures, counts = Counts(classes, all, mutex), classes, width,
            of_row = std::vector<int32_t>(static_cast<size_t>(width))](int64_t y, const int32_t* predicted) mutable {
      pictures.read(y, of_row.data());
      for (int64_t x = 0; x < width; ++x)
        if (of_row[size_t(x)] >= 0) ++counts.at(x, of_row[size_t(x)] * classes + predicted[x]);
    };
  });
  pictures.check("upsample_confusion");
  return result;
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("upsample_cross_entropy", TORCH_BOX(&airank_fast::upsample_cross_entropy_cpu));
  m.impl("upsample_argmax", TORCH_BOX(&airank_fast::upsample_argmax_cpu));
  m.impl("upsample_confusion", TORCH_BOX(&airank_fast::upsample_confusion_cpu));
}
