// The extension module airank_fast._C: importing it registers the kernels of the other sources with torch's
// dispatcher. Its own functions are build_info(), for `python -m airank_fast.info`, and limit_cpu_instructions(), for
// tests.
//
// Python's limited API (3.10) and LibTorch's stable ABI only, so that one build serves later versions of both.

#ifndef Py_LIMITED_API   // torch's build sets it, CMake and editors do not
#define Py_LIMITED_API 0x030a0000
#endif
#include <Python.h>

#include <torch/headeronly/version.h>

#include <iterator>

#include "cpu/isa.h"

#if defined(__clang__)
#define AIRANK_FAST_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define AIRANK_FAST_COMPILER "gcc " __VERSION__
#else
#define AIRANK_FAST_COMPILER "unknown"
#endif

namespace {

// Without date or path, so that the same sources and tools give the same module.
PyObject* build_info(PyObject*, PyObject*) {
  return Py_BuildValue("{s:s,s:s,s:s,s:s,s:s}", "compiler", AIRANK_FAST_COMPILER, "torch", TORCH_VERSION, "cuda",
                       AIRANK_FAST_CUDA_VERSION, "cuda_architectures", AIRANK_FAST_CUDA_ARCHS, "cpu_instructions",
                       airank_fast::kIsaNames[int(airank_fast::isa())]);
}

PyObject* limit_cpu_instructions(PyObject*, PyObject* name) {
  for (int i = 0; i < int(std::size(airank_fast::kIsaNames)); ++i) {
    PyObject* supported = PyUnicode_FromString(airank_fast::kIsaNames[i]);
    const int differs = supported == nullptr ? -1 : PyUnicode_Compare(name, supported);
    Py_XDECREF(supported);
    if (PyErr_Occurred()) return nullptr;
    if (differs == 0) {
      airank_fast::isa_limit = airank_fast::Isa(i);
      Py_RETURN_NONE;
    }
  }
  return PyErr_Format(PyExc_ValueError,
                      "limit_cpu_instructions: baseline, AVX2, AVX-512 or AVX-512 BF16 is required, got %R", name);
}

PyMethodDef methods[] = {
    {"build_info", build_info, METH_NOARGS, "What this module was built with: a dict of strings."},
    {"limit_cpu_instructions", limit_cpu_instructions, METH_O,
     "Have CPU kernels use no later instruction set than the named one: for tests."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", "Kernels of airank_fast.", 0, methods,
                          nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__C() { return PyModuleDef_Init(&definition); }
