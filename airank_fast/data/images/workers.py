"""Reading by worker processes: torch's DataLoader, with Pillow decoding in its workers.

A worker gets the request of a whole batch and returns its tensors, so that nothing is collated. 16-bit grey becomes
8-bit by v / 257, rounded, as in DALI; of 16-bit colours Pillow takes the upper 8 bits, within one level of it.
"""

from __future__ import annotations

import gc
import io
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from airank_fast.data.images.image_folder import FORMATS, PICTURE, corrupt_error
from airank_fast.data.images.place import Place
from airank_fast.data.processes import end_with, signals_held
from airank_fast.data.sampling import Request, TrainStream
from airank_fast.errors import UserError

NUM_TIMED = 4  # samples that decide who reads the others by number
PASSING_S = 0.003  # for a process to pass the tensors of one sample, on two cores


class Broken(NamedTuple):
    """Sent by a worker instead of a batch, as an exception would arrive inside a traceback; see `corrupt_error`."""

    path: str
    why: str
    what: str = PICTURE


class Refused(NamedTuple):
    """Sent by a worker instead of a batch that cannot be made; `why` is a UserError's message."""

    why: str


def decode(picture: str | bytes, mode: str = "RGB") -> Image.Image:
    """The picture of a file, or of its content, in Pillow's mode RGB or L."""
    with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture, formats=FORMATS) as image:
        image.load()
        narrow = _eight_bits(image) if image.mode.startswith("I") else image
        return narrow if narrow.mode == mode else narrow.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey as in DALI: v / 257, rounded. Pillow's own conversion makes all values above 255 white."""
    grey = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))


class WorkerReader:
    """The batches of one rank, which `place.num_workers` processes make; with 0, the calling thread.

    train, val: of a Request the tensors of a batch, or a Broken. num_val: samples of the validation set.
    """

    def __init__(self, train: Dataset, val: Dataset, num_val: int, stream: TrainStream, place: Place):
        self._train, self._val, self._num_val, self._stream, self._place = train, val, num_val, stream, place
        self._training: Generator[tuple[Tensor, ...], None, None] | None = None

    def train(self, first_step: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Endless local batches from global step `first_step` on. UserError names an unreadable file."""
        self.close()
        requests = partial(self._stream.requests, first_step)
        self._training = self._run(self._train, requests, self._place.num_workers)
        return self._training

    def evaluate(self) -> Iterator[tuple[Tensor, ...]]:
        """This rank's part of the validation set, in order, the last batch smaller."""
        return self._run(self._val, lambda: self._place.eval_requests(self._num_val), self._place.num_workers)

    @property
    def stream(self) -> TrainStream:
        """The order of the training samples."""
        return self._stream

    def samples(self, indices: Sequence[int]) -> Iterator[tuple[Tensor, ...]]:
        """The validation samples with these numbers, one at a time.

        The first ones are read by the calling thread, and so are the others, unless that takes longer than to pass them
        from one process to another.
        """
        requests = [Request(np.array([index]), None) for index in indices]
        first, rest = requests[:NUM_TIMED], requests[NUM_TIMED:]
        begin = time.perf_counter()
        read = list(self._run(self._val, lambda: first, 0))
        is_slow = time.perf_counter() - begin > NUM_TIMED * PASSING_S
        yield from read
        if rest:
            yield from self._run(self._val, lambda: rest, self._place.num_workers if is_slow else 0)

    def close(self) -> None:
        """Stops the workers."""
        if self._training is not None:
            self._training.close()

    def _run(
        self, dataset: Dataset, requests: Callable[[], Iterable[Request]], num_workers: int
    ) -> Generator[tuple[Tensor, ...], None, None]:
        loader = DataLoader(
            dataset,
            batch_size=None,
            sampler=_Sampler(requests),
            num_workers=num_workers,
            pin_memory=self._place.device.type == "cuda",
            prefetch_factor=2 if num_workers else None,
            worker_init_fn=partial(end_with, os.getpid()),
            generator=torch.Generator(),  # else it draws from the run's random state
        )
        gc.freeze()  # a forked worker must not collect what it inherits, such as DALI
        try:
            with signals_held():
                batches = iter(loader)
        finally:
            gc.unfreeze()
        try:
            for batch in batches:
                if isinstance(batch, Broken):
                    raise corrupt_error(*batch)
                if isinstance(batch, Refused):
                    raise UserError(batch.why)
                yield tuple(batch)
        finally:
            del batches  # ends the workers now; in the garbage of an exception each would take 5 s


class _Sampler:
    """An iterable over what a function returns, which is all that DataLoader requires of a sampler."""

    def __init__(self, make):
        self._make = make

    def __iter__(self):
        return iter(self._make())
