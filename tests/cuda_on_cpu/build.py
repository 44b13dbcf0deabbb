"""Compiles csrc/cuda/ for the CPU: every source by a process of its own, again only where one of its inputs changed.

`library()` is a library of kernels like the extension, with the CUDA kernels registered for CPU tensors; `program()` a
stand-alone test of one op's launcher, with sanitizers or without. All of it lies in build/cuda_on_cpu/.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build/cuda_on_cpu"
COMPILER = os.environ.get("CXX", "g++").split()[0]
FLAGS = [
    "-std=c++20",
    "-fPIC",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-Wall",
    "-Wno-unknown-pragmas",
    "-DAIRANK_FAST_CUDA_ON_CPU",
    f"-I{ROOT}/csrc",
    f"-I{HERE}",
]
TORCH_FLAGS = ["-isystem", f"{Path(torch.__file__).parent}/include", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
EMULATOR = ["cuda_on_cpu.cpp", "runtime.cpp"]
# Compiling takes longer than running, so -O1, one 16-bit type under sanitizers, and ASan's checks as calls. -g1: lines,
# for reports. UBSan is without checks that ASan has too and that take long to compile.
MODES = {
    "plain": ["-O1"],
    "asan": [
        "-O1",
        "-DAIRANK_FAST_ONE_16_BIT_TYPE",
        "-g1",
        "-fsanitize=address,undefined",
        *(["--param=asan-instrumentation-with-call-threshold=0"] if COMPILER.endswith("g++") else []),
        "-fno-sanitize=vptr,null,object-size,pointer-overflow",
        "-fno-sanitize-recover=all",
    ],
    "tsan": ["-O1", "-DAIRANK_FAST_ONE_16_BIT_TYPE", "-g1", "-fsanitize=thread"],
}


@functools.cache
def cuda_headers() -> Path | None:
    """A folder with the CUDA headers that a host compiler needs: from PyPI's wheels or a toolkit; None without."""
    folders = [Path(sysconfig.get_path("purelib"), "nvidia/cu13/include")]
    if os.environ.get("CUDA_HOME"):
        folders.append(Path(os.environ["CUDA_HOME"], "include"))
    if shutil.which("nvcc"):  # may be a script, so it is run
        command = ["nvcc", "-dryrun", "-x", "cu", "-c", os.devnull]
        printed = subprocess.run(command, capture_output=True, text=True, check=False).stderr
        places = [line.split("=")[1] for line in printed.splitlines() if line.startswith("#$ _HERE_=")]
        folders += [Path(place, "../include") for place in places]
    folders.append(Path("/usr/local/cuda/include"))
    needed = ("cuda_runtime.h", "cuda_bf16.h", "crt/host_defines.h")
    whole = [folder.resolve() for folder in folders if all((folder / name).exists() for name in needed)]
    return whole[0] if whole else None


def missing() -> str | None:
    """The reason why this machine cannot compile them, or None."""
    if shutil.which(COMPILER) is None:
        return f"no C++ compiler {COMPILER}"
    return None if cuda_headers() else "no CUDA headers: neither nvcc nor PyPI's nvidia-cuda-runtime, -crt and -cccl"


def launchers() -> list[Path]:
    """The torch-free half of the CUDA sources: kernels with their launchers."""
    return sorted((ROOT / "csrc/cuda").glob("*.cu"))


def library() -> Path:
    """The CUDA kernels as a library for torch.ops.load_library, for CPU tensors."""
    lib = Path(torch.__file__).parent / "lib"
    link = ["-shared", "-Wl,-Bsymbolic", f"-L{lib}", f"-Wl,-rpath,{lib}", "-ltorch_cpu", "-ltorch", "-lc10"]
    sources = [*launchers(), *sorted((ROOT / "csrc/cuda").glob("*_torch.cpp"))]
    return _link("libcuda_on_cpu.so", sources, "plain", link)


def program(source: Path, mode: str, *macros: str) -> Path:
    """A stand-alone program from test_<op>.cpp and csrc/cuda/<op>.cu; `macros` go to the test alone."""
    launcher = ROOT / f"csrc/cuda/{source.stem.removeprefix('test_')}.cu"
    name = "-".join([source.stem, mode, *(macro.replace("=", "") for macro in macros)])
    return _link(name, [source, *([launcher] if launcher.exists() else [])], mode, MODES[mode], macros)


