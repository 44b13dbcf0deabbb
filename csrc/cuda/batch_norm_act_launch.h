// Shared by the launchers of batch norm and of instance norm in channels_last: grids, and kernels by dtype and alignment.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include "batch_norm_act.h"
#include "batch_norm_act_rows.cuh"

namespace airank_fast {

inline int num_multiprocessors() {
  int device = 0, number = 1;
  if (cudaGetDevice(&device) == cudaSuccess)
    cudaDeviceGetAttribute(&number, cudaDevAttrMultiProcessorCount, device);
  return std::max(number, 1);
}

// A block is `columns` packs of channels wide, and as many rows high as its threads allow.
struct Grid {
  dim3 blocks, threads;
};

inline int columns_of(int64_t packs) {
  int columns = 1;
  while (columns < 32 && columns < packs) columns *= 2;
  return columns;
}

inline Grid grid_of(const BatchNormInput& input, int pack, int64_t num_parts) {
  const int64_t packs = ceil_div(input.channels, pack);
  const int columns = columns_of(packs);
  return {dim3(unsigned(ceil_div(packs, columns)), unsigned(num_parts), unsigned(input.pictures)),
          dim3(columns, kBatchNormThreads / columns)};
}

// As many as the device holds at once, but at least one group of rows for each thread.
inline int64_t num_block_rows(const BatchNormInput& input, int pack, int resident_blocks) {
  const int64_t packs = ceil_div(input.channels, pack), columns = columns_of(packs);
  const int64_t most = ceil_div(input.rows, kBatchNormGroup * (kBatchNormThreads / columns));
  const int64_t resident = int64_t(num_multiprocessors()) * resident_blocks / (ceil_div(packs, columns) * input.pictures);
  return std::clamp<int64_t>(resident, 1, std::clamp<int64_t>(most, 1, 65535));
}

// f(element, pack) with the widest pack that channels and addresses allow.
template <typename F>
cudaError_t with_pack(const BatchNormInput& input, std::initializer_list<const void*> addresses, F f) {
  const auto of_type = [&](auto element) {
    using E = decltype(element);
    constexpr int kPack = 16 / sizeof(E);
    bool aligned = input.channels % kPack == 0;
    for (const void* address : addresses) aligned = aligned && is_aligned<kPack>(static_cast<const E*>(address));
    if (aligned) return f(element, std::integral_constant<int, kPack>());
    return f(element, std::integral_constant<int, 1>());
  };
  switch (input.dtype) {
    case Dtype::kFloat32: return of_type(float());
    case Dtype::kFloat64: return of_type(double());
    case Dtype::kBFloat16: return of_type(__nv_bfloat16());
    case Dtype::kFloat16: return of_type(Half());
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace airank_fast
