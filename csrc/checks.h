// Argument checks of the ops, with messages of one line, "op: NAME must be WHAT, got GOT":
// "sgd: grads[3] must have shape [64, 3, 7, 7], got [64, 3]". In Python they are RuntimeErrors.
// The reference implementations in airank_fast/ops/ have the same messages.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <sstream>
#include <stdexcept>
#include <string>

// Unlike with STD_TORCH_CHECK, the message has no source position before it: it is for users.
#define CHECK_ARGUMENT(condition, ...)                                                  \
  do {                                                                                  \
    if (__builtin_expect(!(condition), 0)) ::airank_fast::throw_argument(__VA_ARGS__);  \
  } while (0)

namespace airank_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;

template <typename... Parts>
[[noreturn]] void throw_argument(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline std::string name_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Half: return "float16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Bool: return "bool";
    case ScalarType::ComplexFloat: return "complex64";
    case ScalarType::ComplexDouble: return "complex128";
    default: return "dtype " + std::to_string(static_cast<int>(dtype));
  }
}

inline std::string text_of(Sizes sizes) {
  std::ostringstream text;
  text << '[';
  for (size_t d = 0; d < sizes.size(); ++d) text << (d ? ", " : "") << sizes[d];
  text << ']';
  return text.str();
}

inline std::string shape_of(const Tensor& tensor) { return text_of(tensor.sizes()); }

inline std::string device_of(const Tensor& tensor) {
  if (tensor.is_cpu()) return "cpu";
  const std::string kind = tensor.is_cuda() ? "cuda:" : "device ";
  return kind + std::to_string(tensor.get_device_index());
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.device() == b.device();
}

inline bool same_sizes(Sizes a, Sizes b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

inline bool same_shape(const Tensor& a, const Tensor& b) { return same_sizes(a.sizes(), b.sizes()); }

}  // namespace airank_fast
