"""Maps over worker processes: results in order, few items ahead, and a clear error when a worker dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airank_fast.errors import UserError
from airank_fast.sources.workers import ordered_map


def _square(number: int) -> int:
    return number * number


def _die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("num_workers", [1, 2])
def test_results_are_in_order_and_items_are_read_when_needed(num_workers):
    read = []

    def items():
        for number in range(50):
            read.append(number)
            yield number

    results = ordered_map(_square, items(), num_workers)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(read) <= 3 + 2 * num_workers + 1
    assert list(results) == [n * n for n in range(3, 50)]


def test_a_worker_that_is_killed():
    with pytest.raises(UserError, match="--workers: must have enough memory for each, one was killed"):
        list(ordered_map(_die, range(20), 2))


def test_workers_end_when_their_parent_is_killed():
    """After `kill -9` of prepare its workers once stayed for ever, with 190 MB each."""
    code = """
import os, time
from airank_fast.sources.workers import ordered_map

def pid(number):
    time.sleep(0.1)
    return os.getpid()

results = ordered_map(pid, iter(range(1 << 30)), 2)
pids = set()
while len(pids) < 2:
    pids.add(next(results))
print(*pids, flush=True)
time.sleep(1000)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 60
        while any(map(_is_running, pids)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(map(_is_running, pids))


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
