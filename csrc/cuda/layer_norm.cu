// Layer normalisation on the GPU: chooses the kernel for the dtypes and the grid for the shape. Free of torch, so that
// tests can compile it for the CPU.
#include "layer_norm.h"

#include "layer_norm_launch.h"

namespace airank_fast {

cudaError_t launch_layer_norm(const LayerNormRows& r, double eps, void* result, cudaStream_t stream) {
  return for_dtypes<true>(r.x_dtype, r.y_dtype, r.weight_dtype, [&]<typename X, typename Y, typename W>() {
    constexpr int kVec = 16 / sizeof(X);
    const PlainRows<X> in{static_cast<const X*>(r.x)};
    Y* y = static_cast<Y*>(result);
    const bool packs = fits_packs<kVec>(r.columns, in.x, y, static_cast<const W*>(r.weight),
                                        static_cast<const W*>(r.bias));
    return packs ? launch_rows<kVec, PlainRows<X>, W>(r, in, eps, y, stream)
                 : launch_rows<1, PlainRows<X>, W>(r, in, eps, y, stream);
  });
}

cudaError_t launch_layer_norm_backward(const LayerNormRows& r, const LayerNormGrads& g, cudaStream_t stream) {
  return for_dtypes<true>(r.x_dtype, r.y_dtype, r.weight_dtype, [&]<typename X, typename Y, typename W>() {
    constexpr int kVec = 16 / sizeof(X);
    const PlainGrads<X> out{static_cast<X*>(g.grad_x)};
    const bool packs = fits_packs<kVec>(r.columns, static_cast<const X*>(r.x), static_cast<const Y*>(g.grad),
                                        out.grad_x, static_cast<const W*>(r.weight),
                                        static_cast<const math_t<X>*>(g.partials));
    return packs ? launch_rows_backward<kVec, PlainGrads<X>, Y, X, W>(r, g, out, stream)
                 : launch_rows_backward<1, PlainGrads<X>, Y, X, W>(r, g, out, stream);
  });
}

}  // namespace airank_fast
