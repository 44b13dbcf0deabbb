"""Every test_<op>.cpp here, plain and under sanitizers: kernels and launcher of one op on tiny shapes, all schedules.

plain: values under every schedule. asan: AddressSanitizer and UndefinedBehaviorSanitizer, which see an element past
an array and a misaligned load. tsan: ThreadSanitizer as a race detector, between the threads of a block and between
blocks, in shared and in global memory. kernel_test.h describes how to add an op.
"""

from pathlib import Path

import pytest
from cuda_on_cpu import build

PROGRAMS = sorted(path.stem for path in build.HERE.glob("test_*.cpp"))

pytestmark = pytest.mark.skipif(bool(build.missing()), reason=str(build.missing()))


def built_and_run(program: str, mode: str) -> str:
    return build.run(build.program(build.HERE / f"{program}.cpp", mode))


@pytest.mark.parametrize("mode", build.MODES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_kernels_are_right_and_clean(program, mode, in_background):
    output = in_background(built_and_run, program=program, mode=mode)
    assert output.splitlines()[-1] == "exit status 0", output


def test_every_launcher_has_a_program():
    assert {f"test_{path.stem}" for path in build.launchers()} <= set(PROGRAMS)


def test_what_is_tested_is_what_is_launched():
    """A program without its launcher under csrc/cuda/ has a misspelt name, as there is nothing to link."""
    assert {name.removeprefix("test_") for name in PROGRAMS} <= {Path(path).stem for path in build.launchers()}
