"""Measures a run's peak memory, and has malloc keep freed memory between steps on a CPU."""

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

    By default malloc returns much of what a training step frees to the system, and the next step pays for new pages: a
    page fault every 4 KB, and the clearing of each page. See bench/memory.py. On a GPU torch's own allocator keeps
    memory in the same way.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


class Heap:
    """What this process has freed on a CPU: kept for the next step, until it is of no use to it.

    A tensor's block is aligned, so glibc needs up to 96 bytes more than it holds. Small blocks settle in that margin,
    and the large one, once freed, is too small for the next tensor of its size: BERT-mini grew by 1 MB with each
    step, without end. `after_step` gives all free pages back where the process has grown by a quarter and 128 MB.
    """

    CHECKED_EVERY = 64
    """Steps between two looks at the resident set."""

    def __init__(self) -> None:
        keep_freed_memory()
        self._steps = 0
        self._limit: float | None = None
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def after_step(self) -> None:
        """Once after each step; nearly free."""
        self._steps += 1
        if self._trim is None or self._steps % self.CHECKED_EVERY:
            return
        resident = _resident_bytes()
        if self._limit is None:  # the first look, or the one after a trim: what was given back is in use again
            self._limit = 1.25 * resident + 128 * 2**20
        elif resident > self._limit:
            self._trim(0)
            self._limit = None


def _resident_bytes() -> int:
    """0 where the operating system does not say."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def reset_peak_memory(device: torch.device) -> None:
    """Restart the peak that `peak_memory` reports; on a CPU this needs Linux."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak resident set becomes the present one


def peak_memory(device: torch.device) -> dict[str, int]:
    """Peak memory of this rank and the size of that memory, bytes.

    On CUDA the peak of what torch's allocator has reserved; on a CPU the process's peak resident set.
    """
    if device.type == "cuda":
        return {
            "used_bytes": torch.cuda.max_memory_reserved(device),
            "total_bytes": torch.cuda.get_device_properties(device).total_memory,
        }
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"used_bytes": _peak_resident_bytes(), "total_bytes": total}


def _peak_resident_bytes() -> int:
    """Linux's VmHWM, which restarts at exec; elsewhere ru_maxrss, which does not."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
