// Bias + GELU on the GPU: chooses the kernel for dtype, approximation and alignment, and cuts the rows into chunks.
// Free of torch, so that tests can compile it for the CPU.
#include "bias_gelu.h"

#include "bias_gelu.cuh"

namespace airank_fast {
namespace {

constexpr dim3 kBlock(kBiasGeluThreads);
constexpr int64_t kMaxChunks = 1024;  // grid.y allows 65,535; more blocks than these gain nothing

// So many that every thread has several packs in flight and seldom reads its columns' bias; so few that each of an
// H200's multiprocessors gets 8 blocks of 4096 x 4096 16-bit numbers, with 1 MB of partial sums.
int64_t rows_per_chunk(int64_t rows) {
  constexpr int64_t kRows = 64, kStep = kBiasGeluWarps * kBiasGeluUnroll<float>;
  const int64_t needed = ceil_div(ceil_div(rows, kMaxChunks), kStep) * kStep;
  return needed > kRows ? needed : kRows;
}

template <typename T, int kPack>
bool fits(const BiasGeluLaunch& work) {
  const auto aligned = [](const void* pointer) { return is_aligned<kPack>(static_cast<const T*>(pointer)); };
  return work.columns % kPack == 0 && aligned(work.x) && aligned(work.grad) && aligned(work.result);
}

BiasGeluTask task_of(const BiasGeluLaunch& work, int64_t rows) {
  return {work.grad,  work.x,       work.bias, work.result, work.partial, work.rows, work.columns, rows,
          work.bias_dtype == Dtype::kFloat32};
}

template <typename T, int kPack>
dim3 grid_of(const BiasGeluLaunch& work, int64_t rows) {
  return dim3(unsigned(ceil_div(work.columns, 32 * kPack)), unsigned(ceil_div(work.rows, rows)));
}

template <bool kTanh, int kPack, typename T>
cudaError_t forward(const BiasGeluLaunch& work, cudaStream_t stream) {
  const int64_t rows = rows_per_chunk(work.rows);
  return launch(bias_gelu_kernel<kTanh, kPack, T>, grid_of<T, kPack>(work, rows), kBlock, 0, stream,
                task_of(work, rows));
}

template <typename M, typename B>
cudaError_t add_chunks(const BiasGeluLaunch& work, cudaStream_t stream) {
  return launch(bias_gelu_sum_kernel<M, B>, dim3(unsigned(ceil_div(work.columns, 32))), kBlock, 0, stream,
                static_cast<const M*>(work.partial), bias_gelu_chunks(work.rows), work.columns,
                static_cast<B*>(work.bias_gradient));
}

template <bool kTanh, int kPack, typename T>
cudaError_t backward(const BiasGeluLaunch& work, cudaStream_t stream) {
  const int64_t rows = rows_per_chunk(work.rows);
  const cudaError_t error = launch(bias_gelu_backward_kernel<kTanh, kPack, T>, grid_of<T, kPack>(work, rows), kBlock,
                                   0, stream, task_of(work, rows));
  if (error != cudaSuccess) return error;
  if (work.bias_dtype == work.dtype) return add_chunks<math_t<T>, T>(work, stream);
  if constexpr (sizeof(T) == 2) return add_chunks<float, float>(work, stream);
  return cudaErrorInvalidValue;
}

template <bool kTanh, typename T>
cudaError_t choose_pack(const BiasGeluLaunch& work, bool is_backward, cudaStream_t stream) {
  constexpr int kPack = 16 / sizeof(T);
  if (fits<T, kPack>(work))
    return is_backward ? backward<kTanh, kPack, T>(work, stream) : forward<kTanh, kPack, T>(work, stream);
  return is_backward ? backward<kTanh, 1, T>(work, stream) : forward<kTanh, 1, T>(work, stream);
}

template <typename T>
cudaError_t choose_tanh(const BiasGeluLaunch& work, bool is_backward, cudaStream_t stream) {
  return work.tanh ? choose_pack<true, T>(work, is_backward, stream)
                   : choose_pack<false, T>(work, is_backward, stream);
}

cudaError_t choose_dtype(const BiasGeluLaunch& work, bool is_backward, cudaStream_t stream) {
  if (work.rows == 0 || work.columns == 0) return cudaSuccess;
  switch (work.dtype) {
    case Dtype::kFloat32: return choose_tanh<float>(work, is_backward, stream);
    case Dtype::kFloat64: return choose_tanh<double>(work, is_backward, stream);
    case Dtype::kBFloat16: return choose_tanh<__nv_bfloat16>(work, is_backward, stream);
    case Dtype::kFloat16: return choose_tanh<Half>(work, is_backward, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace

int64_t bias_gelu_chunks(int64_t rows) { return ceil_div(rows, rows_per_chunk(rows)); }

cudaError_t launch_bias_gelu(const BiasGeluLaunch& work, cudaStream_t stream) {
  return choose_dtype(work, false, stream);
}

cudaError_t launch_bias_gelu_backward(const BiasGeluLaunch& work, cudaStream_t stream) {
  return choose_dtype(work, true, stream);
}

}  // namespace airank_fast
