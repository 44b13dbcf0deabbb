"""The tests of the ops, tests/ops/test_*.py, on the CUDA kernels: the same inputs as for the CPU kernels, emulated.

They run in a process of their own with --cuda-on-cpu, which plugin.py describes.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_on_cpu import build

# Tests of what torch is told of an op, not of its kernels.
LEFT_OUT = "not (opcheck or compiles_without)"
FILES = [f"tests/ops/test_{source.stem}.py" for source in build.launchers()]

pytestmark = pytest.mark.skipif(bool(build.missing()), reason=str(build.missing()))


def test_the_ops_tests_pass_on_emulated_kernels():
    command = [sys.executable, "-m", "pytest", *FILES, "-k", LEFT_OUT, "--cuda-on-cpu", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as an emulated kernel has one
    done = subprocess.run(command, cwd=build.ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    launches = dict(re.findall(r"cuda_on_cpu: (\S+): (\d+) launches", done.stdout))
    assert launches.keys() == {Path(file).name for file in FILES}
    assert "0" not in launches.values()
