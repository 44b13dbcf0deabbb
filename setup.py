"""Builds the one extension module, airank_fast._C; everything else about the package is in pyproject.toml.

AIRANK_FAST_CUDA=0|1 decides whether the CUDA kernels are built; otherwise they are where torch has CUDA and nvcc
is found. TORCH_CUDA_ARCH_LIST names the architectures. What was chosen is printed, and is in airank_fast.info.
"""

import glob
import os
import shutil

from setuptools import setup

SOURCES = ["csrc/module.cpp", "csrc/cpu/*.cpp"]
CUDA_SOURCES = ["csrc/cuda/*.cu", "csrc/cuda/*_torch.cpp"]


def extension():
    """Setup keywords of the extension, or none where the kernels cannot be built."""
    try:
        import torch
        from torch.utils import cpp_extension as build
    except ImportError:
        print("airank_fast: kernels NOT built, no torch in the build environment; with torch installed: "
              "pip install --no-build-isolation .")
        return {}
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        print("airank_fast: kernels NOT built, no C++ compiler found (reference ops will be used)")
        return {}
    toolkit = build.CUDA_HOME and os.path.exists(os.path.join(build.CUDA_HOME, "bin", "nvcc"))
    cuda = os.environ.get("AIRANK_FAST_CUDA") or str(int(bool(torch.version.cuda and toolkit)))
    if cuda not in ("0", "1") or (cuda == "1" and not (torch.version.cuda and toolkit)):
        raise SystemExit(f"airank_fast: AIRANK_FAST_CUDA={cuda}: must be 0 or 1, and 1 requires a CUDA build of torch "
                         f"and nvcc, got torch {torch.__version__} and CUDA_HOME={build.CUDA_HOME}")
    patterns, flags, make, archs = SOURCES, ["-O3", "-g0", "-fvisibility=hidden", "-Wall"], build.CppExtension, "none"
    defines = [("Py_LIMITED_API", "0x030a0000"), ("TORCH_TARGET_VERSION", "0x020b000000000000")]
    if cuda == "1":
        default = "8.0;9.0" if int(torch.version.cuda.split(".")[0]) > 12 else "7.0;8.0;9.0"
        if torch.cuda.is_available():
            default = ";".join(sorted({"%d.%d" % torch.cuda.get_device_capability(i)
                                       for i in range(torch.cuda.device_count())}))
        archs = os.environ.setdefault("TORCH_CUDA_ARCH_LIST", default)
        patterns, make = SOURCES + CUDA_SOURCES, build.CUDAExtension
        defines.append(("USE_CUDA", None))
    defines += [("AIRANK_FAST_CUDA_VERSION", f'"{torch.version.cuda if cuda == "1" else "none"}"'),
                ("AIRANK_FAST_CUDA_ARCHS", f'"{archs.replace(";", " ")}"')]
    print(f"airank_fast: building kernels with {compiler}, torch {torch.__version__}, CUDA architectures {archs}")
    module = make("airank_fast._C", sorted(f for p in patterns for f in glob.glob(p)), include_dirs=["csrc"],
                  define_macros=defines, extra_compile_args={"cxx": flags, "nvcc": ["-O3"]}, py_limited_api=True)
    return {"ext_modules": [module], "cmdclass": {"build_ext": build.BuildExtension},
            "options": {"bdist_wheel": {"py_limited_api": "cp310"}}}


setup(**extension())
