"""Memory of an inference: of this process alone, by stage, from a peak that starts anew."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="only Linux has the peak of a program")
MB = 2**20

PARENT = """
import subprocess, sys
kept = bytearray(500 * 2**20)
kept[::4096] = b"x" * len(kept[::4096])
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
"""
CHILD = """
import json, torch
from airank_fast.inference.memory import Stages, peak_bytes, reset_peak, resident_bytes
import resource
def allocate(megabytes):
    return torch.ones(megabytes * 2**18)
stages = Stages(torch.device("cpu"))
kept = allocate(100)
stages.done("model")
large = allocate(300)
del large
stages.done("run")
small = allocate(20)
stages.done("run")
before = peak_bytes()
large = allocate(100)
during = peak_bytes()
del large
reset_peak()
after = peak_bytes()
print(json.dumps({**stages.facts(), "grown": during - before, "shrunk": during - after,
    "inherited": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


@pytest.fixture(scope="module")
def measured() -> dict:
    command = [sys.executable, "-c", PARENT, CHILD]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_a_child_of_a_large_parent_reports_its_own(measured):
    assert measured["inherited"] >= 500 * MB  # else this test is void
    assert measured["runtime_bytes"] < 450 * MB
    assert measured["total_bytes"] < measured["runtime_bytes"] + 450 * MB


def test_what_was_freed_shows_until_the_reset(measured):
    assert measured["grown"] > 60 * MB
    assert measured["shrunk"] > 90 * MB


def test_stages_have_their_own_peaks(measured):
    assert 95 * MB < measured["model_bytes"] < 130 * MB
    assert 395 * MB < measured["run_bytes"] < 430 * MB  # the larger of the two, above the 100 MB that are kept
    assert measured["total_bytes"] >= measured["runtime_bytes"] + measured["run_bytes"] - 1 * MB
