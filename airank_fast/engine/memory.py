"""How much memory a run has used, and what becomes of it between two steps on a CPU."""

from __future__ import annotations

import ctypes
import os
import resource

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


def peak_memory(device: torch.device) -> dict[str, int]:
    """Peak use of this rank and the size of its memory, bytes: the device's, or on a CPU the process's own.

    On CUDA what torch's allocator has reserved at most; on the CPU the peak resident set by the operating system.
    """
    if device.type == "cuda":
        return {
            "used_bytes": torch.cuda.max_memory_reserved(device),
            "total_bytes": torch.cuda.get_device_properties(device).total_memory,
        }
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"used_bytes": used, "total_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")}
