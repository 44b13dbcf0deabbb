"""Runs tests of the ops on the CUDA kernels instead of the CPU kernels: python -m pytest tests/ops --cuda-on-cpu

The extension is hidden and the library of cuda_on_cpu/build.py loaded in its place, so the same test with the same
inputs meets the emulated CUDA kernels. Each test runs under one of the four schedules, by its name, so that the
parameters of a test go through all of them; --cuda-on-cpu=priority (or another) is one schedule for every test. What
a failing test ran under is in its report.

A test that is about the CPU kernel, or too large for an emulation, is marked `not_emulated`.
"""

from __future__ import annotations

import ctypes
import sys
import zlib
from collections import Counter

import pytest
import torch
from cuda_on_cpu import build

SCHEDULES = ["ascending", "descending", "priority", "random"]


class CudaOnCpu:
    """Loads the library when it is made, then chooses the schedules."""

    def __init__(self, schedule: str):
        if schedule not in ("each", *SCHEDULES):
            raise pytest.UsageError(f"--cuda-on-cpu: one of each, {', '.join(SCHEDULES)} is required, got {schedule}")
        self.schedule = schedule
        if build.missing():
            raise pytest.UsageError(f"--cuda-on-cpu: {build.missing()}")
        if "airank_fast.ops" in sys.modules:
            raise pytest.UsageError("--cuda-on-cpu: airank_fast must not have been imported")
        sys.modules["airank_fast._C"] = None  # not found, so nothing is warned about
        from airank_fast import ops  # noqa: F401  (defines the schemas)

        assert not ops_with_kernels(), "the CPU kernels are loaded"
        path = build.library()
        torch.ops.load_library(path)
        self.library = ctypes.CDLL(path)
        self.library.cuda_on_cpu_num_launches.restype = ctypes.c_ulong
        self.library.cuda_on_cpu_set_schedule.argtypes = [ctypes.c_int, ctypes.c_ulong]
        assert ops_with_kernels(), "the library registers no kernels"
        self.launches = Counter()

    def pytest_collection_modifyitems(self, config, items):
        left_out = [item for item in items if item.get_closest_marker("not_emulated")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]

    def pytest_runtest_setup(self, item):
        seed = zlib.crc32(item.name.encode())
        name = SCHEDULES[seed % len(SCHEDULES)] if self.schedule == "each" else self.schedule
        self.library.cuda_on_cpu_set_schedule(SCHEDULES.index(name), seed)
        item.add_report_section("setup", "cuda_on_cpu", f"schedule {name}, seed {seed}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        before = self.library.cuda_on_cpu_num_launches()
        result = yield
        self.launches[item.path.name] += self.library.cuda_on_cpu_num_launches() - before
        return result

    def pytest_terminal_summary(self, terminalreporter):
        for name, number in self.launches.items():
            terminalreporter.write_line(f"cuda_on_cpu: {name}: {number} launches of emulated kernels")


def ops_with_kernels() -> list[str]:
    """The ops that have a kernel for CPU tensors."""
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("airank_fast::")]
    return [name for name in names if torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU")]