def run(program: Path, *arguments: str) -> str:
    """The output of a program, with its exit status as the last line."""
    options = {
        "ASAN_OPTIONS": "detect_leaks=0",  # a launch that fails abandons its stacks
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "atexit_sleep_ms=0",  # no other thread can still report a race
    }
    done = subprocess.run(
        [*_without_randomisation(), str(program), *arguments],
        capture_output=True,
        text=True,
        check=False,
        errors="replace",
        env={**os.environ, **options},
        timeout=300,
    )
    return f"{done.stdout}{done.stderr}\nexit status {done.returncode}"


@functools.cache
def _without_randomisation() -> list[str]:
    """A prefix of the command: older sanitizers do not start with much randomisation of addresses."""
    command = ["setarch", "-R"]
    with contextlib.suppress(OSError):
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            return command
    return []


def compiled(source: Path, mode: str = "plain", macros: tuple[str, ...] = ()) -> Path:
    """The object file of a source."""
    options = [*FLAGS, *(["-O2"] if source.name in EMULATOR else MODES[mode]), "-isystem", str(cuda_headers())]
    if source.name.endswith("_torch.cpp"):
        options += TORCH_FLAGS
        options += ["-include", str(_torch_headers(options))]
    if source.name in EMULATOR:
        mode = "plain"  # not compiled with sanitizers
    folder = BUILD / "-".join([mode, *(macro.replace("=", "") for macro in macros)])
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{source.stem}.o"
    command = [COMPILER, *options, *(f"-D{macro}" for macro in macros), "-x", "c++", "-c", str(source)]
    with _locked(made):
        return _up_to_date(made, [*command, "-MMD", "-MF", f"{made}.d"], lambda: _read_depfile(Path(f"{made}.d")))


def _torch_headers(options: list[str]) -> Path:
    """torch's headers, precompiled: they take most of the time of the sources that include them."""
    headers = BUILD / "torch_headers.h"
    made = Path(f"{headers}.gch")
    with _locked(made):
        text = "".join(f"#include <torch/csrc/stable/{name}.h>\n" for name in ("library", "ops", "tensor"))
        if not headers.exists() or headers.read_text() != text:
            headers.write_text(text)
        _up_to_date(made, [COMPILER, *options, "-x", "c++-header", str(headers)], lambda: [headers])
    return headers


def inputs_of(made: Path) -> list[Path]:
    """The inputs of an object file, without the system's headers."""
    return [Path(path) for path in json.loads(Path(f"{made}.json").read_text())["inputs"]]


def _link(name: str, sources: list[Path], mode: str, options: list[str], macros: tuple[str, ...] = ()) -> Path:
    """Compile what must be compiled, one process per processor at a time, and link."""

    def compiled_with_macros(source: Path) -> Path:
        return compiled(source, mode, macros if source.parent == HERE and source.name not in EMULATOR else ())

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled_with_macros, [*sources, *(HERE / name for name in EMULATOR)]))
    made = BUILD / name
    with _locked(made):
        command = [COMPILER, *(str(path) for path in objects), *options]
        return _up_to_date(made, command, lambda: objects)


def _up_to_date(made: Path, command: list[str], inputs) -> Path:
    """Run `command` for `made` unless it was made by the same command from inputs of the same contents."""
    note = Path(f"{made}.json")
    if made.exists() and note.exists():
        noted = json.loads(note.read_text())
        if noted["key"] == _key(command, [Path(path) for path in noted["inputs"]]):
            return made
    done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    if done.stderr:
        print(done.stderr)  # warnings
    read = [str(path) for path in inputs()]
    note.write_text(json.dumps({"key": _key(command, [Path(path) for path in read]), "inputs": read}))
    return made


def _key(command: list[str], inputs: list[Path]) -> str:
    key = hashlib.sha256("\0".join([*command, _version(), torch.__version__]).encode())
    for path in inputs:
        key.update(path.read_bytes() if path.exists() else b"gone")
    return key.hexdigest()


@functools.cache
def _version() -> str:
    return subprocess.run([COMPILER, "--version"], capture_output=True, text=True, check=True).stdout


def _read_depfile(path: Path) -> list[Path]:
    names = path.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    return [Path(name) for name in names]


@contextlib.contextmanager
def _locked(path: Path):
    """A lock, as several pytest processes may build the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
