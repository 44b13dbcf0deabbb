"""What this process runs on: versions of the libraries, and which kernel stands behind each op.

A leaf: needs torch, imports nothing of ours. `kernels` sees the ops that have been imported by then.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys

import torch

_LIBRARIES = ["airank-fast", "numpy", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "pillow", "safetensors"]
_LIBRARIES += ["tyro", "tqdm", "tensorboard", "mlperf-logging", "apex", "transformer-engine"]
_EXTENSION = "airank_fast._C"


def versions() -> dict[str, str]:
    """Versions of Python, torch with its CUDA parts, and our libraries; what is not installed is left out."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
    if torch.backends.cudnn.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
    if torch.cuda.is_available() and torch.cuda.nccl.is_available([torch.zeros(1, device="cuda")]):
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found


def kernels() -> dict[str, dict[str, str]]:
    """Per op and device, what the dispatcher runs: our "kernel", or the op's "reference" in plain torch."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    found = {}
    for name in sorted(torch._C._dispatch_get_all_op_names()):
        if name.startswith("airank_fast::"):
            found[name.removeprefix("airank_fast::")] = {
                device.lower(): "kernel" if has_kernel(name, device) else "reference" for device in ("CPU", "CUDA")
            }
    return found


def extension() -> dict[str, str]:
    """What the extension module was built with; where it is not loaded, {"missing": why}."""
    module = sys.modules.get(_EXTENSION)
    if module is not None:
        return dict(module.build_info())
    if importlib.util.find_spec(_EXTENSION) is None:
        return {"missing": "not built; with torch and a C++ compiler: pip install --no-build-isolation ."}
    return {"missing": f"built, but not loaded; the reason: python -c 'import torch, {_EXTENSION}'"}


def devices() -> list[str]:
    """The devices that torch can use, with their names."""
    isa = torch.backends.cpu.get_cpu_capability()
    found = [f"cpu: {_cpu_name()}, {torch.get_num_threads()} threads, {isa}"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(
            f"cuda:{index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
            f"sm_{properties.major}{properties.minor}"
        )
    return found


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
