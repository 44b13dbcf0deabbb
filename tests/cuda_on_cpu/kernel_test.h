// For stand-alone tests of launchers, run under sanitizers: arrays in heap blocks of exactly their size (so
// that one element too far is seen), random numbers, comparison with doubles, and every case under every schedule.
//
// To add an op: test_<op>.cpp beside this file, with `void cases()` that calls the launcher of csrc/cuda/<op>.h on tiny
// shapes (a few blocks of at most 256 threads: ThreadSanitizer takes microseconds per switch; odd sizes; every array
// its own) and compares with a simple loop in double. test_sanitizers.py finds it. Keep it to types and launchers:
// the program is linked with <op>.cu alone, and not with torch.
//
// on_device.py compiles the same files with nvcc, for compute-sanitizer; arrays are managed memory then.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda/arguments.h"
#include "cuda/vec.cuh"

namespace airank_fast {

template <typename T> struct DtypeOf { static constexpr Dtype value = Dtype::kNone; };
template <> struct DtypeOf<float> { static constexpr Dtype value = Dtype::kFloat32; };
template <> struct DtypeOf<double> { static constexpr Dtype value = Dtype::kFloat64; };
template <> struct DtypeOf<__nv_bfloat16> { static constexpr Dtype value = Dtype::kBFloat16; };
template <> struct DtypeOf<__half> { static constexpr Dtype value = Dtype::kFloat16; };

// A unit in the last place of 1; of float64 much more, because its reference is not more exact.
template <typename T> constexpr double kEpsilon = 1.2e-7;
template <> inline constexpr double kEpsilon<double> = 1e-14;
template <> inline constexpr double kEpsilon<__nv_bfloat16> = 7.9e-3;
template <> inline constexpr double kEpsilon<__half> = 9.8e-4;

// Between -1 and 1; the same sequence in every run.
inline double next_random() {
  static uint64_t state = 1;
  state = state * 6364136223846793005ull + 1442695040888963407ull;
  return double(int64_t(state) >> 11) / double(int64_t(1) << 52);
}

#ifdef __CUDACC__
inline void* allocate(size_t size_bytes) {
  void* memory = nullptr;
  const cudaError_t error = cudaMallocManaged(&memory, size_bytes + (size_bytes == 0));
  if (error == cudaSuccess) return memory;
  std::fprintf(stderr, "cudaMallocManaged of %zu bytes: %s\n", size_bytes, cudaGetErrorString(error));
  std::abort();
}
inline void release(void* memory) { cudaFree(memory); }
#else
inline void* allocate(size_t size_bytes) { return std::malloc(size_bytes); }
inline void release(void* memory) { std::free(memory); }
#endif

// Numbers in a block of memory of their own, as it were in device memory.
template <typename T>
class Array {
 public:
  explicit Array(size_t size) : size_(size), data_(static_cast<T*>(allocate(size * sizeof(T)))) {}
  Array(const Array& other) : Array(other.size_) { std::memcpy(data_, other.data_, size_ * sizeof(T)); }
  Array& operator=(const Array&) = delete;
  ~Array() { release(data_); }

  static Array random(size_t size) {
    Array array(size);
    for (size_t i = 0; i < size; ++i) array.set(i, next_random());
    return array;
  }
  static Array filled(size_t size, double value) {
    Array array(size);
    for (size_t i = 0; i < size; ++i) array.set(i, value);
    return array;
  }

  T* data() { return data_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }
  void set(size_t i, double value) {
    if constexpr (DtypeOf<T>::value == Dtype::kNone) data_[i] = T(value);
    else store(&data_[i], math_t<T>(value));
  }
  double get(size_t i) const {
    if constexpr (DtypeOf<T>::value == Dtype::kNone) return double(data_[i]);
    else return double(load(data_[i]));
  }
  std::vector<double> doubles() const {
    std::vector<double> values(size_);
    for (size_t i = 0; i < size_; ++i) values[i] = get(i);
    return values;
  }

 private:
  size_t size_;
  T* data_;
};

// Lists of tensors, as the optimizers' launchers take them.
template <typename T>
std::vector<void*> addresses(std::vector<Array<T>>& arrays) {
  std::vector<void*> all;
  for (Array<T>& array : arrays) all.push_back(array.data());
  return all;
}

template <typename T, size_t kNumTensors>
std::vector<Array<T>> random_arrays(const size_t (&sizes)[kNumTensors]) {
  std::vector<Array<T>> arrays;
  for (size_t size : sizes) arrays.push_back(Array<T>::random(size));
  return arrays;
}

// 16-bit copies of masters: every other one is the master, rounded, and the rest were written since the last step.
template <typename C, typename P>
std::vector<Array<C>> copies_of(const std::vector<Array<P>>& params) {
  std::vector<Array<C>> copies;
  for (const Array<P>& param : params) {
    copies.push_back(Array<C>::random(param.size()));
    for (size_t i = 0; i < param.size(); ++i) copies.back().set(i, param.get(i) + (i % 2 ? 2 : 0));
  }
  return copies;
}

inline int num_failures = 0;
inline const char* schedule_name = "";

inline void failure_at(const char* what, size_t i, double got, double want) {
  std::printf("%s: element %zu must be %.17g, got %.17g (schedule %s)\n", what, i, want, got, schedule_name);
  ++num_failures;
}

// |got - want| <= tolerance * (1 + |want|); NaN equals NaN. Reports the first difference.
template <typename T>
void check_close(const char* what, const Array<T>& got, const std::vector<double>& want, double tolerance) {
  if (got.size() != want.size()) return failure_at(what, want.size(), double(got.size()), double(want.size()));
  for (size_t i = 0; i < want.size(); ++i) {
    const double g = got.get(i), w = want[i];
    const bool same = g == w || (std::isnan(g) && std::isnan(w));
    if (!same && !(std::fabs(g - w) <= tolerance * (1 + std::fabs(w)))) return failure_at(what, i, g, w);
  }
}

// The error of a launch; on a device also of the kernel itself, for which it waits.
inline void check_success(const char* what, cudaError_t error) {
#ifdef __CUDACC__
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
#endif
  if (error == cudaSuccess) return;
  std::printf("%s: %s (schedule %s)\n", what, cudaGetErrorString(error), schedule_name);
  ++num_failures;
}

// Runs `cases` under every schedule, random ones with three seeds, and `large_cases` under the last of them; the exit
// status of main().
inline int under_every_schedule(void (*cases)(), void (*large_cases)() = [] {}) {
#ifdef __CUDACC__
  schedule_name = "of the device";
  cases();
#else
  using cuda_on_cpu::Schedule;
#ifdef __SANITIZE_THREAD__  // sees a race whatever the order, and is slow
  const std::vector<Schedule> schedules = {Schedule::kPriority, Schedule::kRandom};
#else
  const std::vector<Schedule> schedules = {Schedule::kAscending, Schedule::kDescending, Schedule::kPriority,
                                           Schedule::kRandom,    Schedule::kRandom,     Schedule::kRandom};
#endif
  for (size_t i = 0; i < schedules.size(); ++i) {
    schedule_name = name_of(schedules[i]);
    cuda_on_cpu::set_schedule(schedules[i], 1 + unsigned(i));
    cases();
  }
#endif
  large_cases();
  std::printf(num_failures ? "%d failures\n" : "passed\n", num_failures);
  return num_failures != 0;
}

}  // namespace airank_fast
