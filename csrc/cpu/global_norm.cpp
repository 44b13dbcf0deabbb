// The norm over all elements of a list of tensors, on the CPU: one pass, sums per chunk, added in order.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <vector>

#include "chunks.h"
#include "isa.h"
#include "numbers.h"

namespace airank_fast {
namespace {

template <typename P>
struct SquaresLoop {
  using T = math_t<P>;
  using Signature = void(const void*, int64_t, int64_t, double*);
  static constexpr int kBlock = Squares<T>::kLanes;

  HOST_DEVICE static void block(const P* __restrict x, int size, Squares<T>& squares) {
    for (int k = 0; k < size; ++k) squares.lane[k] += load(x[k]) * load(x[k]);
  }

  HOST_DEVICE static void run(const void* data, int64_t begin, int64_t end, double* sum) {
    const P* x = static_cast<const P*>(data);
    Squares<T> squares;
    int64_t i = begin;
    for (; i + kBlock <= end; i += kBlock) block(x + i, kBlock, squares);
    block(x + i, int(end - i), squares);
    *sum = squares.total();
  }
};

using Loop = void (*)(const void*, int64_t, int64_t, double*);

Loop loop_for(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double: return choose<SquaresLoop<double>>();
    case ScalarType::BFloat16: return choose<SquaresLoop<bfloat16>>();
    case ScalarType::Half: return choose<SquaresLoop<float16>>();
    default: return choose<SquaresLoop<float>>();
  }
}

Tensor global_norm_cpu(TensorList tensors) {
  check_tensors("global_norm", tensors);
  for (Tensor& tensor : tensors)
    if (!is_dense(tensor)) tensor = as_contiguous(tensor);
  const Chunks chunks(tensors);
  const std::vector<void*> data = addresses(tensors, tensors);
  std::vector<Loop> loops;
  loops.reserve(tensors.size());
  for (const Tensor& tensor : tensors) loops.push_back(loop_for(tensor.scalar_type()));
  std::vector<double> sums(chunks.count());
  chunks.for_each(0, chunks.num_tensors(), false, [&](int64_t chunk, int64_t t, int64_t begin, int64_t end) {
    loops[t](data[t], begin, end, &sums[chunk]);
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  Tensor norm = empty_beside(tensors[0], {}, ScalarType::Double);
  *static_cast<double*>(norm.data_ptr()) = std::sqrt(total);
  return norm;
}

}  // namespace
}  // namespace airank_fast

STABLE_TORCH_LIBRARY_IMPL(airank_fast, CPU, m) {
  m.impl("global_norm", TORCH_BOX(&airank_fast::global_norm_cpu));
}
