"""Builds the extension modules: _C (the ops) and _host (pybind11, without torch). Metadata is in pyproject.toml.

Environment:
    AIRANK_FAST_CUDA      1 requires the CUDA kernels, 0 leaves them out; unset: they are built where torch has CUDA
                          and a toolkit is found (CUDA_HOME, or PyPI's wheels, nvcc on PATH, /usr/local/cuda)
    TORCH_CUDA_ARCH_LIST  the GPU architectures; default: those of the machine's GPUs, else 8.0;9.0 (CUDA 12: and 7.0)
    CXX                   the C++ compiler; without one, or without torch, the reference ops are installed alone
"""

import os
import shutil
import sys
import sysconfig
from glob import glob
from importlib.util import find_spec

from setuptools import Extension, setup

# The two -fno: the compiler vectorises a sqrt that sets no errno, and comparisons that raise no trap.
FLAGS = ["-std=c++20", "-O3", "-g0", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
NVCC_FLAGS = FLAGS[:2]


def find_toolkit():
    """The folder of a CUDA toolkit with both nvcc and the runtime's headers, or None."""
    if os.environ.get("CUDA_HOME"):
        homes = [os.environ["CUDA_HOME"]]
    else:
        on_path = os.path.realpath(shutil.which("nvcc") or "/").removesuffix("/bin/nvcc")
        homes = [*glob(sysconfig.get_path("purelib") + "/nvidia/cu[0-9]*"), on_path, "/usr/local/cuda"]
    for home in homes:
        if os.path.exists(f"{home}/bin/nvcc") and glob(f"{home}/include/cuda_runtime.h"):
            return home
    return None


def missing_requirement():
    """The reason why the ops cannot be built, or None."""
    if not shutil.which(os.environ.get("CXX", "c++").split()[0]):
        return "no C++ compiler was found"
    try:
        import torch  # noqa: F401
    except ImportError:
        return "no torch in the build environment; install it, then: pip install --no-build-isolation ."
    return None


def host_extension():
    """[_host] where pybind11 and a compiler are installed, else []; a failed build is left out."""
    pybind11 = find_spec("pybind11")
    if pybind11 is None or not shutil.which(os.environ.get("CXX", "c++").split()[0]):
        return []
    include = f"{pybind11.submodule_search_locations[0]}/include"
    return [
        Extension(
            "airank_fast._host",
            sources=["csrc/host/module.cpp"],
            include_dirs=[include],
            extra_compile_args=FLAGS,
            depends=glob("csrc/host/*"),
            optional=True,
        )
    ]


def choose_cuda(missing):
    """(torch's version of CUDA, toolkit) where the CUDA kernels are to be built, else (None, toolkit)."""
    requested, toolkit, version, torch_version = os.environ.get("AIRANK_FAST_CUDA", ""), find_toolkit(), None, None
    if not missing:
        import torch

        torch_version = torch.__version__
        version = torch.version.cuda if toolkit and requested != "0" else None
    if requested not in ("", "0", "1") or (requested == "1" and not version):
        raise SystemExit(
            "AIRANK_FAST_CUDA: must be 0, unset, or 1 with torch for CUDA and a CUDA toolkit, "
            f"got {requested!r}, {missing or f'torch {torch_version}'}, toolkit {toolkit}"
        )
    return version, toolkit


def choose_architectures(cuda):
    """The value of TORCH_CUDA_ARCH_LIST; sets it where it is unset."""
    import torch

    own = {"{}.{}".format(*torch.cuda.get_device_capability(i)) for i in range(torch.cuda.device_count())}
    usual = "7.0;8.0;9.0" if cuda.startswith("12.") else "8.0;9.0"  # CUDA 13 dropped Volta
    return os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ";".join(sorted(own)) or usual)


def ops_extension(cuda, toolkit):
    """_C and the command that builds it."""
    import torch

    architectures = "none"
    if cuda:
        os.environ["CUDA_HOME"] = toolkit  # read when cpp_extension is imported
        architectures = choose_architectures(cuda)
    from torch.utils import cpp_extension

    print(f"airank_fast: building for torch {torch.__version__}, CUDA {cuda or 'none'}, architectures {architectures}")
    sources = ["csrc/module.cpp", *glob("csrc/cpu/*.cpp")]
    macros = [
        ("TORCH_TARGET_VERSION", "0x020b000000000000"),
        ("AIRANK_FAST_CUDA_ARCHS", f'"{architectures}"'),
        ("AIRANK_FAST_CUDA_VERSION", f'"{cuda or "none"}"'),
    ]
    made = cpp_extension.CppExtension
    if cuda:
        sources += [*glob("csrc/cuda/*.cu"), *glob("csrc/cuda/*_torch.cpp")]
        macros.append(("USE_CUDA", None))
        made = cpp_extension.CUDAExtension
    module = made(
        "airank_fast._C",
        sorted(sources),
        include_dirs=["csrc"],
        define_macros=macros,
        depends=glob("csrc/**/*.*h", recursive=True),
        py_limited_api=True,
        extra_compile_args={"cxx": FLAGS, "nvcc": NVCC_FLAGS},
    )
    if cuda:  # PyPI's wheels have the library without the development link libcudart.so
        module.libraries.remove("cudart")
        module.extra_link_args.append(f"-l:libcudart.so.{cuda.split('.')[0]}")
    return module, cpp_extension.BuildExtension


def extensions():
    """The keywords of setup() for the extensions; prints the reason where the ops cannot be built."""
    missing, host = missing_requirement(), host_extension()
    cuda, toolkit = choose_cuda(missing)
    if missing:
        print("airank_fast: kernels NOT built, the reference ops will run:", missing)
        return {"ext_modules": host}
    module, build_ext = ops_extension(cuda, toolkit)
    return {"ext_modules": [module, *host], "cmdclass": {"build_ext": build_ext}}


# Metadata depends on nothing here, and torch takes seconds to import.
setup(**({} if {"egg_info", "dist_info"} & set(sys.argv) else extensions()))
