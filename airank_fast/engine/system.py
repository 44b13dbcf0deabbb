"""The machine that a run was made on: the fields of system_information.json, read from the machine itself.

Field names: AI-Rank, 2021-05, system_information.json, 15 mandatory fields; versions and kernels stand beside them.
"""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import torch

from airank_fast.engine.distributed import World
from airank_fast.errors import UserError
from airank_fast.system import kernels, versions

UNKNOWN = "unknown"


def information(submission, world: World) -> dict:
    """The 15 fields, with versions and kernels. What the machine does not tell is "unknown"."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cuda = world.device.type == "cuda"
    found = versions()
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
        "host_processor_name": _cpu_field("model name") or platform.machine(),
        "host_processors_per_node": _num_sockets(),
        "host_processor_core_count": os.cpu_count(),
        "host_memory_capacity": _gib(memory_bytes),
        "host_storage_type": _storage_type(),
        "host_storage_capacity": _gib(shutil.disk_usage(".").total),
        "operating_system": _operating_system(),
        "software_stack": ", ".join(f"{name} {version}" for name, version in found.items()),
        "versions": found,
        "kernels": kernels(),
    }


def device_name(device: torch.device) -> str:
    """The name of a GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_field("model name") or platform.machine()


def drop_page_cache() -> bool:
    """Make the operating system forget what it has cached of files; UserError without the right to."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError as error:
        raise UserError(
            f"--clear-cache: the right to write /proc/sys/vm/drop_caches is required, got {error}"
        ) from None
    return True


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f} GiB"


def _cpu_fields(name: str) -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(name) and ":" in line]


def _cpu_field(name: str) -> str | None:
    return next(iter(_cpu_fields(name)), None)


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
    if device.name.startswith(("vd", "xvd")):  # what stands behind it, the guest is not told
        return "virtual disk"
    if device.name.startswith("nvme"):
        return "NVMe"
    for place in (device, device.parent):
        rotational = place / "queue" / "rotational"
        if rotational.exists():
            return "HDD" if rotational.read_text().strip() == "1" else "SSD"
    return UNKNOWN
