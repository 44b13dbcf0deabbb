"""The test_<op>.cpp here under sanitizers: kernels and launcher of one op on tiny shapes, all schedules.

asan: AddressSanitizer and UndefinedBehaviorSanitizer, which see an element past an array and a misaligned load; the
values are compared as well. tsan: ThreadSanitizer as a race detector, between the threads of a block and between
blocks, in shared and in global memory; of ops whose threads communicate, as the others have nothing to race for. Of ops
that differ in the formula alone (Adam, Adagrad, FTRL) one is run: its addresses are theirs, and test_ops.py has values.
kernel_test.h describes how to add an op.
"""

import re
from pathlib import Path

import pytest
from cuda_on_cpu import build

PROGRAMS = sorted(path.stem for path in build.HERE.glob("test_*.cpp"))

pytestmark = pytest.mark.skipif(bool(build.missing()), reason=str(build.missing()))


def built_and_run(program: str, mode: str) -> str:
    return build.run(build.program(build.HERE / f"{program}.cpp", mode))


def included(source: Path) -> set[Path]:
    """The source and all that it includes of its own folder."""
    found, left = set(), [source]
    while left:
        path = left.pop()
        if path not in found and path.exists():
            found.add(path)
            left += [path.parent / name for name in re.findall(r'#include "(\w+\.(?:cuh|h))"', path.read_text())]
    return {path for path in found if path.name != "compat.cuh"}  # which only makes such functions available


def sources(program: str) -> dict[str, str]:
    """Name -> code of the op's launcher and of all that it includes."""
    files = included(build.ROOT / f"csrc/cuda/{program.removeprefix('test_')}.cu")
    return {path.name: re.sub(r"//.*", "", path.read_text()) for path in files}


def communicates(program: str) -> bool:
    """Whether the op's threads use shared memory, barriers, shuffles or atomics."""
    return re.search(r"__shared__|__sync|__shfl|\batomic", "".join(sources(program).values())) is not None


def one_of_each_kernel() -> list[str]:
    """The programs, of those whose kernels lie in the same files and do not communicate the first."""
    first = {}
    for program in PROGRAMS:
        files = frozenset(name for name, code in sources(program).items() if "__global__" in code)
        first.setdefault(program if communicates(program) else files, program)
    return list(first.values())


CASES = [
    (program, mode)
    for program in one_of_each_kernel()
    for mode in ("asan", "tsan")
    if mode == "asan" or communicates(program)
]


def test_ops_of_all_kinds_are_found():
    assert ("test_layer_norm", "tsan") in CASES
    assert ("test_adagrad", "tsan") not in CASES
    assert set(PROGRAMS) - {program for program, _ in CASES} == {"test_adam", "test_ftrl"}


@pytest.mark.parametrize(("program", "mode"), CASES)
def test_kernels_are_right_and_clean(program, mode, in_background):
    output = in_background(built_and_run, program=program, mode=mode)
    assert output.splitlines()[-1] == "exit status 0", output


def test_every_launcher_has_a_program():
    assert {f"test_{path.stem}" for path in build.launchers()} <= set(PROGRAMS)


def test_what_is_tested_is_what_is_launched():
    """A program without its launcher under csrc/cuda/ has a misspelt name, as there is nothing to link."""
    assert {name.removeprefix("test_") for name in PROGRAMS} <= {Path(path).stem for path in build.launchers()}
