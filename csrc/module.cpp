// The extension module airank_fast._C: importing it registers the kernels of the other sources with torch's
// dispatcher. Its own contents are one function, build_info(), for `python -m airank_fast.info`.
//
// Python's limited API (3.10) and LibTorch's stable ABI only, so one build serves later versions of both.

#ifndef Py_LIMITED_API   // torch's build sets it, CMake and editors do not
#define Py_LIMITED_API 0x030a0000
#endif
#include <Python.h>

#include <torch/headeronly/version.h>

#if defined(__AVX512F__)
#define AIRANK_FAST_ISA "AVX-512"
#elif defined(__AVX2__)
#define AIRANK_FAST_ISA "AVX2"
#elif defined(__x86_64__)
#define AIRANK_FAST_ISA "x86-64"
#elif defined(__aarch64__)
#define AIRANK_FAST_ISA "aarch64"
#else
#define AIRANK_FAST_ISA "unknown"
#endif

#if defined(__clang__)
#define AIRANK_FAST_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define AIRANK_FAST_COMPILER "gcc " __VERSION__
#else
#define AIRANK_FAST_COMPILER "unknown"
#endif

namespace {

// Deliberately without date or path: the same sources and tools give the same module.
PyObject* build_info(PyObject*, PyObject*) {
  return Py_BuildValue("{s:s,s:s,s:s,s:s,s:s}", "compiler", AIRANK_FAST_COMPILER, "torch", TORCH_VERSION, "cuda",
                       AIRANK_FAST_CUDA_VERSION, "cuda_architectures", AIRANK_FAST_CUDA_ARCHS, "isa", AIRANK_FAST_ISA);
}

PyMethodDef methods[] = {
    {"build_info", build_info, METH_NOARGS, "What this module was built with: a dict of strings."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", "Kernels of airank_fast.", 0, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModuleDef_Init(&definition); }
