"""Builds the extension modules, _C (the ops) and _host (pybind11, no torch); all else is in pyproject.toml.
AIRANK_FAST_CUDA=0|1 decides whether the CUDA kernels are built; otherwise they are where torch has CUDA and a toolkit
is found (CUDA_HOME, or PyPI's wheels, nvcc on PATH, /usr/local/cuda). TORCH_CUDA_ARCH_LIST names the architectures."""

import os
import shutil
import sysconfig
from glob import glob
from importlib.util import find_spec

from setuptools import Extension, setup


def find_toolkit():
    """The folder of the CUDA toolkit: one that has both nvcc and the runtime's headers."""
    on_path = os.path.realpath(shutil.which("nvcc") or "/").removesuffix("/bin/nvcc")
    homes = [*glob(sysconfig.get_path("purelib") + "/nvidia/cu[0-9]*"), on_path, "/usr/local/cuda"]
    homes = [os.environ["CUDA_HOME"]] if os.environ.get("CUDA_HOME") else homes
    return next((h for h in homes if os.path.exists(f"{h}/bin/nvcc") and glob(f"{h}/include/cuda_runtime.h")), None)


def extension():
    """The keywords of setup() for the extensions; the reason is printed where the ops cannot be built."""
    missing = None if shutil.which(os.environ.get("CXX", "c++").split()[0]) else "no C++ compiler was found"
    flags = ["-std=c++20", "-O3", "-g0", "-fvisibility=hidden", "-fno-math-errno"]  # errno: vectorised sqrt
    host = [
        Extension(
            "airank_fast._host",
            ["csrc/host/module.cpp"],
            [f"{found.submodule_search_locations[0]}/include"],
            extra_compile_args=flags,
            depends=glob("csrc/host/*"),
            optional=True,
        )
        for found in [find_spec("pybind11")]
        if found and not missing
    ]
    try:
        import torch
    except ImportError:
        missing = "no torch in the build environment; install it, then: pip install --no-build-isolation ."
    wanted, toolkit, archs = os.environ.get("AIRANK_FAST_CUDA", ""), find_toolkit(), "none"
    cuda = torch.version.cuda if not missing and toolkit and wanted != "0" else None
    if wanted not in ("", "0", "1") or (wanted == "1" and not cuda):
        raise SystemExit(
            "AIRANK_FAST_CUDA: 0, 1 or nothing is required, and for 1 torch with CUDA and a CUDA toolkit, "
            f"got {wanted!r}, {missing or 'torch ' + torch.__version__}, toolkit {toolkit}"
        )
    if missing:
        return print("airank_fast: kernels NOT built, the reference ops will run:", missing) or {"ext_modules": host}
    if cuda:
        os.environ["CUDA_HOME"] = toolkit  # read when cpp_extension is imported
        own = {"{}.{}".format(*torch.cuda.get_device_capability(i)) for i in range(torch.cuda.device_count())}
        usual = "7.0;8.0;9.0" if cuda.startswith("12.") else "8.0;9.0"
        archs = os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ";".join(sorted(own)) or usual)
    from torch.utils import cpp_extension as build  # isort: split

    print(f"airank_fast: building for torch {torch.__version__}, CUDA {cuda or 'none'}, architectures {archs}")
    patterns = ["csrc/module.cpp", "csrc/cpu/*.cpp", *(["csrc/cuda/*.cu", "csrc/cuda/*_torch.cpp"] if cuda else [])]
    macros = [
        ("TORCH_TARGET_VERSION", "0x020b000000000000"),
        ("AIRANK_FAST_CUDA_ARCHS", f'"{archs}"'),
        ("AIRANK_FAST_CUDA_VERSION", f'"{cuda or "none"}"'),
        *[("USE_CUDA", None)] * bool(cuda),
    ]
    module = (build.CUDAExtension if cuda else build.CppExtension)(
        "airank_fast._C",
        sorted(f for p in patterns for f in glob(p)),
        include_dirs=["csrc"],
        define_macros=macros,
        depends=glob("csrc/**/*.*h", recursive=True),
        py_limited_api=True,
        extra_compile_args={"cxx": flags, "nvcc": flags[:2]},
    )
    if cuda:  # PyPI's wheels have the library without the development link libcudart.so
        module.libraries.remove("cudart")
        module.extra_link_args.append(f"-l:libcudart.so.{cuda.split('.')[0]}")
    return {"ext_modules": [module, *host], "cmdclass": {"build_ext": build.BuildExtension}}


setup(**extension())
