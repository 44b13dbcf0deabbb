// The launcher of global_norm on tiny tensors of every dtype, mixed, with sizes around packs and chunks.
#include "cuda/global_norm.h"
#include "cuda/global_norm.cuh"
#include "kernel_test.h"

namespace airank_fast {
namespace {

// Tensors of one dtype that outlive the launch, and what is passed on about them.
struct List {
  std::vector<void*> data;
  std::vector<int64_t> sizes;
  std::vector<Dtype> dtypes;
  double squares = 0;

  template <typename T>
  void add(std::vector<Array<T>>& arrays) {
    for (Array<T>& array : arrays) {
      data.push_back(array.data());
      sizes.push_back(int64_t(array.size()));
      dtypes.push_back(DtypeOf<T>::value);
      for (double x : array.doubles()) squares += x * x;
    }
  }
};

void check_norm(const List& list) {
  NormLaunch launch;
  launch.num_tensors = int64_t(list.sizes.size());
  launch.sizes = list.sizes.data();
  launch.data = list.data.data();
  launch.dtypes = list.dtypes.data();
  Array<double> workspace = Array<double>::filled(size_t(norm_workspace(launch.num_tensors, launch.sizes)), 0);
  Array<double> norm = Array<double>::filled(1, -1);
  launch.workspace = workspace.data();
  launch.norm = norm.data();
  check_success("global_norm", launch_norm(launch, nullptr));
  check_close("global_norm", norm, {std::sqrt(list.squares)}, 1e-6);
}

void cases() {
  auto floats = random_arrays<float>({1, 97, 0, kNormChunk + 5});
  auto doubles = random_arrays<double>({3, 65});
  auto bfloats = random_arrays<__nv_bfloat16>({129, 7});
  auto halves = random_arrays<Half>({1, 2050});
  List mixed, empty;
  mixed.add(floats), mixed.add(doubles), mixed.add(bfloats), mixed.add(halves);
  check_norm(mixed);
  check_norm(empty);
}

}  // namespace
}  // namespace airank_fast

int main() { return airank_fast::under_every_schedule(airank_fast::cases); }
