"""Freed memory that malloc keeps, and the peak that is measured."""

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
    """Page faults of a 64 MB tensor that is made and freed.

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


FRAGMENTS = """
import torch
from airank_fast.engine.memory import Heap, _resident_bytes
heap = Heap()
for _ in range(Heap.CHECKED_EVERY):
    heap.after_step()
small, before = [], _resident_bytes()
for _ in range(128):
    large = [torch.ones(2**20), torch.ones(2**20)]  # 4 MB each
    small.append(torch.ones(4))  # between two large ones, and there to stay
    small.append(large)
small = [tensor for tensor in small if isinstance(tensor, torch.Tensor)]
del large
grown = _resident_bytes() - before
for _ in range(Heap.CHECKED_EVERY):
    heap.after_step()
print(grown, _resident_bytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_free_memory_that_has_piled_up_goes_back():
    done = subprocess.run([sys.executable, "-c", FRAGMENTS], capture_output=True, text=True, check=True)
    grown, left = map(int, done.stdout.split())
    assert grown > 900 * MB  # else this test shows nothing
    assert left < 100 * MB


def test_peak_memory_covers_what_was_allocated():
    before = peak_memory(torch.device("cpu"))
    kept = torch.ones(64 * MB)  # 256 MB
    after = peak_memory(torch.device("cpu"))
    assert 0 < before["used_bytes"] <= after["used_bytes"] <= after["total_bytes"]
    assert after["used_bytes"] >= kept.nbytes


LARGE_PARENT = """
import subprocess, sys
kept = bytearray(2**30)
kept[::4096] = b"x" * len(kept[::4096])
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
"""
SMALL_CHILD = """
import resource, torch
from airank_fast.engine.memory import peak_memory
print(peak_memory(torch.device("cpu"))["used_bytes"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux has a peak of the program that runs")
def test_a_small_child_of_a_large_parent_reports_its_own_peak():
    command = [sys.executable, "-c", LARGE_PARENT, SMALL_CHILD]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, inherited = map(int, done.stdout.split())
    assert inherited >= 1024 * MB  # else this test is void
    assert 0 < peak < 900 * MB


RESET = """
import torch
from airank_fast.engine.memory import peak_memory, reset_peak_memory
device = torch.device("cpu")
large = torch.ones(64 * 2**20)
before = peak_memory(device)["used_bytes"]
del large
reset_peak_memory(device)
print(before - peak_memory(device)["used_bytes"])
"""


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux can reset a process's peak")
def test_the_peak_counts_from_its_reset():
    done = subprocess.run([sys.executable, "-c", RESET], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 200 * MB  # of the 256 MB that were freed
