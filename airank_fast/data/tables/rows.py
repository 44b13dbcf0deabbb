"""Rows of a table in memory, their reader, and the batches that it makes."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from airank_fast.data.prefetch import Batch, moved
from airank_fast.data.prefetch import prefetch as any_prefetch
from airank_fast.data.sampling import TrainStream, eval_batches
from airank_fast.errors import require


class Rows(NamedTuple):
    """dense: float32 [n, numbers]; ids: int32 [n, slots]; labels: float32 [n], 0 or 1."""

    dense: np.ndarray
    ids: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Table:
    """A data set. slots: the number of ids of each categorical column; numbers: the names of the dense columns.

    UserError for an id that its slot does not have, or a label other than 0 and 1.
    """

    slots: Mapping[str, int]
    numbers: tuple[str, ...]
    train: Rows
    held_out: Rows

    def __post_init__(self) -> None:
        for rows in (self.train, self.held_out):
            for column, (name, size) in enumerate(self.slots.items()):
                wrong = (rows.ids[:, column] < 0) | (rows.ids[:, column] >= size)
                require(not wrong.any(), name, f"an id in [0, {size})", rows.ids[wrong.argmax(), column])
            wrong = (rows.labels != 0) & (rows.labels != 1)
            require(not wrong.any(), "label", "0 or 1", rows.labels[wrong.argmax()])

    @classmethod
    def from_columns(
        cls,
        slots: Mapping[str, int],
        numbers: Mapping[str, np.ndarray],
        categories: Mapping[str, np.ndarray],
        labels: np.ndarray,
        num_train: int,
    ) -> Table:
        """A table of whole columns, of which the first `num_train` rows are the training ones.

        Numbers get mean 0 and variance 1 over the training rows. Id 0 of a slot is a value that no training row has;
        the others are in the order of the values.
        """
        dense = np.column_stack([_scaled(column, num_train) for column in numbers.values()])
        ids = np.column_stack([_ids(categories[name], num_train) for name in slots])
        rows = Rows(dense.astype(np.float32), ids, labels.astype(np.float32))
        sides = (Rows(*(part[side] for part in rows)) for side in (slice(num_train), slice(num_train, None)))
        return cls(slots, tuple(numbers), *sides)

    def crossed(self, crosses: Sequence[Sequence[str]], buckets: int) -> Table:
        """The table with a slot more for each group of columns in `crosses`, named NAME_x_NAME: see `cross`."""
        places = {name: column for column, name in enumerate(self.slots)}
        groups = [[places[name] for name in names] for names in crosses]
        slots = {**self.slots, **{"_x_".join(names): buckets for names in crosses}}

        def extended(rows: Rows) -> Rows:
            more = [cross([rows.ids[:, column] for column in group], buckets) for group in groups]
            return rows._replace(ids=np.column_stack([rows.ids, *more]))

        return replace(self, slots=slots, train=extended(self.train), held_out=extended(self.held_out))

    def checksum(self) -> str:
        """SHA-256 of ids and labels of both sides."""
        parts = (part for rows in (self.train, self.held_out) for part in (rows.ids, rows.labels))
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def _scaled(column: np.ndarray, num_train: int) -> np.ndarray:
    values = column.astype(np.float64)
    return (values - values[:num_train].mean()) / values[:num_train].std()


def _ids(column: np.ndarray, num_train: int) -> np.ndarray:
    values = np.unique(column[:num_train])
    places = np.searchsorted(values, column).clip(max=len(values) - 1)
    return np.where(values[places] == column, places + 1, 0).astype(np.int32)


def cross(columns: Sequence[np.ndarray], buckets: int) -> np.ndarray:
    """The bucket of each row's combination of ids: int32 [n], 0 ... buckets - 1, the same on every machine.

    h = 0, and for each column h = mix(h + id), modulo 2^64, with splitmix64's step and mix; the bucket is h modulo
    `buckets`. columns: integers [n], at least 0.
    """
    h = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        h = h + column.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        h = h ^ (h >> np.uint64(31))
    return (h % np.uint64(buckets)).astype(np.int32)


@dataclass
class RowBatch(Batch):
    """Rows on the device. dense: float32 [b, numbers]; ids: int32 [b, slots]; labels: float32 [b].

    samples: int64 [b], the rows' numbers on their side of the table.
    """

    dense: Tensor
    ids: Tensor
    labels: Tensor
    samples: Tensor

    @property
    def num_samples(self) -> int:
        """Rows in this batch."""
        return len(self.labels)


class RowReader:
    """This rank's batches of a table in memory, as tuples (Rows, their numbers int64 [b]).

    eval_batch_size: rows of this rank in a batch of the evaluation.
    """

    name = "table"

    def __init__(
        self, train: Rows, held_out: Rows, stream: TrainStream, *, rank: int, world_size: int, eval_batch_size: int
    ) -> None:
        self._train, self._held_out, self._stream = train, held_out, stream
        self._rank, self._world_size, self._eval_batch_size = rank, world_size, eval_batch_size

    def train(self, first_step: int = 0) -> Iterator[tuple[Rows, np.ndarray]]:
        """Endless micro-batches, from global step `first_step` (0-based) on."""
        for position in self._stream.positions(first_step):
            yield _take(self._train, self._stream.indices(position, self._stream.batch_size_local))

    def evaluate(self) -> Iterator[tuple[Rows, np.ndarray]]:
        """This rank's part of the held-out rows, each once."""
        for indices in eval_batches(len(self._held_out.labels), self._eval_batch_size, self._rank, self._world_size):
            yield _take(self._held_out, indices)

    @property
    def stream(self) -> TrainStream:
        """The order of the training samples."""
        return self._stream

    def samples(self, indices: Sequence[int]) -> Iterator[tuple[Rows, np.ndarray]]:
        """The held-out rows with these numbers, one at a time."""
        for index in indices:
            yield _take(self._held_out, np.array([index]))

    def close(self) -> None:
        """Nothing runs in the background."""


def _take(rows: Rows, indices: np.ndarray) -> tuple[Rows, np.ndarray]:
    return Rows(*(part[indices] for part in rows)), indices


def prefetch(batches: Iterable[tuple[Rows, np.ndarray]], device: torch.device | str) -> Generator[RowBatch, None, None]:
    """A reader's batches on the device. Closing it closes `batches`; the reader's errors are raised."""
    device = torch.device(device)
    return any_prefetch(batches, device, partial(_move, device=device))


def _move(item: tuple[Rows, np.ndarray], device: torch.device) -> RowBatch:
    rows, indices = item
    return RowBatch(*moved((*rows, indices), device))
