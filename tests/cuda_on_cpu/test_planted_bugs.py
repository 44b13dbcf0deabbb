"""Tests the emulator: bugs planted in small kernels are found, each by the checks that should find it.

Values that are wrong are found in every mode; the table names, per bug, the modes that must find it and what they
must say. Races between blocks and missing fences change no value here, nor often on a GPU: only tsan sees them.
"""

import re

import pytest
from cuda_on_cpu import build

SOURCE = build.HERE / "planted_bugs.cpp"
WRONG, RACE = r"must be [-\d.]+, got", r"data race"
BUGS = {
    "kMissingBarrier": {"plain": WRONG, "asan": WRONG, "tsan": RACE},
    "kReuseWithoutBarrier": {"plain": WRONG, "asan": WRONG, "tsan": RACE},
    "kUninitialisedShared": {"plain": r"got -?nan", "asan": r"got -?nan", "tsan": r"got -?nan"},
    "kTailPastTheEnd": {"plain": WRONG, "asan": r"misaligned address|heap-buffer-overflow"},
    "kUnclippedChunk": {"asan": r"heap-buffer-overflow", "tsan": r"data race|heap-use-after-free"},
    "kNonAtomicAccumulation": {"tsan": RACE},
    "kMissingFence": {"tsan": RACE},
    "kReturnBeforeBarrier": dict.fromkeys(build.MODES, r"has left the kernel while|that have left the kernel"),
    "kDivergentBallot": dict.fromkeys(build.MODES, r"has left the kernel while|that have left the kernel"),
    "kPastDynamicShared": {"plain": WRONG, "asan": r"use-after-poison", "tsan": WRONG},
    "kDifferentBarriers": dict.fromkeys(build.MODES, r"some threads wait at the __syncthreads of line \d+, others at"),
    "kMissingSyncwarp": {"tsan": RACE},
    "kWritePastShared": {
        "plain": "written behind an array",
        "asan": "out of bounds|use-after-poison",
        "tsan": "written behind an array",
    },
    "kMissingLane": dict.fromkeys(build.MODES, r"is not in the mask it gives in line"),
}
FOUND_BY = [(bug, mode) for bug, modes in BUGS.items() for mode in modes]

pytestmark = pytest.mark.skipif(bool(build.missing()), reason=str(build.missing()))


def numbers_of_bugs() -> dict[str, int]:
    names = re.search(r"enum Bug \{(.*?)\}", SOURCE.read_text(), flags=re.DOTALL)[1].replace(",", " ").split()
    return {name: number for number, name in enumerate(names) if name not in ("kNone", "kNumBugs")}


def output_with(bug: str, mode: str) -> str:
    number = numbers_of_bugs()[bug] if bug else 0
    return build.run(build.program(SOURCE, mode), str(number))


@pytest.mark.parametrize("mode", build.MODES)
def test_without_a_bug_nothing_is_found(mode):
    output = output_with("", mode)
    assert output.splitlines()[-1] == "exit status 0", output


@pytest.mark.parametrize(("bug", "mode"), FOUND_BY)
def test_a_planted_bug_is_found(bug, mode):
    output = output_with(bug, mode)
    assert output.splitlines()[-1] != "exit status 0", output
    assert re.search(BUGS[bug][mode], output), output


def test_every_bug_is_in_the_table():
    assert list(numbers_of_bugs()) == list(BUGS)
