"""Builds the one extension module, airank_fast._C; all else about the package is in pyproject.toml.

AIRANK_FAST_CUDA=0|1 decides whether the CUDA kernels are built; otherwise they are where torch has CUDA and
a toolkit is found (CUDA_HOME, PyPI's wheels, nvcc on PATH, /usr/local/cuda). TORCH_CUDA_ARCH_LIST names the
architectures. What was chosen is printed, and stays readable in `python -m airank_fast.info`.
"""

import os
import shutil
import sysconfig
from glob import glob

from setuptools import setup


def find_toolkit():
    """The folder of the CUDA toolkit: one that has both nvcc and the runtime's headers."""
    wheels, nvcc = glob(sysconfig.get_path("purelib") + "/nvidia/cu[0-9]*"), shutil.which("nvcc")
    found = [*wheels, os.path.dirname(os.path.dirname(os.path.realpath(nvcc or "/"))), "/usr/local/cuda"]
    usable = [folder for folder in ([os.environ["CUDA_HOME"]] if os.environ.get("CUDA_HOME") else found)
              if os.path.exists(f"{folder}/bin/nvcc") and os.path.exists(f"{folder}/include/cuda_runtime.h")]
    return usable[0] if usable else None


def extension():
    """The keywords of setup() for the extension; empty, with the reason printed, where it cannot be built."""
    missing = None if shutil.which(os.environ.get("CXX", "c++").split()[0]) else "no C++ compiler was found"
    try:
        import torch
    except ImportError:
        missing = "no torch in the build environment; install it, then: pip install --no-build-isolation ."
    if missing:
        return print("airank_fast: kernels NOT built, the reference ops will run:", missing) or {}
    wanted, toolkit = os.environ.get("AIRANK_FAST_CUDA", ""), find_toolkit()
    cuda = torch.version.cuda if toolkit and wanted != "0" else None
    if wanted not in ("", "0", "1") or (wanted == "1" and not cuda):
        raise SystemExit(f"AIRANK_FAST_CUDA: must be 0 or 1, and 1 requires torch with CUDA and a toolkit, "
                         f"got {wanted!r}, torch {torch.__version__} and toolkit {toolkit}")
    sources, links, archs = ["csrc/module.cpp", *glob("csrc/cpu/*.cpp")], [], "none"
    if cuda:
        os.environ["CUDA_HOME"] = toolkit   # read when cpp_extension is imported
        own = {"{}.{}".format(*torch.cuda.get_device_capability(i)) for i in range(torch.cuda.device_count())}
        usual = "7.0;8.0;9.0" if cuda.startswith("12.") else "8.0;9.0"
        archs = os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ";".join(sorted(own)) or usual)
        sources += glob("csrc/cuda/*.cu") + glob("csrc/cuda/*_torch.cpp")
        links = [f"-l:libcudart.so.{cuda.split('.')[0]}"]   # PyPI's wheels have no plain libcudart.so
    from torch.utils import cpp_extension as build
    print(f"airank_fast: building for torch {torch.__version__}; CUDA {cuda}, architectures {archs}")
    macros = [("TORCH_TARGET_VERSION", "0x020b000000000000"), ("AIRANK_FAST_CUDA_ARCHS", f'"{archs}"'),
              ("AIRANK_FAST_CUDA_VERSION", f'"{cuda or "none"}"'), *([("USE_CUDA", None)] if cuda else [])]
    module = (build.CUDAExtension if cuda else build.CppExtension)(
        "airank_fast._C", sorted(sources), include_dirs=["csrc"], define_macros=macros, py_limited_api=True,
        depends=glob("csrc/**/*.*h", recursive=True), extra_link_args=links,
        extra_compile_args={"cxx": ["-O3", "-g0", "-fvisibility=hidden"], "nvcc": ["-O3"]})
    module.libraries = [name for name in module.libraries if name != "cudart"]
    return {"ext_modules": [module], "cmdclass": {"build_ext": build.BuildExtension},
            "options": {"bdist_wheel": {"py_limited_api": "cp310"}}}


setup(**extension())
