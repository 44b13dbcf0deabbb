"""What becomes of freed memory, and what is counted."""

import platform
import resource
import subprocess
import sys

import pytest
import torch

from airank_fast.engine.memory import peak_memory

MB = 2**20
FAULTS = """
import resource, statistics, torch
from airank_fast.engine import memory
if {keep}:
    memory.keep_freed_memory()
faults = []
for _ in range(60):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20)  # 64 MB, above what malloc keeps by itself
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(statistics.median(faults[-20:]))
"""


def page_faults(keep: bool) -> float:
    """Of a 64 MB tensor that is made and freed.

    The median, and not from the start: a small block that is put into a freed large one makes the next large one a new
    one, about ten times until there are places for the small ones.
    """
    code = FAULTS.format(keep=keep)
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_freed_memory_is_allocated_again_without_page_faults():
    pages = 64 * MB / resource.getpagesize()
    assert page_faults(keep=True) < 0.01 * pages
    assert page_faults(keep=False) > 0.5 * 64 * MB / (2 * MB)  # at the least, with huge pages


def test_peak_memory_covers_what_was_allocated():
    before = peak_memory(torch.device("cpu"))
    kept = torch.ones(64 * MB)  # 256 MB
    after = peak_memory(torch.device("cpu"))
    assert 0 < before["used_bytes"] <= after["used_bytes"] <= after["total_bytes"]
    assert after["used_bytes"] >= kept.nbytes
