// airank_fast::fm and its backward for CUDA tensors: checks, addresses, the current stream; the work is in fm.cu.
#include "../fm_args.h"
#include "binding.h"
#include "fm.h"

namespace airank_fast {
namespace {

FmLaunch describe(const Tensor& x, const Tensor& result) {
  FmLaunch work;
  work.dtype = dtype_of(x);
  work.samples = fm_samples(x);
  work.fields = x.size(x.dim() - 2);
  work.dim = x.size(x.dim() - 1);
  work.x = x.data_ptr();
  work.result = result.data_ptr();
  return work;
}

Tensor fm_cuda(Tensor x) {
  check_fm(x);
  const OnDevice device(x);
  x = as_contiguous(x);
  Tensor result = empty_beside(x, fm_sizes(x), fm_dtype(x));
  check_launch("fm", launch_fm(describe(x, result), device.stream()));
  return result;
}

Tensor fm_backward_cuda(Tensor grad, Tensor x) {
  check_fm_backward(grad, x);
  const OnDevice device(x);
  grad = as_contiguous(grad);
  x = as_contiguous(x);
  Tensor dx = empty_beside(x, x.sizes());
  if (x.numel() == 0) return dx;
  FmLaunch work = describe(x, dx);
  work.grad = grad.data_ptr();
  check_launch("fm_backward", launch_fm_backward(work, device.stream()));
  return dx;
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("fm", TORCH_BOX(&airank_fast::fm_cuda));
  m.impl("fm_backward", TORCH_BOX(&airank_fast::fm_backward_cuda));
}
