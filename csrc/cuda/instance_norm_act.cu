// Instance norm on the GPU: chooses the kernels for layout, dtype and alignment, and the grids. Free of torch, so that
// tests can compile it for the CPU.
#include "instance_norm_act.h"

#include "batch_norm_act_launch.h"
#include "instance_norm_act.cuh"

namespace airank_fast {
namespace {

// As batch norm's launchers see it: in channels_last rows of pixels, else planes, whose numbers come in packs.
BatchNormInput input_of(const InstanceNormLaunch& work) {
  if (work.channels_last) return {work.x, work.pixels, work.channels, work.dtype, work.pictures};
  return {work.x, work.pictures * work.channels, work.pixels, work.dtype};
}

PlaneShape shape_of(const InstanceNormLaunch& work) { return {work.channels, work.pixels}; }

BatchNormShape rows_of(const InstanceNormLaunch& work) { return {work.pixels, work.channels}; }

// Two packs a thread, more where the block has no more threads.
dim3 plane_block(const InstanceNormLaunch& work, int pack) {
  const int64_t threads = ceil_div(ceil_div(work.pixels / pack, 2), 32) * 32;
  return dim3(unsigned(std::clamp<int64_t>(threads, 32, kPlaneThreads)));
}

dim3 planes(const InstanceNormLaunch& work) { return dim3(unsigned(work.pictures * work.channels)); }

template <typename E>
const E* as(const void* address) { return static_cast<const E*>(address); }

dim3 combining_blocks(const InstanceNormLaunch& work, int64_t numbers) {
  return dim3(unsigned(ceil_div(numbers, kCombineChannels)), 1, unsigned(work.pictures));
}

constexpr dim3 kCombining(kCombineChannels, kCombineLanes);

}  // namespace

int64_t instance_norm_num_parts(const InstanceNormLaunch& work) {
  if (!work.channels_last || work.pictures == 0) return 0;
  return num_block_rows(input_of(work), int(16 / dtype_bytes(work.dtype)), 2);
}

cudaError_t launch_instance_norm_act(const InstanceNormLaunch& work, const void* residual, double eps, void* parts,
                                     void* statistics, void* y, cudaStream_t stream) {
  if (work.pictures == 0) return cudaSuccess;
  return with_pack(input_of(work), {work.x, residual, y}, [&](auto element, auto pack) {
    using E = decltype(element);
    using T = math_t<E>;
    constexpr int kPack = pack.value;
    const E *x = as<E>(work.x), *added = as<E>(residual);
    E* result = static_cast<E*>(y);
    const T *weight = as<T>(work.weight), *bias = as<T>(work.bias);
    T* numbers = static_cast<T*>(statistics);
    const T slope = T(work.negative_slope);
    if (!work.channels_last) {
      const auto kernel =
          residual ? instance_norm_plane_kernel<E, kPack, true> : instance_norm_plane_kernel<E, kPack, false>;
      return launch(kernel, planes(work), plane_block(work, kPack), 0, stream, x, added, result, shape_of(work),
                    weight, bias, slope, eps, numbers);
    }
    const int64_t num_parts = instance_norm_num_parts(work);
    const Grid grid = grid_of(input_of(work), kPack, num_parts);
    cudaError_t error = launch(batch_norm_moments_kernel<E, kPack>, grid.blocks, grid.threads, 0, stream, x,
                               rows_of(work), static_cast<T*>(parts), nullptr);
    if (error != cudaSuccess) return error;
    BatchNormFinish finish{};
    finish.statistics = true;
    finish.eps = eps;
    finish.with_count = false;
    error = launch(batch_norm_combine_kernel<T>, combining_blocks(work, work.channels), kCombining, 0, stream,
                   as<T>(parts), num_parts, work.channels, numbers, finish);
    if (error != cudaSuccess) return error;
    const auto kernel = residual ? batch_norm_act_kernel<E, kPack, true> : batch_norm_act_kernel<E, kPack, false>;
    return launch(kernel, grid.blocks, grid.threads, 0, stream, x, added, result, nullptr, rows_of(work), numbers,
                  weight, bias, slope);
  });
}

cudaError_t launch_instance_norm_act_backward(const InstanceNormLaunch& work, const void* dy, const void* y,
                                              const void* statistics, void* parts, void* sums, void* dx,
                                              void* dresidual, cudaStream_t stream) {
  if (work.pictures == 0) return cudaSuccess;
  return with_pack(input_of(work), {work.x, dy, y, dx, dresidual}, [&](auto element, auto pack) {
    using E = decltype(element);
    using T = math_t<E>;
    constexpr int kPack = pack.value;
    const E *x = as<E>(work.x), *gradient = as<E>(dy), *result = as<E>(y);
    E *to = static_cast<E*>(dx), *to_residual = static_cast<E*>(dresidual);
    const T *weight = as<T>(work.weight), *bias = as<T>(work.bias), *numbers = as<T>(statistics);
    T* totals = static_cast<T*>(sums);
    const T slope = T(work.negative_slope);
    if (!work.channels_last) {
      const auto kernel =
          y ? instance_norm_plane_backward_kernel<E, kPack, true> : instance_norm_plane_backward_kernel<E, kPack, false>;
      return launch(kernel, planes(work), plane_block(work, kPack), 0, stream, gradient, x, result, to, to_residual,
                    shape_of(work), weight, bias, numbers, slope, totals);
    }
    const int64_t num_parts = instance_norm_num_parts(work);
    const Grid grid = grid_of(input_of(work), kPack, num_parts);
    const auto sums_kernel = y ? instance_norm_sums_kernel<E, kPack, true> : instance_norm_sums_kernel<E, kPack, false>;
    cudaError_t error = launch(sums_kernel, grid.blocks, grid.threads, 0, stream, gradient, x, result, rows_of(work),
                               weight, bias, numbers, slope, static_cast<T*>(parts));
    if (error != cudaSuccess) return error;
    error = launch(batch_norm_add_kernel<T>, combining_blocks(work, 2 * work.channels), kCombining, 0, stream,
                   as<T>(parts), num_parts, work.channels, numbers, totals);
    if (error != cudaSuccess) return error;
    const auto kernel =
        y ? instance_norm_backward_kernel<E, kPack, true> : instance_norm_backward_kernel<E, kPack, false>;
    return launch(kernel, grid.blocks, grid.threads, 0, stream, gradient, x, result, to, to_residual, rows_of(work),
                  weight, bias, numbers, totals, slope);
  });
}

}  // namespace airank_fast
