// The extension module airank_fast._C: importing it registers the kernels of the other sources with torch's
// dispatcher. Its own contents are one function, build_info(), for `python -m airank_fast.info`.
//
// Python's limited API (3.10) and LibTorch's stable ABI only, so one build serves later versions of both.

#ifndef Py_LIMITED_API   // torch's build sets it, CMake and editors do not
#define Py_LIMITED_API 0x030a0000
#endif
#include <Python.h>

#include <torch/headeronly/version.h>

#include "cpu/isa.h"

#if defined(__clang__)
#define AIRANK_FAST_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define AIRANK_FAST_COMPILER "gcc " __VERSION__
#else
#define AIRANK_FAST_COMPILER "unknown"
#endif

namespace {

// Asks the same question as the CPU kernels do: which variant of a loop does choose() give on this processor?
struct NoLoop {
  using Signature = void();
  static void run() {}
};

const char* cpu_instructions() {
#ifdef AIRANK_FAST_X86_VARIANTS
  using Variants = airank_fast::Variants<NoLoop, void()>;
  const auto chosen = airank_fast::choose<NoLoop>();
  if (chosen == &Variants::avx512) return "AVX-512";
  if (chosen == &Variants::avx2) return "AVX2";
#endif
  return "baseline";
}

// Deliberately without date or path: the same sources and tools give the same module.
PyObject* build_info(PyObject*, PyObject*) {
  return Py_BuildValue("{s:s,s:s,s:s,s:s,s:s}", "compiler", AIRANK_FAST_COMPILER, "torch", TORCH_VERSION, "cuda",
                       AIRANK_FAST_CUDA_VERSION, "cuda_architectures", AIRANK_FAST_CUDA_ARCHS, "cpu_instructions",
                       cpu_instructions());
}

PyMethodDef methods[] = {
    {"build_info", build_info, METH_NOARGS, "What this module was built with: a dict of strings."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", "Kernels of airank_fast.", 0, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModuleDef_Init(&definition); }
