"""Maps a function over items in worker processes, with results in order and few items in memory."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from airank_fast.data.processes import end_with
from airank_fast.errors import UserError

T, R = TypeVar("T"), TypeVar("R")


def ordered_map(function: Callable[[T], R], items: Iterable[T], num_workers: int) -> Iterator[R]:
    """function(item) for each item, in their order; with one worker in the calling process.

    `items` is read 2 * num_workers + 1 items ahead at most. UserError: a worker was killed.
    """
    if num_workers == 1:
        yield from map(function, items)
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else None)  # a spawned one imports torch again
    pool = ProcessPoolExecutor(num_workers, context, _begin, (os.getpid(),))
    waiting: deque = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            "--workers: must have enough memory for each, one was killed; give fewer, or a smaller --part-mb"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(parent: int) -> None:
    end_with(parent)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork, and there are workers
