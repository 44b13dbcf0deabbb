"""Every test_<op>.cpp here on a GPU, by itself and under compute-sanitizer.

    python tests/cuda_on_cpu/on_device.py [--tools memcheck racecheck synccheck] [--ops sgd ...] [--build-only]

nvcc compiles them for the GPU that is there, into build/on_device, and they run as soon as they are compiled, as many
at a time as there are processors. The exit status is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build/on_device"
TOOLS = ["memcheck", "racecheck", "synccheck", "initcheck"]


def tool(name: str) -> str:
    """The path of a program of the CUDA toolkit."""
    found = shutil.which(name) or f"{os.environ.get('CUDA_HOME', '/usr/local/cuda')}/bin/{name}"
    if not os.path.exists(found):
        sys.exit(f"{name}: a CUDA toolkit is required, got none on PATH or in CUDA_HOME")
    return found


def build(compiler: str, op: str, architecture: str) -> Path | None:
    """The program of an op; None and the compiler's output if it failed."""
    program = BUILD / f"test_{op}"
    options = ["-std=c++20", "-O2", "-lineinfo", f"-arch={architecture}", f"-I{ROOT}/csrc", f"-I{HERE}", "-x", "cu"]
    sources = [str(HERE / f"test_{op}.cpp"), str(ROOT / f"csrc/cuda/{op}.cu")]
    command = [compiler, *options, *sources, "-o", str(program)]
    return program if passed(f"{op}, compilation", command) else None


def passed(what: str, command: Sequence[str], limit_s: float = 240) -> bool:
    """Run a command; prints its result, and its output if it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
        ok, printed = done.returncode == 0, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        ok, printed = False, f"over {limit_s} s"
    # In one piece, as others print at the same time.
    print(f"{what}: passed\n" if ok else f"{what}: FAILED\n{printed[-6000:]}\n", end="", flush=True)
    return ok


def main() -> int:
    ops = sorted(path.stem.removeprefix("test_") for path in HERE.glob("test_*.cpp"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", nargs="*", choices=TOOLS, default=TOOLS[:3])
    parser.add_argument("--ops", nargs="+", choices=ops, default=ops)
    parser.add_argument("--architecture", default="native")
    parser.add_argument("--build-only", action="store_true")
    arguments = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    num_failed = 0
    compiler, runs = tool("nvcc"), {"": []}
    if not arguments.build_only:
        sanitizer = [tool("compute-sanitizer"), "--error-exitcode", "9", "--tool"] if arguments.tools else []
        runs |= {f", {name}": [*sanitizer, name] for name in arguments.tools}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiling = {pool.submit(build, compiler, op, arguments.architecture): op for op in arguments.ops}
        results = []
        for compiled in as_completed(compiling):
            op, program = compiling[compiled], compiled.result()
            if program is None:
                num_failed += 1
            elif not arguments.build_only:
                results += [pool.submit(passed, op + what, [*under, str(program)]) for what, under in runs.items()]
        num_failed += sum(not result.result() for result in results)
    print(f"{num_failed} failed" if num_failed else "all passed")
    return int(num_failed > 0)


if __name__ == "__main__":
    sys.exit(main())
