"""How much memory a run has used."""

from __future__ import annotations

import os
import resource

import torch


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
