// airank_fast::global_norm for CUDA tensors: checks, addresses, the current stream; the work is in global_norm.cu.
#include <vector>

#include "binding.h"
#include "global_norm.h"

namespace airank_fast {
namespace {

Tensor global_norm_cuda(TensorList tensors) {
  check_tensors("global_norm", tensors);
  const OnDevice device(tensors[0]);
  std::vector<int64_t> sizes;
  std::vector<Dtype> dtypes;
  for (Tensor& tensor : tensors) {
    if (!is_dense(tensor)) tensor = as_contiguous(tensor);
    sizes.push_back(tensor.numel());
    dtypes.push_back(dtype_of(tensor));
  }
  const std::vector<void*> data = addresses_of(tensors);
  NormLaunch launch;
  launch.num_tensors = static_cast<int64_t>(sizes.size());
  launch.sizes = sizes.data();
  launch.data = data.data();
  launch.dtypes = dtypes.data();
  Tensor workspace = empty_beside(
      tensors[0], {norm_workspace(launch.num_tensors, launch.sizes)}, ScalarType::Double);
  Tensor norm = empty_beside(tensors[0], {}, ScalarType::Double);
  launch.workspace = static_cast<double*>(workspace.data_ptr());
  launch.norm = static_cast<double*>(norm.data_ptr());
  check_launch("global_norm", launch_norm(launch, device.stream()));
  return norm;
}

}  // namespace
}  // namespace airank_fast

CUDA_KERNELS(m) {
  m.impl("global_norm", TORCH_BOX(&airank_fast::global_norm_cuda));
}
