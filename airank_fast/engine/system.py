"""Describes what a run, a bench or a bug report was made on: machine, kernels, versions.

Field names of ``information``: AI-Rank, 2021-05, system_information.json, 15 mandatory fields.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Protocol

import torch

from airank_fast import processor
from airank_fast.engine.distributed import World
from airank_fast.errors import UserError
from airank_fast.record import machine, source

UNKNOWN = "unknown"
_LIBRARIES = ["airank-fast", "numpy", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "pillow", "safetensors"]
_LIBRARIES += ["tyro", "tqdm", "tensorboard", "mlperf-logging", "apex", "transformer-engine"]
_EXTENSION = "airank_fast._C"


class Submission(Protocol):
    """Who hands a run in, as its options state it."""

    @property
    def org(self) -> str: ...
    @property
    def platform(self) -> str: ...
    @property
    def status(self) -> str: ...


def information(submission: Submission, world: World) -> dict:
    """The 15 fields, with versions, kernels, more details of the machine and the source's commit.

    A field that cannot be read is "unknown".
    """
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cuda = world.device.type == "cuda"
    found, hardware = versions(), machine.hardware()
    return {
        "submitter": submission.org,
        "hardware_name": submission.platform,
        "hardware_type": submission.status,
        "number_of_nodes": world.size // world.local_size,
        "accelerators_per_node": world.local_size if cuda else 0,
        "accelerator_name": device_name(world.device),
        "accelerator_memory_capacity": _gib(torch.cuda.get_device_properties(world.device).total_memory)
        if cuda
        else "0 GiB",
        "host_processor_name": _cpu_name(),
        "host_processors_per_node": _num_sockets(),
        "host_processor_core_count": hardware.get("host_processor_core_count") or os.cpu_count(),
        "host_memory_capacity": _gib(memory_bytes),
        "host_storage_type": _storage_type(),
        "host_storage_capacity": _gib(shutil.disk_usage(".").total),
        "operating_system": _operating_system(),
        "software_stack": ", ".join(f"{name} {version}" for name, version in found.items()),
        "versions": found,
        "kernels": kernels(),
        "machine": hardware,
        "source": source.identity(),
    }


def device_name(device: torch.device) -> str:
    """The name of a GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_name()


def versions() -> dict[str, str]:
    """Versions of Python, torch with its CUDA parts, and the libraries in use that are installed."""
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
    """What the dispatcher runs, by op and device: the "kernel", or the op's "reference" in plain torch."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    found = {}
    for name in sorted(torch._C._dispatch_get_all_op_names()):
        if name.startswith("airank_fast::"):
            found[name.removeprefix("airank_fast::")] = {
                device.lower(): "kernel" if has_kernel(name, device) else "reference" for device in ("CPU", "CUDA")
            }
    return found


def extension() -> dict[str, str]:
    """What the extension module was built with; {"missing": why} where it is not loaded."""
    module = sys.modules.get(_EXTENSION)
    if module is not None:
        return dict(module.build_info())
    if importlib.util.find_spec(_EXTENSION) is None:
        return {"missing": "not built; with torch and a C++ compiler: pip install --no-build-isolation ."}
    return {"missing": f"built, but not loaded; the reason: python -c 'import torch, {_EXTENSION}'"}


def devices() -> list[str]:
    """The devices that torch can use, with their names."""
    found = [f"cpu: {_cpu_name()}, {torch.get_num_threads()} threads, {processor.instruction_set()}"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(
            f"cuda:{index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
            f"sm_{properties.major}{properties.minor}"
        )
    return found


def drop_page_cache() -> bool:
    """Drop the operating system's cache of files; UserError without the permission."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError as error:
        raise UserError(f"--clear-cache: must have the right to write /proc/sys/vm/drop_caches, got {error}") from None
    return True


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"


def _cpu_fields(name: str) -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(name) and ":" in line]


def _cpu_name() -> str:
    return next(iter(_cpu_fields("model name")), platform.machine())


def _num_sockets() -> int:
    return max(1, len(set(_cpu_fields("physical id"))))


def _operating_system() -> str:
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.system()} {platform.release()}"
    except (OSError, KeyError):
        return platform.platform()


def _storage_type() -> str:
    """SSD, HDD or NVMe of the block device under the current directory, by sysfs."""
    number = os.stat(".").st_dev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    if device.name.startswith(("vd", "xvd")):  # the guest cannot see the physical device
        return "virtual disk"
    if device.name.startswith("nvme"):
        return "NVMe"
    for place in (device, device.parent):
        rotational = place / "queue" / "rotational"
        if rotational.exists():
            return "HDD" if rotational.read_text().strip() == "1" else "SSD"
    return UNKNOWN
