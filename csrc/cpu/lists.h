// Shared by the optimizers' loops: addresses and dtypes of lists of tensors, and the elements of a whole list as one
// range.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "../tensor_lists.h"
#include "numbers.h"

namespace airank_fast {

// Of a list's tensors; null pointers for an empty list beside `params`.
inline std::vector<void*> addresses(const TensorList& list, const TensorList& params) {
  std::vector<void*> result(params.size());
  for (size_t i = 0; i < list.size(); ++i) result[i] = list[i].data_ptr();
  return result;
}

inline double value_of(const Tensor& scalar) {
  return scalar.scalar_type() == ScalarType::Double ? *static_cast<const double*>(scalar.data_ptr())
                                                    : *static_cast<const float*>(scalar.data_ptr());
}

// Calls `run.operator()<P, G, C>()` with the types of parameters, gradients and 16-bit copies (NoCopy for none): those
// that check_dtypes() accepts.
template <typename G, typename Run>
void with_copy_type(const TensorList& copies, Run run) {
  if (copies.empty()) return run.template operator()<float, G, NoCopy>();
  if constexpr (!std::is_same_v<G, float>) run.template operator()<float, G, G>();
  else if (copies[0].scalar_type() == ScalarType::BFloat16) run.template operator()<float, G, bfloat16>();
  else run.template operator()<float, G, float16>();
}

template <typename Run>
void with_optimizer_types(const TensorList& params, const TensorList& grads, const TensorList& copies, Run run) {
  switch (params[0].scalar_type()) {
    case ScalarType::Double: return run.template operator()<double, double, NoCopy>();
    case ScalarType::BFloat16: return run.template operator()<bfloat16, bfloat16, NoCopy>();
    case ScalarType::Half: return run.template operator()<float16, float16, NoCopy>();
    default: break;
  }
  switch (grads[0].scalar_type()) {
    case ScalarType::BFloat16: return with_copy_type<bfloat16>(copies, run);
    case ScalarType::Half: return with_copy_type<float16>(copies, run);
    default: return with_copy_type<float>(copies, run);
  }
}

// The elements of all tensors as one range, divided evenly among the threads, so that a list of many small tensors
// needs one parallel region.
class ElementRange {
 public:
  explicit ElementRange(const TensorList& list) {
    for (size_t i = 0; i < list.size(); ++i) {
      const int64_t size = list[i].numel();
      if (size == 0) continue;
      pieces_.push_back({static_cast<int64_t>(i), total_, size});
      total_ += size;
    }
  }

  // Calls f(number of the tensor, begin, end) for parts of tensors, in parallel.
  template <typename F>
  void for_each(F f) const {
    if (pieces_.empty()) return;
    torch::stable::parallel_for(0, total_, kGrain, [&](int64_t begin, int64_t end) {
      auto piece = std::upper_bound(pieces_.begin(), pieces_.end(), begin,
                                    [](int64_t at, const Piece& p) { return at < p.first + p.size; });
      for (; piece != pieces_.end() && piece->first < end; ++piece) {
        const auto inside = [&](int64_t at) {
          return at >= piece->first + piece->size ? piece->size
                                                  : std::max<int64_t>(0, at - piece->first) / kAlignment * kAlignment;
        };
        f(piece->tensor, inside(begin), inside(end));
      }
    });
  }

 private:
  // Boundaries between two threads are multiples of this, so that both have aligned vectors.
  static constexpr int64_t kAlignment = 64;
  static constexpr int64_t kGrain = 1 << 14;  // fewer are not worth a thread

  struct Piece {
    int64_t tensor;
    int64_t first;  // position of element 0 in the range
    int64_t size;
  };

  std::vector<Piece> pieces_;
  int64_t total_ = 0;
};

}  // namespace airank_fast
