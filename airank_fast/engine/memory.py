"""How much memory a run has used, and what becomes of it between two steps on a CPU."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
from pathlib import Path

import torch

_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1  # malloc.h


def keep_freed_memory() -> None:
    """Have glibc's malloc keep what this process frees from now on, however large; with another malloc do nothing.

    Otherwise much of what a training step on a CPU frees goes back to the system, and is fresh when the next step
    allocates it: a page fault every 4 KB, and pages that are cleared first. See bench/memory.py. On a GPU torch's own
    allocator keeps memory in the same way.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


def reset_peak_memory(device: torch.device) -> None:
    """Have `peak_memory` count from now on; on a CPU where the operating system can (Linux)."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak resident set becomes the present one


def peak_memory(device: torch.device) -> dict[str, int]:
    """Peak use of this rank and the size of its memory, bytes: the device's, or on a CPU the process's own.

    On CUDA what torch's allocator has reserved at most; on the CPU the peak resident set by the operating system.
    """
    if device.type == "cuda":
        return {
            "used_bytes": torch.cuda.max_memory_reserved(device),
            "total_bytes": torch.cuda.get_device_properties(device).total_memory,
        }
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"used_bytes": _peak_resident_bytes(), "total_bytes": total}


def _peak_resident_bytes() -> int:
    """Linux's VmHWM, which belongs to the program that runs; ru_maxrss, which is inherited over exec, elsewhere."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
