// The launchers of the factorization machine's second-order term: embeddings shorter and longer than a warp, widths that
// leave threads over, and samples that do not fill a block.
#include "cuda/fm.h"
#include "cuda/fm.cuh"
#include "kernel_test.h"

namespace airank_fast {
namespace {

template <typename T>
void check(int64_t samples, int64_t fields, int64_t dim) {
  using M = math_t<T>;
  const size_t size = size_t(samples * fields * dim);
  Array<T> x = Array<T>::random(size), dx(size);
  const size_t rows = size_t(samples);
  Array<M> grad = Array<M>::random(rows), result(rows);
  std::vector<double> want(rows, 0.0), want_dx(size);
  for (int64_t i = 0; i < samples; ++i)
    for (int64_t d = 0; d < dim; ++d) {
      const auto at = [&](int64_t f) { return size_t((i * fields + f) * dim + d); };
      double sum = 0, squares = 0;
      for (int64_t f = 0; f < fields; ++f) sum += x.get(at(f)), squares += x.get(at(f)) * x.get(at(f));
      want[size_t(i)] += (sum * sum - squares) / 2;
      for (int64_t f = 0; f < fields; ++f) want_dx[at(f)] = grad.get(size_t(i)) * (sum - x.get(at(f)));
    }

  FmLaunch work;
  work.dtype = DtypeOf<T>::value;
  work.samples = samples;
  work.fields = fields;
  work.dim = dim;
  work.x = x.data();
  work.result = result.data();
  check_success("fm", launch_fm(work, nullptr));
  work.grad = grad.data();
  work.result = dx.data();
  check_success("fm_backward", launch_fm_backward(work, nullptr));

  check_close("fm", result, want, 64 * kEpsilon<M>);
  check_close("fm: dx", dx, want_dx, 16 * kEpsilon<M> + 2 * kEpsilon<T>);
}

template <typename T>
void kernels() {
  check<T>(9, 7, 10);
  check<T>(3, 2, 1);
  check<T>(1, 5, 33);
  check<T>(2, 3, 64);
}

void cases() {
  kernels<float>();
  kernels<double>();
  kernels<__nv_bfloat16>();
  kernels<Half>();
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
