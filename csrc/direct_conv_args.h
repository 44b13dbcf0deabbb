// The arguments of airank_fast::direct_conv2d*, with the checks of airank_fast/ops/direct_conv.py in the same words.
#pragma once

#include "pictures.h"

namespace airank_fast {

struct ConvArgs {
  int64_t pictures;
  int64_t channels;  // of the input
  int64_t height;
  int64_t width;
  int64_t filters;
  int64_t kernel_h;
  int64_t kernel_w;
  int64_t stride;
  int64_t padding;
  int64_t dilation;

  // Of the output; negative or 0 where the filters do not fit in.
  int64_t out_height() const { return outputs(height, kernel_h); }
  int64_t out_width() const { return outputs(width, kernel_w); }

 private:
  int64_t outputs(int64_t size, int64_t kernel) const {
    const int64_t room = size + 2 * padding - dilation * (kernel - 1) - 1;
    return room < 0 ? 0 : room / stride + 1;
  }
};

inline void check_conv_tensor(const char* op, const char* name, const Tensor& x, const Tensor& like) {
  CHECK_ARGUMENT(x.dim() == 4 && x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0, op, ": ", name,
                 " must have 4 dimensions, all but the first at least 1, got ", shape_of(x));
  const ScalarType dtype = x.scalar_type();
  CHECK_ARGUMENT(dtype == ScalarType::Float || dtype == ScalarType::Double, op, ": ", name,
                 " must be float32 or float64, got ", name_of(dtype));
  CHECK_ARGUMENT(dtype == like.scalar_type(), op, ": ", name, " must be ", name_of(like.scalar_type()), ", got ",
                 name_of(dtype));
  check_picture_format(op, name, x, true);
}

inline void check_conv_bias(const char* op, const OptionalTensor& bias, const Tensor& x, const Tensor& weight) {
  if (!bias) return;
  const std::array<int64_t, 1> sizes{weight.size(0)};
  const Sizes expected(sizes.data(), sizes.size());
  CHECK_ARGUMENT(same_sizes(bias->sizes(), expected) && bias->scalar_type() == x.scalar_type() && bias->is_contiguous(),
                 op, ": bias must be contiguous ", name_of(x.scalar_type()), " ", text_of(expected), ", got ",
                 name_of(bias->scalar_type()), " ", shape_of(*bias), " with strides ", text_of(bias->strides()));
}

inline void check_conv_geometry(const char* op, const ConvArgs& args) {
  const std::array<int64_t, 2> kernel{args.kernel_h, args.kernel_w}, sizes{args.height, args.width};
  CHECK_ARGUMENT(args.kernel_h > 0 && args.kernel_w > 0, op, ": filters must have at least one tap, got ",
                 text_of(Sizes(kernel.data(), kernel.size())));
  CHECK_ARGUMENT(args.stride > 0, op, ": stride must be at least 1, got ", args.stride);
  CHECK_ARGUMENT(args.padding >= 0, op, ": padding must be at least 0, got ", args.padding);
  CHECK_ARGUMENT(args.dilation > 0, op, ": dilation must be at least 1, got ", args.dilation);
  CHECK_ARGUMENT(args.out_height() > 0 && args.out_width() > 0, op,
                 ": padded pictures must be as large as the filters, got ", text_of(Sizes(sizes.data(), sizes.size())));
}

inline void check_conv_grad(const char* op, const Tensor& grad, const ConvArgs& args) {
  check_conv_geometry(op, args);
  const std::array<int64_t, 4> sizes{args.pictures, args.filters, args.out_height(), args.out_width()};
  const Sizes expected(sizes.data(), sizes.size());
  CHECK_ARGUMENT(same_sizes(grad.sizes(), expected), op, ": grad must have shape ", text_of(expected), ", got ",
                 shape_of(grad));
}

}  // namespace airank_fast
