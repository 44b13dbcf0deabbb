"""The build: the extension's choices, and a wheel without kernels in a place of its own."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import torch
from cuda_on_cpu import build
from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).parents[1]
# Programs that pip has installed are beside Python, on PATH or not.
PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
SOURCES = ("airank_fast", "csrc", "models", "setup.py", "pyproject.toml", "README.md", "LICENSE")
# Imports from the place that PYTHONPATH names, and from there alone: not from an editable install of the same name.
REFERENCE_STEP = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "Editable" not in getattr(finder, "__name__", "")]
import torch
from airank_fast.engine import system
from airank_fast.models.resnet import resnet50
from airank_fast.optim import FusedSGD
from airank_fast.data.images import digits
weight = torch.nn.Parameter(torch.ones(3))
weight.grad = torch.ones(3)
FusedSGD([weight], lr=0.5).step()
assert weight.tolist() == [0.5, 0.5, 0.5]
assert "missing" in system.extension() and system.kernels()["sgd_"]["cpu"] == "reference"
print(system.__file__, resnet50.__code__.co_filename)
"""
# What setup.py builds where torch has CUDA: sources, macros and flags.
CUDA_EXTENSION = """
import json, os, setuptools, torch
torch.version.cuda = "13.0"
torch.cuda.device_count = lambda: 0
import torch.utils.cpp_extension
torch.utils.cpp_extension.CUDA_HOME = os.environ["CUDA_HOME"]
built = {}
setuptools.setup = built.update
exec(compile(open("setup.py").read(), "setup.py", "exec"))
module = built["ext_modules"][0]
flags = module.extra_compile_args["cxx"]
print(json.dumps({"sources": module.sources, "macros": module.define_macros, "flags": flags}))
"""


def run(*command, cwd=ROOT, check=True, **environment) -> subprocess.CompletedProcess:
    """Run a command with more environment variables; fail with its output where it fails."""
    environment = {**os.environ, "MAX_JOBS": "1", "PATH": PATH, **environment}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the sources of a build, so that building leaves no file here."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        elif source.exists():
            shutil.copy(source, copy / name)
    return copy


@pytest.mark.skipif(build.missing() is not None, reason=str(build.missing()))
def test_a_cuda_source_compiles_as_the_extension_builds_it(tmp_path):
    """Host code alone, with setup.py's macros and flags: tests/cuda_on_cpu/test_cmake.py compiles the rest."""
    for name in ("bin/nvcc", "include/cuda_runtime.h"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    variables = {"CUDA_HOME": str(tmp_path), "AIRANK_FAST_CUDA": "1"}
    printed = run(sys.executable, "-c", CUDA_EXTENSION, **variables).stdout.splitlines()[-1]
    extension = json.loads(printed)
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc/cuda").glob("*_torch.cpp"))
    assert sources
    assert set(sources) <= set(extension["sources"])
    macros = [f"-D{name}" if value is None else f"-D{name}={value}" for name, value in extension["macros"]]
    folders = [ROOT / "csrc", *include_paths(), build.cuda_headers()]
    includes = [argument for folder in folders for argument in ("-isystem", folder)]
    run(build.COMPILER, *extension["flags"], "-fsyntax-only", *macros, *includes, sources[0])


def test_without_a_compiler_a_wheel_has_everything_but_kernels(checkout, tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheel_command = [*pip, "wheel", "-v", "--no-build-isolation", "--no-deps", "-w", tmp_path, "."]
    built = run(*wheel_command, cwd=checkout, CXX="no-such-compiler")
    assert "kernels NOT built, the reference ops will run: no C++ compiler was found" in built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = (
        "py.typed",
        "data/images/digits.npz",
        "data/text/wordnet.txt.xz",
        "data/images/fashion.npy.xz",
        "data/text/home_assistant.tsv.xz",
        "nn/choices.json",
    )
    for path in [*(ROOT / "airank_fast").rglob("*.py"), *(ROOT / "airank_fast" / name for name in files)]:
        assert str(path.relative_to(ROOT)) in names
    for path in (ROOT / "models").glob("*.py"):
        assert f"airank_fast/models/{path.name}" in names
    assert not any(name.startswith(("tests", "bench", "models", "csrc")) for name in names)
    place = tmp_path / "place"
    run(*pip, "install", "--no-deps", "--target", place, wheel)
    step = run(sys.executable, "-c", REFERENCE_STEP, cwd=tmp_path, PYTHONPATH=str(place))
    assert step.stdout.split() == [f"{place}/airank_fast/engine/system.py", f"{place}/airank_fast/models/resnet.py"]


def test_without_torch_in_the_build_environment_the_reason_and_the_way_out_are_printed(checkout, tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError")
    done = run(sys.executable, "setup.py", "--name", cwd=checkout, PYTHONPATH=str(tmp_path))
    assert "kernels NOT built" in done.stdout
    assert "pip install --no-build-isolation ." in done.stdout
    variables = {"PYTHONPATH": str(tmp_path), "AIRANK_FAST_CUDA": "1"}
    done = run(sys.executable, "setup.py", "--name", cwd=checkout, check=False, **variables)
    assert done.returncode != 0
    assert "got '1', no torch in the build environment" in done.stderr


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_a_compiler_that_fails_is_an_error(checkout):
    done = run(sys.executable, "setup.py", "build_ext", cwd=checkout, check=False, CXX="false", AIRANK_FAST_CUDA="0")
    assert done.returncode != 0
    assert not list(checkout.rglob("_C*.so"))


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("choice", ["yes", "1"])
def test_a_choice_of_cuda_that_cannot_be_met_is_an_error(checkout, tmp_path, choice):
    # CUDA_HOME is a folder without a toolkit, so that 1 fails on every machine.
    variables = {"AIRANK_FAST_CUDA": choice, "CUDA_HOME": str(tmp_path)}
    done = run(sys.executable, "setup.py", "--name", cwd=checkout, check=False, **variables)
    assert done.returncode != 0
    assert f"got '{choice}', torch {torch.__version__}, toolkit None" in done.stderr
