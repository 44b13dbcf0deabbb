// The lists of tensors of an optimizer op: parameters, gradients, buffers, copies.
//
// On every device this checks that the lists fit one another, and makes every tensor flat memory. Elements are
// updated one by one, so that tensors with equal strides and no holes (contiguous, channels_last, transposed) can
// be read in memory order. Where the strides of one parameter's tensors differ, contiguous copies are made, and
// the written ones are copied back.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "tensors.h"

namespace airank_fast {

using TensorList = std::vector<Tensor>;

// `list` must be parallel to `params`, of one dtype and on the device of params[0].
inline void check_list(const char* op, const char* name, const TensorList& list, const TensorList& params) {
  CHECK_ARGUMENT(list.size() == params.size(), op, ": ", name, " must have as many tensors as params (",
                 params.size(), "), got ", list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    CHECK_ARGUMENT(same_device(list[i], params[0]), op, ": ", name, "[", i, "] must be on ",
                   device_of(params[0]), ", got ", device_of(list[i]));
    CHECK_ARGUMENT(list[i].layout() == torch::headeronly::Layout::Strided, op, ": ", name, "[", i,
                   "] must be dense, got a sparse tensor");
    CHECK_ARGUMENT(list[i].scalar_type() == list[0].scalar_type(), op, ": ", name, "[", i, "] must be ",
                   name_of(list[0].scalar_type()), " like the others, got ", name_of(list[i].scalar_type()));
    CHECK_ARGUMENT(same_shape(list[i], params[i]), op, ": ", name, "[", i, "] must have shape ",
                   shape_of(params[i]), ", got ", shape_of(list[i]));
  }
}

// The dtypes of optimizers: parameters of any floating type, gradients of the same or 16-bit beside float32
// parameters, 16-bit copies of float32 parameters, whose dtype 16-bit gradients then have. `copies` alone may be empty.
inline void check_dtypes(const char* op, const TensorList& params, const TensorList& grads, const TensorList& copies) {
  const ScalarType param = params[0].scalar_type(), grad = grads[0].scalar_type();
  const auto is_16_bit = [](ScalarType t) { return t == ScalarType::BFloat16 || t == ScalarType::Half; };
  CHECK_ARGUMENT(param == ScalarType::Float || param == ScalarType::Double || is_16_bit(param), op,
                 ": params must be float32, float64, bfloat16 or float16, got ", name_of(param));
  CHECK_ARGUMENT(grad == param || (param == ScalarType::Float && is_16_bit(grad)), op, ": grads must be ",
                 name_of(param), param == ScalarType::Float ? ", bfloat16 or float16" : "", ", got ",
                 name_of(grad));
  if (copies.empty()) return;
  const ScalarType copy = copies[0].scalar_type();
  CHECK_ARGUMENT(param == ScalarType::Float && is_16_bit(copy), op,
                 ": copies must be bfloat16 or float16, of float32 params, got ", name_of(copy), " of ",
                 name_of(param));
  CHECK_ARGUMENT(grad == param || grad == copy, op, ": grads must be float32 or ", name_of(copy), " as the copies, got ",
                 name_of(grad));
}

inline void check_list_dtype(const char* op, const char* name, const TensorList& list, ScalarType required) {
  CHECK_ARGUMENT(list[0].scalar_type() == required, op, ": ", name, " must be ", name_of(required), ", got ",
                 name_of(list[0].scalar_type()));
}

// A list that is reduced to one number: not empty, on one device, of any floating types.
inline void check_tensors(const char* op, const TensorList& tensors) {
  CHECK_ARGUMENT(!tensors.empty(), op, ": tensors must hold at least one tensor, got none");
  for (size_t i = 0; i < tensors.size(); ++i) {
    CHECK_ARGUMENT(same_device(tensors[i], tensors[0]), op, ": tensors[", i, "] must be on ", device_of(tensors[0]),
                   ", got ", device_of(tensors[i]));
    CHECK_ARGUMENT(tensors[i].layout() == torch::headeronly::Layout::Strided, op, ": tensors[", i,
                   "] must be dense, got a sparse tensor");
    const ScalarType dtype = tensors[i].scalar_type();
    CHECK_ARGUMENT(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 ||
                       dtype == ScalarType::Half,
                   op, ": tensors[", i, "] must be float32, float64, bfloat16 or float16, got ", name_of(dtype));
  }
}

// A tensor of one element on the device of `like`, float32 or float64.
inline void check_scalar(const char* op, const char* name, const Tensor& scalar, const Tensor& like) {
  const ScalarType dtype = scalar.scalar_type();
  CHECK_ARGUMENT(
      scalar.numel() == 1 && (dtype == ScalarType::Float || dtype == ScalarType::Double) &&
          same_device(scalar, like),
      op, ": ", name, " must be one float32 or float64 number on ", device_of(like), ", got ",
      name_of(dtype), " of shape ", shape_of(scalar), " on ", device_of(scalar));
}

// Numbers of steps: a float32 number for each parameter.
inline void check_counts(const char* op, const char* name, const TensorList& list, const TensorList& params) {
  CHECK_ARGUMENT(list.size() == params.size(), op, ": ", name, " must have as many tensors as params (",
                 params.size(), "), got ", list.size());
  for (size_t i = 0; i < list.size(); ++i)
    CHECK_ARGUMENT(list[i].numel() == 1 && list[i].scalar_type() == ScalarType::Float &&
                       same_device(list[i], params[0]),
                   op, ": ", name, "[", i, "] must be one float32 number on ", device_of(params[0]), ", got ",
                   name_of(list[i].scalar_type()), " of shape ", shape_of(list[i]), " on ", device_of(list[i]));
}

// No holes and no overlap: some order of the dimensions makes it contiguous.
inline bool is_dense(const Tensor& tensor) {
  if (tensor.is_contiguous()) return true;
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (int64_t d = 0; d < tensor.dim(); ++d)
    if (tensor.size(d) != 1) dims.emplace_back(tensor.stride(d), tensor.size(d));
  std::sort(dims.begin(), dims.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : dims) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

// Strides of dimensions of size 1 have no meaning (a 1x1 convolution is contiguous and channels_last at once).
inline bool same_strides(const Tensor& a, const Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d)
    if (a.size(d) != 1 && a.stride(d) != b.stride(d)) return false;
  return true;
}

// Replaces a parameter's tensors by contiguous copies where necessary, and lists those that must be copied back.
class FlatViews {
 public:
  void make_flat(std::vector<std::pair<Tensor*, bool>> tensors) {  // (tensor, is it written?)
    const Tensor& first = *tensors.front().first;
    bool flat = is_dense(first);
    for (const auto& [tensor, written] : tensors) flat = flat && same_strides(*tensor, first);
    if (flat) return;
    for (auto& [tensor, written] : tensors) {
      Tensor copy = as_contiguous(*tensor);
      if (written && copy.data_ptr() != tensor->data_ptr()) copied_.emplace_back(*tensor, copy);
      *tensor = std::move(copy);
    }
  }

  void copy_back() {
    for (auto& [original, copy] : copied_) torch::stable::copy_(original, copy);
  }

 private:
  std::vector<std::pair<Tensor, Tensor>> copied_;
};

// Makes the tensors of each parameter readable in memory order; call copy_back() on the result at the end. `written`
// are the lists that are updated beside params, each parallel to them or empty.
inline FlatViews flatten(TensorList& params, TensorList& grads, const std::vector<TensorList*>& written) {
  FlatViews views;
  std::vector<std::pair<Tensor*, bool>> one;
  for (size_t i = 0; i < params.size(); ++i) {
    one = {{&params[i], true}, {&grads[i], false}};
    for (TensorList* list : written)
      if (!list->empty()) one.emplace_back(&(*list)[i], true);
    views.make_flat(one);
  }
  return views;
}

}  // namespace airank_fast
