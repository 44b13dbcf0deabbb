"""CMake's view of csrc/: the library of kernels builds, loads and steps, and the formulas' own tests pass."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Programs that pip installs are beside Python, on PATH or not.
PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
# Loads a library of kernels in place of the extension module, which is hidden, and takes one step with it.
LOAD_LIBRARY = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "airank_fast._C" else find_spec(name, *rest)
import torch
from airank_fast import ops
from airank_fast.engine import system
assert system.kernels()["sgd_"]["cpu"] == "reference"
torch.ops.load_library(sys.argv[1])
assert system.kernels()["sgd_"]["cpu"] == "kernel"
"""


def run(*command) -> subprocess.CompletedProcess:
    """Run a command; fail with its output where it fails."""
    environment = {**os.environ, "PATH": PATH}
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.skipif(not all(shutil.which(name, path=PATH) for name in ("cmake", "ninja")), reason="no cmake, no ninja")
def test_cmake_builds_the_library_and_the_formulas_pass(tmp_path):
    """Without optimisation, as setup.py's build has it, and with the loops that a processor other than x86-64 gets. Of
    CUDA one source of each form, to PTX: all of them are compiled by the emulator's tests, the host's part, and by
    test_nvrtc.py, the device's."""
    options = ["-G", "Ninja", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CUDA_ARCHITECTURES=90-virtual"]
    options.append("-DCMAKE_CXX_FLAGS=-DAIRANK_FAST_BASELINE_ONLY")
    if "--Ofast-compile" in run("sh", "-c", "nvcc --help || true").stdout:
        options.append("-DCMAKE_CUDA_FLAGS=--Ofast-compile=max")
    run("cmake", "-S", ROOT, "-B", tmp_path, *options, f"-DPython3_EXECUTABLE={sys.executable}")
    targets = ["airank_fast_ops", *(path.stem for path in (ROOT / "tests/cpp").glob("test_*.cpp"))]
    if shutil.which("nvcc"):
        names = ("adam.cu", "batch_norm_act.cu", "layer_norm.cu")  # lists of tensors, planes, rows
        targets += [f"CMakeFiles/cuda_compile_check.dir/csrc/cuda/{name}.o" for name in names]
    run("cmake", "--build", tmp_path, "-j", "2", "--target", *targets)
    tests = run("ctest", "--test-dir", tmp_path, "--output-on-failure").stdout
    assert "100% tests passed" in tests
    assert "test_sgd_math" in tests
    commands = json.loads((tmp_path / "compile_commands.json").read_text())
    compiled = {Path(command["file"]).name for command in commands}
    assert {path.name for path in (ROOT / "csrc/cpu").glob("*.cpp")} <= compiled
    if shutil.which("nvcc"):
        assert {path.name for path in (ROOT / "csrc/cuda").glob("*.cu")} <= compiled
    run(sys.executable, "-c", LOAD_LIBRARY, tmp_path / "libairank_fast_ops.so")
