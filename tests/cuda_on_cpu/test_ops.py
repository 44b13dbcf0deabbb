"""The tests of the ops, tests/ops/test_*.py, on the CUDA kernels: the same inputs as for the CPU kernels, emulated.

Each file runs in a process of its own with --cuda-on-cpu, which plugin.py describes.
"""

import os
import re
import subprocess
import sys

import pytest
from cuda_on_cpu import build

FILES = [f"tests/ops/test_{source.stem}.py" for source in build.launchers()]

pytestmark = pytest.mark.skipif(bool(build.missing()), reason=str(build.missing()))


@pytest.fixture(scope="module")
def library():
    """Built before the processes that load it begin."""
    return build.library()


def run_tests(file: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", file, "--cuda-on-cpu", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # an emulated kernel has one, and files run side by side
    done = subprocess.run(command, cwd=build.ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("file", FILES)
def test_the_ops_tests_pass_on_emulated_kernels(file, in_background):
    status, output = in_background(run_tests, file=file)
    assert status == 0, output
    assert int(re.search(r"cuda_on_cpu: (\d+) launches", output)[1]) > 0
