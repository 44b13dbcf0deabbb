"""What all tests share: tests marked gpu are skipped, visibly, where there is no CUDA device; --cuda-on-cpu."""

import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--cuda-on-cpu", nargs="?", const="each", metavar="SCHEDULE",
                     help="test the CUDA kernels, run on the CPU, in place of the CPU kernels; "
                     "see tests/cuda_on_cpu/plugin.py")  # fmt: skip
    parser.addoption("--cpu-instructions", metavar="NAME",
                     help="CPU kernels use no later ones: baseline, AVX2, AVX-512")  # fmt: skip


def pytest_configure(config):
    if config.getoption("--cpu-instructions"):
        from airank_fast import _C, ops  # noqa: F401  (torch's libraries first)

        _C.limit_cpu_instructions(config.getoption("--cpu-instructions"))
    if config.getoption("--cuda-on-cpu"):
        from cuda_on_cpu.plugin import CudaOnCpu

        config.pluginmanager.register(CudaOnCpu(config.getoption("--cuda-on-cpu")))


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
