// The batch norm launchers as plain C++, for the torch registration and the tests.
// Every function enqueues on `stream` of the current device, without waiting.
#pragma once

#include "arguments.h"

namespace airank_fast {

struct BatchNormInput {
  const void* x = nullptr;  // [rows, channels]
  int64_t rows = 0;
  int64_t channels = 0;
  Dtype dtype = Dtype::kFloat32;  // of x; numbers per channel are float32, or float64 beside float64
  int64_t pictures = 1;           // of so many rows each, with statistics of their own: instance norm's
};

struct BatchNormRunningAddresses {
  void* mean = nullptr;
  void* var = nullptr;
  int64_t* num_batches = nullptr;
  bool cumulative = false;
  double momentum = 0;
  double eps = 0;
};

// The number of rows of partial results that the reductions of this input write; at most 65535.
int64_t batch_norm_num_parts(const BatchNormInput& input);

// parts [num_parts, 2 channels + 1] -> out [2 channels + 1]: moments, or with `running` statistics.
cudaError_t launch_batch_norm_moments(const BatchNormInput& input, void* parts, void* out,
                                      const BatchNormRunningAddresses* running, cudaStream_t stream);

// moments [num_parts, 2 channels + 1] of one dtype -> statistics.
cudaError_t launch_batch_norm_finish(const void* moments, int64_t num_parts, int64_t channels, Dtype dtype,
                                     void* statistics, const BatchNormRunningAddresses& running,
                                     cudaStream_t stream);

// negative_slope is that of the activation, 1 without one. residual, weight, bias and mask may be null.
cudaError_t launch_batch_norm_act(const BatchNormInput& input, const void* residual, const void* weight,
                                  const void* bias, const void* statistics, double negative_slope, void* y,
                                  void* mask, cudaStream_t stream);

// parts [num_parts, 2, channels] -> sums [2, channels]; mask may be null.
cudaError_t launch_batch_norm_sums(const BatchNormInput& input, const void* dy, const void* mask,
                                   const void* statistics, double negative_slope, void* parts, void* sums,
                                   cudaStream_t stream);

// mask, weight and dresidual may be null; sums and input.x are null where the statistics are fixed.
cudaError_t launch_batch_norm_backward(const BatchNormInput& input, const void* dy, const void* mask,
                                       const void* weight, const void* statistics, const void* sums,
                                       double negative_slope, void* dx, void* dresidual, cudaStream_t stream);

}  // namespace airank_fast
