// The few functions of the CUDA runtime that launchers call, for kernels run on the CPU: memory operations happen at
// once, and the device is so small that kernels with a grid of "as many blocks as fit" loop over their work.
#include "cuda_on_cpu.h"

namespace {

constexpr int kMultiprocessors = 3, kBlocksPerMultiprocessor = 2;
constexpr int kSmemBytes = 48 << 10, kMostSmemBytes = 227 << 10;

struct Allowed {
  const void* kernel;
  size_t bytes;
};
Allowed allowed[256];
int num_allowed = 0;

}  // namespace

namespace cuda_on_cpu {

const char* failure();

void allow_smem(const void* kernel, size_t bytes) {
  for (int i = 0; i < num_allowed; ++i)
    if (allowed[i].kernel == kernel) {
      allowed[i].bytes = bytes;
      return;
    }
  if (num_allowed == 256) __builtin_trap();
  allowed[num_allowed++] = {kernel, bytes};
}

size_t allowed_smem(const void* kernel) {
  for (int i = 0; i < num_allowed; ++i)
    if (allowed[i].kernel == kernel) return allowed[i].bytes;
  return kSmemBytes;
}

}  // namespace cuda_on_cpu

extern "C" {

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  memset(to, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  memcpy(to, from, bytes);
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorLaunchFailure: return cuda_on_cpu::failure();
    default: return "unknown error";
  }
}

cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = kMultiprocessors; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = kSmemBytes; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = kMostSmemBytes; break;
    case cudaDevAttrMaxGridDimX: *value = INT32_MAX; break;
    case cudaDevAttrMaxGridDimY: *value = 65535; break;
    case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 8; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    default: return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* num_blocks, const void*, int, size_t,
                                                                   unsigned) {
  *num_blocks = kBlocksPerMultiprocessor;
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* num_blocks, const void*, int, size_t) {
  *num_blocks = kBlocksPerMultiprocessor;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || value > kMostSmemBytes) return cudaErrorInvalidValue;
  cuda_on_cpu::allow_smem(kernel, size_t(value));
  return cudaSuccess;
}

}  // extern "C"
