// layer_norm(dropout(x) + residual) on the GPU: chooses the kernel for the dtypes and the grid for the shape. Free of
// torch, so that tests can compile it for the CPU.
#include "dropout_add_layer_norm.h"

#include "dropout_add_layer_norm.cuh"
#include "layer_norm_launch.h"

namespace airank_fast {

cudaError_t launch_dropout_add_layer_norm(const LayerNormRows& r, const DropoutAdd& add, double eps,
                                          cudaStream_t stream) {
  return for_dtypes<false>(r.x_dtype, r.y_dtype, r.weight_dtype, [&]<typename R, typename X, typename W>() {
    constexpr int kVec = 16 / sizeof(R);
    using In = SumRows<X, R>;
    const In in{static_cast<const X*>(add.x), static_cast<const R*>(add.residual), static_cast<R*>(add.sum),
                {dropout_of<math_t<X>>(add.p), add.seed}};
    X* y = static_cast<X*>(add.y);
    const bool packs = fits_packs<kVec>(r.columns, in.x, in.residual, in.sum, y, static_cast<const W*>(r.weight),
                                        static_cast<const W*>(r.bias));
    return packs ? launch_rows<kVec, In, W>(r, in, eps, y, stream) : launch_rows<1, In, W>(r, in, eps, y, stream);
  });
}

cudaError_t launch_dropout_add_layer_norm_backward(const LayerNormRows& r, const LayerNormGrads& g,
                                                   const DropoutAdd& add, cudaStream_t stream) {
  return for_dtypes<false>(r.x_dtype, r.y_dtype, r.weight_dtype, [&]<typename R, typename X, typename W>() {
    constexpr int kVec = 16 / sizeof(R);
    using Out = SumGrads<X, R>;
    const Out out{static_cast<const R*>(add.grad_sum), static_cast<X*>(g.grad_x), static_cast<R*>(add.grad_residual),
                  {dropout_of<math_t<X>>(add.p), add.seed}};
    const bool packs = fits_packs<kVec>(r.columns, static_cast<const R*>(r.x), static_cast<const X*>(g.grad),
                                        out.grad_sum, out.grad_x, out.grad_residual, static_cast<const W*>(r.weight),
                                        static_cast<const math_t<X>*>(g.partials));
    return packs ? launch_rows_backward<kVec, Out, X, R, W>(r, g, out, stream)
                 : launch_rows_backward<1, Out, X, R, W>(r, g, out, stream);
  });
}

}  // namespace airank_fast
