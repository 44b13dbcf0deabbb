"""The test_<op>.cpp here under sanitizers: kernels and launcher of one op on tiny shapes, all schedules.

asan: AddressSanitizer and UndefinedBehaviorSanitizer, which see an element past an array and a misaligned load; the
values are compared as well. tsan: ThreadSanitizer as a race detector, between the threads of a block and between
blocks, in shared and in global memory; of ops whose threads communicate, as the others have nothing to race for.
Of ops that differ in the formula alone (asan), and of those whose threads communicate by the same files (tsan), one is
run: its addresses, and its barriers, are theirs, and test_ops.py has the values of all. kernel_test.h describes how to
add an op.
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


def files_with(pattern: str, program: str) -> frozenset[str]:
    return frozenset(name for name, code in sources(program).items() if re.search(pattern, code))


def communicating_files(program: str) -> frozenset[str]:
    """Files with code in which threads use shared memory, barriers, shuffles or atomics."""
    return files_with(r"__shared__|__sync|__shfl|\batomic", program)


def addresses(program: str) -> object:
    """Programs of equal ones differ in the formula alone."""
    return program if communicating_files(program) else files_with("__global__", program)


def one_of_each(kind) -> list[str]:
    """The first program of each kind, where it has one."""
    first = {}
    for program in PROGRAMS:
        first.setdefault(kind(program), program)
    return [program for of_kind, program in first.items() if of_kind]


CASES = [(program, "asan") for program in one_of_each(addresses)]
CASES += [(program, "tsan") for program in one_of_each(communicating_files)]


def test_ops_of_all_kinds_are_found():
    asan, tsan = ({program for program, of in CASES if of == mode} for mode in ("asan", "tsan"))
    assert set(PROGRAMS) - asan == {"test_adam", "test_ftrl"}
    assert {"test_batch_norm_act", "test_cross_entropy", "test_fm"} < tsan
    assert len({"test_global_norm", "test_lamb", "test_lars"} & tsan) == 1  # all by tensor_sums.cuh
    assert len({"test_layer_norm", "test_dropout_add_layer_norm"} & tsan) == 1


@pytest.mark.parametrize(("program", "mode"), CASES)
def test_kernels_are_right_and_clean(program, mode, in_background):
    output = in_background(built_and_run, program=program, mode=mode)
    assert output.splitlines()[-1] == "exit status 0", output


def test_every_launcher_has_a_program():
    assert {f"test_{path.stem}" for path in build.launchers()} <= set(PROGRAMS)


def test_what_is_tested_is_what_is_launched():
    """A program without its launcher under csrc/cuda/ has a misspelt name, as there is nothing to link."""
    assert {name.removeprefix("test_") for name in PROGRAMS} <= {Path(path).stem for path in build.launchers()}
