"""Options of all tests: tests marked gpu are skipped, with a line, where there is no CUDA device; --cuda-on-cpu."""

import os
import signal

import pytest
import torch

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # the tests that need it report that; those for a GPU do not need it
    pass
else:
    settings.register_profile(
        "suite",
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=60,
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("suite")


def pytest_addoption(parser):
    parser.addoption(
        "--cuda-on-cpu",
        nargs="?",
        const="each",
        metavar="SCHEDULE",
        help="test the CUDA kernels, run on the CPU, in place of the CPU kernels; see tests/cuda_on_cpu/plugin.py",
    )
    parser.addoption(
        "--kernels", action="store_true", help="run tests/cuda_on_cpu although it has passed with the same sources"
    )
    parser.addoption(
        "--cpu-instructions", metavar="NAME", help="CPU kernels use no later ones: baseline, AVX2, AVX-512"
    )


def pytest_configure(config):
    # A suite in the background of a shell, or under nohup, ignores these, and so would the processes that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if config.getoption("--cpu-instructions"):
        from airank_fast import _C, ops  # noqa: F401  (torch's libraries first)

        _C.limit_cpu_instructions(config.getoption("--cpu-instructions"))
    if config.getoption("--cuda-on-cpu"):
        from cuda_on_cpu.plugin import CudaOnCpu

        config.pluginmanager.register(CudaOnCpu(config.getoption("--cuda-on-cpu")))


@pytest.fixture(scope="session", autouse=True)
def _home_of_its_own(tmp_path_factory):
    """An empty ~/.cache, so that the tested code fills it, once for all processes of pytest."""
    folder = tmp_path_factory.getbasetemp()
    home = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "home"
    home.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        yield


def starts_processes(item) -> bool:
    """Whether the item is of a file whose tests start compilers or runs."""
    return item.path.parent.name in ("commands", "cuda_on_cpu") or item.path.name == "test_build.py"


def pytest_collection_modifyitems(items):
    # The files that take longest begin first, so that no processor is idle at the end.
    items.sort(key=lambda item: not starts_processes(item))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
