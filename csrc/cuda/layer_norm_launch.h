// Shared by the launchers of ops that end in a layer norm: grids, dtypes.
#pragma once

#include "layer_norm.cuh"
#include "layer_norm.h"
#include "layer_norm_grid.h"

namespace airank_fast {

static_assert(kBlockThreads == kRowThreads);
static_assert(kResidentBackwardBlocks == kBackwardBlocks<float>);
static_assert(kBackwardElements == kBackwardPacks<8> * 8 && kBackwardElements == kBackwardPacks<4> * 4 &&
              kBackwardElements == kBackwardPacks<2> * 2 && kBackwardElements >= kBackwardPacks<1>);

// Whether rows can be taken in packs of kVec: of every address given, null ones aside.
template <int kVec, typename... P>
bool fits_packs(int64_t columns, const P*... pointers) {
  return columns % kVec == 0 && (is_aligned<kVec>(pointers) && ...);
}

template <int kVec, typename In, typename W, typename Y>
cudaError_t launch_rows(const LayerNormRows& r, In in, double eps, Y* y, cudaStream_t stream) {
  if (r.rows == 0) return cudaSuccess;
  if (r.columns > INT32_MAX / 2) return cudaErrorInvalidValue;
  using T = typename In::T;
  const int threads = threads_per_row(r.columns, kForwardPacks<kVec> * kVec);
  const int rows_per_block = kRowThreads / threads;
  return launch(layer_norm_kernel<kVec, In, W, Y>, dim3(unsigned(ceil_div(r.rows, rows_per_block))),
                dim3(threads, rows_per_block), 0, stream, in, static_cast<const W*>(r.weight),
                static_cast<const W*>(r.bias), y, static_cast<T*>(r.mean), static_cast<T*>(r.rstd), r.rows,
                int(r.columns), eps);
}

template <int kVec, typename Out, typename G, typename X, typename W>
cudaError_t launch_rows_backward(const LayerNormRows& r, const LayerNormGrads& g, Out out, cudaStream_t stream) {
  using T = typename Out::T;
  if (r.columns > INT32_MAX / 2) return cudaErrorInvalidValue;
  T* partials = static_cast<T*>(g.partials);
  if (r.rows > 0) {
    const int threads = threads_per_row(r.columns, kBackwardPacks<kVec> * kVec);
    const size_t smem_bytes = threads < kRowThreads ? 2 * r.columns * sizeof(T) : 0;
    const cudaError_t error =
        launch(layer_norm_backward_kernel<kVec, Out, G, X, W>, dim3(unsigned(g.num_blocks)),
               dim3(threads, kRowThreads / threads), smem_bytes, stream, static_cast<const G*>(g.grad),
               static_cast<const X*>(r.x), static_cast<const T*>(r.mean), static_cast<const T*>(r.rstd),
               static_cast<const W*>(r.weight), out, partials, r.rows, int(r.columns));
    if (error != cudaSuccess) return error;
  }
  if (g.grad_weight == nullptr || r.columns == 0) return cudaSuccess;
  return launch(sum_partials_kernel<T, W>, dim3(unsigned(ceil_div(r.columns, kSumColumns)), 2), dim3(kRowThreads), 0,
                stream, partials, r.rows > 0 ? int(g.num_blocks) : 0, int(r.columns), static_cast<W*>(g.grad_weight),
                static_cast<W*>(g.grad_bias));
}

// Calls f.template operator()<Wide, Narrow, Weight>() for the dtypes that the ops have: wide and narrow alike, or
// float32 beside 16 bits; parameters of the narrow type (kWideParams: of the wide one), or float32.
template <bool kWideParams, typename F>
cudaError_t for_dtypes(Dtype wide, Dtype narrow, Dtype weight, F f) {
  const auto narrowed = [&]<typename N>() {
    if (wide == Dtype::kFloat32) {
      if (kWideParams || weight == Dtype::kFloat32) return f.template operator()<float, N, float>();
      if constexpr (!kWideParams) return f.template operator()<float, N, N>();
    }
    return weight == Dtype::kFloat32 ? f.template operator()<N, N, float>() : f.template operator()<N, N, N>();
  };
  switch (narrow) {
    case Dtype::kFloat64: return f.template operator()<double, double, double>();
    case Dtype::kFloat32: return f.template operator()<float, float, float>();
    case Dtype::kBFloat16: return narrowed.template operator()<__nv_bfloat16>();
    case Dtype::kFloat16: return narrowed.template operator()<Half>();
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace airank_fast
