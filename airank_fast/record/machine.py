"""Facts of this machine by its operating system: processor, memory, disks, GPUs, container.

Their names are those of MLPerf's system description. A fact that the system does not report is left out. None names
a host, a user or an address.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path

_LIBRARIES = ("numpy", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "apex", "transformer-engine")
_CUDA_PARTS = {"nvidia-cudnn": "cudnn", "nvidia-nccl": "nccl", "nvidia-cuda-runtime": "cuda"}
_CONTAINER_MARKS = {"/.dockerenv": "Docker", "/run/.containerenv": "Podman", "/.singularity.d": "Apptainer"}
_GPU_FIELDS = ("name", "memory.total", "clocks.max.sm", "pcie.link.gen.max", "pcie.link.width.max", "driver_version")


def facts() -> dict:
    """Every fact that the system reports, hardware and software."""
    return {**hardware(), **software()}


def hardware(root: str | os.PathLike = "/") -> dict:
    """The machine and its operating system; `root` replaces the root of the file system in tests."""
    root = Path(root)
    found = {
        **_processor(_text(root / "proc/cpuinfo"), root / "sys/devices/system/cpu/cpu0"),
        **_memory(_text(root / "proc/meminfo")),
        **_storage(_output("lsblk", "-J", "-b", "-d", "-o", "NAME,TYPE,SIZE,ROTA,TRAN")),
        **_accelerators(_output("nvidia-smi", f"--query-gpu={','.join(_GPU_FIELDS)}", "--format=csv,noheader,nounits")),
        "operating_system": _operating_system(),
        "container": _container(root),
    }
    return {name: value for name, value in found.items() if value not in (None, "")}


def _processor(cpuinfo: str, cpu0: Path) -> dict:
    """From /proc/cpuinfo and sysfs. The core count is that of one processor; vcpu count all hardware threads."""
    values = re.findall(r"^([\w ]+?)[ \t]*:[ \t]*(.*?)[ \t]*$", cpuinfo, flags=re.MULTILINE)
    first = dict(reversed(values))
    model = first.get("model name", "")
    sockets = {value for name, value in values if name == "physical id"}
    num_threads = sum(name == "processor" for name, _ in values)
    return {
        "host_processor_model_name": model or platform.machine(),
        "host_processors_per_node": len(sockets) or None,
        "host_processor_core_count": _number(first.get("cpu cores")),
        "host_processor_vcpu_count": num_threads or os.cpu_count(),
        "host_processor_frequency": _frequency(model, cpu0 / "cpufreq"),
        "host_processor_caches": _caches(cpu0 / "cache"),
        "virtualization": "virtual machine" if re.search(r"^flags.*\bhypervisor\b", cpuinfo, re.MULTILINE) else None,
    }


def _frequency(model: str, cpufreq: Path) -> str | None:
    """The processor's rated clock; never "cpu MHz", which is the clock of the moment."""
    for name in ("base_frequency", "cpuinfo_max_freq"):
        khz = _number(_text(cpufreq / name))
        if khz:
            return f"{khz / 1000:.0f} MHz ({'base' if name.startswith('base') else 'maximum'})"
    rated = re.search(r"@\s*([\d.]+\s*[GM]Hz)", model)
    return rated[1] if rated else None


def _caches(directory: Path) -> str | None:
    """Each cache that the first core reaches, e.g. "L1d 32K, L1i 32K, L2 1024K, L3 32768K"."""
    found = []
    for index in sorted(directory.glob("index*")):
        level, kind, size = (_text(index / name).strip() for name in ("level", "type", "size"))
        if level and size:
            found.append(f"L{level}{ {'Data': 'd', 'Instruction': 'i'}.get(kind, '') } {size}")
    return ", ".join(found) or None


def _memory(meminfo: str) -> dict:
    total = re.search(r"^MemTotal:\s*(\d+) kB", meminfo, re.MULTILINE)
    return {"host_memory_capacity": f"{int(total[1]) / 2**20:.1f} GiB"} if total else {}


def _storage(lsblk: str) -> dict:
    """Kind and capacity of the disks, all together."""
    try:
        disks = [{**disk, "size": int(disk["size"] or 0)} for disk in json.loads(lsblk)["blockdevices"]]
    except (ValueError, KeyError, TypeError):
        return {}
    disks = [d for d in disks if d.get("type") == "disk" and d["size"] and not d["name"].startswith("zram")]
    kinds = sorted({_disk_kind(disk) for disk in disks})
    size_bytes = sum(disk["size"] for disk in disks)
    return (
        {"host_storage_type": " + ".join(kinds), "host_storage_capacity": f"{size_bytes / 2**30:.1f} GiB"}
        if disks
        else {}
    )


def _disk_kind(disk: dict) -> str:
    if disk["name"].startswith(("vd", "xvd")):  # the guest does not see the disk behind it
        return "virtual disk"
    if disk.get("tran") == "nvme" or disk["name"].startswith("nvme"):
        return "NVMe"
    return "HDD" if disk.get("rota") in (True, "1") else "SSD"


def _accelerators(nvidia_smi: str) -> dict:
    """From nvidia-smi's table, a line a GPU; all GPUs of a node are taken to be alike."""
    rows = [[cell.strip() for cell in line.split(",")] for line in nvidia_smi.splitlines() if line.strip()]
    rows = [dict(zip(_GPU_FIELDS, row, strict=True)) for row in rows if len(row) == len(_GPU_FIELDS)]
    if not rows:
        return {}
    gpu = {name: value for name, value in rows[0].items() if "N/A" not in value and value != ""}
    link = [gpu.get(f"pcie.link.{name}.max") for name in ("gen", "width")]
    memory_mib, clock_mhz = _number(gpu.get("memory.total")), _number(gpu.get("clocks.max.sm"))
    return {
        "accelerator_model_name": gpu.get("name"),
        "accelerators_per_node": len(rows),
        "accelerator_memory_capacity": f"{memory_mib / 1024:.1f} GiB" if memory_mib else None,
        "accelerator_frequency": f"{clock_mhz} MHz (maximum)" if clock_mhz else None,
        "accelerator_host_interconnect": f"PCIe Gen{link[0]} x{link[1]}" if all(link) else None,
        "driver": gpu.get("driver_version"),
    }


def software() -> dict:
    """PyTorch and the libraries beside it, by what is installed; torch itself is not imported."""
    try:
        framework = {"framework": "PyTorch " + importlib.metadata.version("torch")}
    except importlib.metadata.PackageNotFoundError:
        framework = {}
    has_cuda = "+cpu" not in framework.get("framework", "")
    installed = {}
    for distribution in importlib.metadata.distributions():
        name = (distribution.metadata["Name"] or "").lower()
        part = next((part for prefix, part in _CUDA_PARTS.items() if name.startswith(prefix)), None)
        if (part and has_cuda) or name in _LIBRARIES:
            installed[part or name] = distribution.version
    stack = {"python": platform.python_version(), **dict(sorted(installed.items()))}
    return {**framework, "other_software_stack": stack}


def _operating_system() -> str:
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.system()} {platform.release()}"
    except (OSError, KeyError):
        return platform.platform()


def _container(root: Path) -> str:
    found = next((kind for mark, kind in _CONTAINER_MARKS.items() if (root / mark.lstrip("/")).exists()), None)
    if found is None and re.search(r"docker|kubepods|containerd|lxc", _text(root / "proc/1/cgroup")):
        found = "a container"
    return found or "none"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    """The output of a program; "" where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _number(text: str | None) -> int | None:
    match = re.match(r"\s*(\d+)", text or "")
    return int(match[1]) if match else None
