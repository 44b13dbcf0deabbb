"""Work among processes: in order, not far ahead, and a clear word when one dies."""

import os
import signal

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
    with pytest.raises(UserError, match="--workers: memory for each is required, one was killed"):
        list(ordered_map(_die, range(20), 2))
