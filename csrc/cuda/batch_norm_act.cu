// Batch norm on the GPU: chooses the kernels for dtype and alignment, and the grids. Free of torch, so that tests can
// compile it for the CPU.
#include "batch_norm_act.h"

#include "batch_norm_act.cuh"
#include "batch_norm_act_launch.h"

namespace airank_fast {
namespace {

template <typename T>
cudaError_t combine(const void* parts, int64_t num_parts, int64_t channels, void* out, const BatchNormFinish& finish,
                    cudaStream_t stream) {
  const int64_t blocks = std::max<int64_t>(1, ceil_div(channels, kCombineChannels));
  return launch(batch_norm_combine_kernel<T>, dim3(unsigned(blocks)), dim3(kCombineChannels, kCombineLanes), 0,
                stream, static_cast<const T*>(parts), num_parts, channels, static_cast<T*>(out), finish);
}

BatchNormFinish finish_of(const BatchNormRunningAddresses& running) {
  return {true,           running.mean,     running.var, running.num_batches, running.cumulative,
          running.momentum, running.eps};
}

}  // namespace

int64_t batch_norm_num_parts(const BatchNormInput& input) {
  if (input.rows == 0 || input.channels == 0) return 0;
  const int blocks = input.dtype == Dtype::kFloat64 ? kBatchNormBlocks<double> : kBatchNormBlocks<float>;
  return num_block_rows(input, int(16 / dtype_bytes(input.dtype)), blocks);
}

cudaError_t launch_batch_norm_moments(const BatchNormInput& input, void* parts, void* out,
                                      const BatchNormRunningAddresses* running, cudaStream_t stream) {
  const int64_t num_parts = batch_norm_num_parts(input);
  int64_t* num_batches = running ? running->num_batches : nullptr;
  if (num_parts == 0 && num_batches) {
    const cudaError_t error = launch(batch_norm_count_kernel, dim3(1), dim3(1), 0, stream, num_batches);
    if (error != cudaSuccess) return error;
  }
  return with_pack(input, {input.x}, [&](auto element, auto pack) {
    using E = decltype(element);
    using T = math_t<E>;
    constexpr int kPack = pack.value;
    if (num_parts > 0) {
      const Grid grid = grid_of(input, kPack, num_parts);
      const cudaError_t error =
          launch(batch_norm_moments_kernel<E, kPack>, grid.blocks, grid.threads, 0, stream,
                 static_cast<const E*>(input.x), BatchNormShape{input.rows, input.channels}, static_cast<T*>(parts),
                 num_batches);
      if (error != cudaSuccess) return error;
    }
    const BatchNormFinish finish = running ? finish_of(*running) : BatchNormFinish{};
    return combine<T>(parts, num_parts, input.channels, out, finish, stream);
  });
}

cudaError_t launch_batch_norm_finish(const void* moments, int64_t num_parts, int64_t channels, Dtype dtype,
                                     void* statistics, const BatchNormRunningAddresses& running,
                                     cudaStream_t stream) {
  if (running.num_batches) {
    const cudaError_t error = launch(batch_norm_count_kernel, dim3(1), dim3(1), 0, stream, running.num_batches);
    if (error != cudaSuccess) return error;
  }
  const BatchNormFinish finish = finish_of(running);
  if (dtype == Dtype::kFloat64) return combine<double>(moments, num_parts, channels, statistics, finish, stream);
  return combine<float>(moments, num_parts, channels, statistics, finish, stream);
}

cudaError_t launch_batch_norm_act(const BatchNormInput& input, const void* residual, const void* weight,
                                  const void* bias, const void* statistics, double negative_slope, void* y,
                                  void* mask, cudaStream_t stream) {
  if (input.rows == 0 || input.channels == 0) return cudaSuccess;
  return with_pack(input, {input.x, residual, y}, [&](auto element, auto pack) {
    using E = decltype(element);
    using T = math_t<E>;
    constexpr int kPack = pack.value;
    const int blocks = residual ? kBatchNormBlocks<E, true> : kBatchNormBlocks<E>;
    const Grid grid = grid_of(input, kPack, num_block_rows(input, kPack, blocks));
    const auto kernel = residual ? batch_norm_act_kernel<E, kPack, true> : batch_norm_act_kernel<E, kPack, false>;
    return launch(kernel, grid.blocks, grid.threads, 0, stream, static_cast<const E*>(input.x),
                  static_cast<const E*>(residual), static_cast<E*>(y), static_cast<Byte*>(mask),
                  BatchNormShape{input.rows, input.channels}, static_cast<const T*>(statistics),
                  static_cast<const T*>(weight), static_cast<const T*>(bias), T(negative_slope));
  });
}

cudaError_t launch_batch_norm_sums(const BatchNormInput& input, const void* dy, const void* mask,
                                   const void* statistics, double negative_slope, void* parts, void* sums,
                                   cudaStream_t stream) {
  if (input.channels == 0) return cudaSuccess;
  const int64_t num_parts = batch_norm_num_parts(input);
  return with_pack(input, {input.x, dy}, [&](auto element, auto pack) {
    using E = decltype(element);
    using T = math_t<E>;
    constexpr int kPack = pack.value;
    if (num_parts > 0) {
      const Grid grid = grid_of(input, kPack, num_parts);
      const cudaError_t error =
          launch(batch_norm_sums_kernel<E, kPack>, grid.blocks, grid.threads, 0, stream, static_cast<const E*>(dy),
                 static_cast<const E*>(input.x), static_cast<const Byte*>(mask),
                 BatchNormShape{input.rows, input.channels}, static_cast<const T*>(statistics), T(negative_slope),
                 static_cast<T*>(parts));
      if (error != cudaSuccess) return error;
    }
    const int64_t blocks = ceil_div(2 * input.channels, kCombineChannels);
    return launch(batch_norm_add_kernel<T>, dim3(unsigned(blocks)), dim3(kCombineChannels, kCombineLanes), 0, stream,
                  static_cast<const T*>(parts), num_parts, input.channels, static_cast<const T*>(statistics),
                  static_cast<T*>(sums));
  });
}

cudaError_t launch_batch_norm_backward(const BatchNormInput& input, const void* dy, const void* mask,
                                       const void* weight, const void* statistics, const void* sums,
                                       double negative_slope, void* dx, void* dresidual, cudaStream_t stream) {
  if (input.rows == 0 || input.channels == 0) return cudaSuccess;
  return with_pack(input, {input.x, dy, dx, dresidual}, [&](auto element, auto pack) {
    using E = decltype(element);
    using T = math_t<E>;
    constexpr int kPack = pack.value;
    const Grid grid = grid_of(input, kPack, num_block_rows(input, kPack, kBatchNormBlocks<E, true>));
    const auto kernel =
        dresidual ? batch_norm_backward_kernel<E, kPack, true> : batch_norm_backward_kernel<E, kPack, false>;
    return launch(kernel, grid.blocks, grid.threads, 0, stream, static_cast<const E*>(dy),
                  static_cast<const E*>(input.x), static_cast<const Byte*>(mask), static_cast<E*>(dx),
                  static_cast<E*>(dresidual), BatchNormShape{input.rows, input.channels},
                  static_cast<const T*>(statistics), static_cast<const T*>(weight), static_cast<const T*>(sums),
                  T(negative_slope));
  });
}

}  // namespace airank_fast
