"""The base of every batch, and the move of a reader's items to the device.

On a CPU a batch is made when it is requested. On CUDA it is made one batch ahead of the step, on a stream of its own. A
thread does the host's part (`lay_out`) ahead of both.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import chain
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

AHEAD = 2  # items that are laid out before they are requested


@dataclass(kw_only=True)
class Batch:
    """A batch on the device. A subclass has the tensors as its fields, and `num_samples`.

    weight: of the mean over this batch, relative to an average micro-batch of the step; 1, unless the mean is over
    other things than samples. seconds: the host's time for the batch, where no CUDA stream made it. span: the events
    before and behind its transfer, where one did.
    """

    INPUTS: ClassVar[tuple[str, ...]] = ("images",)
    """Tensors that a prediction reads and no meter does."""

    weight: Tensor | float = 1.0
    seconds: float = field(default=0.0, repr=False)
    span: tuple[torch.cuda.Event, torch.cuda.Event] | None = field(default=None, repr=False)

    @property
    def num_samples(self) -> int:
        """Samples of the data set in this batch."""
        raise NotImplementedError

    @property
    def units(self) -> int:
        """What throughput counts in this batch: its samples, unless a subclass counts another thing."""
        return self.num_samples

    @property
    def num_outputs(self) -> int:
        """Rows of a prediction for this batch: one a sample, unless a subclass predicts several."""
        return self.num_samples

    @classmethod
    def merged(cls: type[B], batches: Sequence[B]) -> B:
        """The samples of several batches as one batch, in their order.

        Tensors are joined along their first dimension, tuples and lists too; a subclass with offsets overrides this.
        ValueError: tensors that differ in another dimension.
        """
        own = {f.name for f in fields(cls)} - {f.name for f in fields(Batch)}
        return cls(**{name: joined([getattr(batch, name) for batch in batches]) for name in sorted(own)})

    def tensors(self) -> dict[str, Tensor]:
        """The batch's tensors by the names of their fields."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def shape_key(self) -> object:
        """What selects the kernels of a step over this batch, besides the tensors' shapes."""
        return None

    def h2d_s(self) -> float | None:
        """Seconds of transfer and conversion; on CUDA between two events, None until they have finished."""
        if self.span is None:
            return self.seconds
        start, stop = self.span
        return start.elapsed_time(stop) / 1e3 if stop.query() else None


B = TypeVar("B", bound=Batch)
T = TypeVar("T")


def joined(parts: Sequence[Any]) -> Any:
    """Tensors, sequences or NamedTuples of them, one behind the other; of anything else the first, as all are alike.

    ValueError: tensors that differ in another dimension than the first.
    """
    first = parts[0]
    if isinstance(first, Tensor):
        shapes = {tuple(part.shape[1:]) for part in parts}
        if len(shapes) > 1:
            raise ValueError(f"samples of a batch: must be of one size, got {sorted(shapes)}")
        return torch.cat(list(parts))
    if isinstance(first, tuple) and hasattr(first, "_fields"):
        return type(first)(*map(joined, zip(*parts, strict=True)))
    if isinstance(first, tuple | list):
        return type(first)(chain.from_iterable(parts))
    return first


class Reader(Protocol):
    """Where a job's batches come from; `prefetch` moves its items to the device."""

    @property
    def name(self) -> str: ...
    def train(self, first_step: int = 0) -> Iterator[Any]:
        """This rank's items of every global batch from `first_step` on, without end."""

    def evaluate(self) -> Iterator[Any]:
        """This rank's items of the evaluation set."""

    def close(self) -> None:
        """Stop what runs in the background."""


def prefetch(
    batches: Iterable,
    device: torch.device | str,
    move: Callable[[Any], B],
    lay_out: Callable[[Any], Any] | None = None,
) -> Generator[B, None, None]:
    """Batches on the device.

    move: makes a batch of a reader's item; on CUDA by asynchronous copies on the current stream. lay_out: what a thread
    of the host does to an item before that, AHEAD items early. Closing the iterator closes `batches`; an error of the
    reader is raised in place of its batch.
    """
    device, source = torch.device(device), iter(batches)
    with contextlib.ExitStack() as stack:
        if hasattr(source, "close"):
            stack.callback(source.close)
        items: Iterator[tuple[Any, float]] = ((item, 0.0) for item in source)
        if lay_out is not None:
            items = stack.enter_context(contextlib.closing(_ahead(map(partial(_timed, lay_out), source))))
        yield from _on_a_stream(items, device, move) if device.type == "cuda" else _in_place(items, move)


def moved(arrays: Iterable[np.ndarray], device: torch.device | str) -> list[Tensor]:
    """The arrays as tensors on the device; on CUDA by asynchronous copies from pinned memory."""
    tensors = [torch.from_numpy(array) for array in arrays]
    if torch.device(device).type == "cuda":
        tensors = [tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors]
    return tensors


def _timed(function: Callable[[Any], T], item: Any) -> tuple[T, float]:
    start = time.perf_counter()
    result = function(item)
    return result, time.perf_counter() - start


def _ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The items, taken by a thread AHEAD items early."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        waiting = deque(thread.submit(next, items, None) for _ in range(AHEAD))
        try:
            while (item := waiting.popleft().result()) is not None:
                waiting.append(thread.submit(next, items, None))
                yield item
        finally:
            thread.shutdown(cancel_futures=True)


def _in_place(items: Iterator[tuple[Any, float]], move: Callable[[Any], B]) -> Iterator[B]:
    for item, seconds in items:
        batch, more = _timed(move, item)
        batch.seconds = seconds + more
        yield batch


def _on_a_stream(items: Iterator[tuple[Any, float]], device: torch.device, move: Callable[[Any], B]) -> Iterator[B]:
    side = torch.cuda.Stream(device)
    ahead: tuple[B, torch.cuda.Event] | None = None
    being_read: deque[tuple[torch.cuda.Event, Any]] = deque()
    for item, _ in items:
        if any(part.is_cuda for part in item if isinstance(part, Tensor)):
            side.wait_stream(torch.cuda.current_stream(device))
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(side):
            start.record()
            batch = move(item)
            stop.record()
        batch.span = start, stop
        # A reader's memory on the device is not torch's: the reader must not reuse it while the side stream reads.
        being_read.append((stop, item))
        while being_read and being_read[0][0].query():
            being_read.popleft()
        now, ahead = ahead, (batch, stop)
        if now is not None:
            yield _handed_over(*now, torch.cuda.current_stream(device))
    if ahead is not None:
        yield _handed_over(*ahead, torch.cuda.current_stream(device))


def _handed_over(batch: B, copied: torch.cuda.Event, stream: torch.cuda.Stream) -> B:
    """Order the step after the copy, and keep the memory from being reused before the step has read it."""
    stream.wait_event(copied)
    for tensor in batch.tensors().values():
        tensor.record_stream(stream)
    return batch
