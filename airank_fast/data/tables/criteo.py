"""Criteo's click logs as `python -m airank_fast.prepare criteo` writes them: shards of rows, mapped into memory.

DIR/rows/000000.npy    rows in the order of the published file, an array of `ROW`
DIR/manifest.json      options, counts and checksums

A number that is missing is `MISSING`. A category is a hash of 32 bits, so that the shards do not depend on the size of
the table: row `hash * table_rows / 2^32`, rounded down. All slots share one table.

    data = Criteo(root, held_out=0.04)
    reader = ShardReader(data, stream, table_rows=1_000_001, scaling="min-max", ...)
    for batch in prefetch(reader.train(first_step=0), device): ...
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from airank_fast.data.manifest import Manifest
from airank_fast.data.sampling import TrainStream, eval_batches
from airank_fast.data.tables.rows import Rows
from airank_fast.errors import require

KIND = "criteo"
NAME = "Criteo's click logs"
NUM_ROWS = 45_840_617
"""Of the set of Kaggle's Display Advertising Challenge."""
NUM_NUMBERS, NUM_CATEGORIES = 13, 26
NUM_COLUMNS = 1 + NUM_NUMBERS + NUM_CATEGORIES
MISSING = -(2**31)
ROW = np.dtype([("label", "<i4"), ("numbers", "<i4", (NUM_NUMBERS,)), ("hashes", "<u4", (NUM_CATEGORIES,))])
LEAST = np.array([0, -3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], np.float32)
SPAN = np.array([20, 603, 100, 50, 64000, 500, 100, 50, 500, 10, 10, 10, 50], np.float32)
"""The constants by which AI-Rank's and PaddleRec's readers scale the numbers: (x - LEAST) / SPAN."""
SCALINGS = ("min-max", "log")
_MOST_OPEN = 2  # shards; a batch crosses the end of one


def scaled(numbers: np.ndarray, scaling: str) -> np.ndarray:
    """Numbers [n, 13] with MISSING as float32 [n, 13]; a missing one is 0.

    min-max: (x - LEAST) / SPAN, mostly in [0, 1], without a limit. log: log(1 + x - LEAST), 0 below LEAST.
    """
    values = numbers.astype(np.float32) - LEAST
    values = values / SPAN if scaling == "min-max" else np.log1p(np.maximum(values, 0))
    return np.where(numbers == MISSING, np.float32(0), values)


def table_ids(hashes: np.ndarray, table_rows: int) -> np.ndarray:
    """Rows of a table of `table_rows` (at most 2^31 - 1) for hashes uint32: int32, of the same shape."""
    return ((hashes.astype(np.uint64) * np.uint64(table_rows)) >> np.uint64(32)).astype(np.int32)


class Criteo:
    """A prepared data set, of which the last rows are held out.

    held_out: their share of all rows. UserError where `root` has no finished data set, or a shard is missing or not
    what the manifest states.
    """

    def __init__(self, root: Path, held_out: float) -> None:
        what = "a directory that `python -m airank_fast.prepare criteo` made"
        require(root.is_dir(), "--data", what, f"{root}, a file" if root.exists() else f"{root}, which is missing")
        manifest = Manifest.load(root)
        kind = "no manifest.json" if manifest is None else manifest.kind
        require(kind == KIND, "--data", what, f"{root}, which has {kind}")
        assert manifest is not None
        done = manifest.stages.get("rows", {}).get("done")
        require(done, "--data", f"{what}, and finished", f"{root}, where preparing was interrupted")
        names = manifest.names("rows")
        self._paths = [root / name for name in names]
        self._sizes = np.array([manifest.files[name]["rows"] for name in names], np.int64)
        self._starts = np.concatenate([[0], self._sizes.cumsum()])
        self._open: OrderedDict[int, np.ndarray] = OrderedDict()
        num = int(self._starts[-1])
        self.num_held_out = round(num * held_out)
        self.num_train = num - self.num_held_out
        what = "a data set with rows on both sides"
        require(0 < self.num_train < num, "--held-out", what, f"{held_out} of {num} rows")
        sums = "".join(f"{manifest.files[name]['sha256']}\n" for name in names)
        self.corrupt = [tuple(each) for each in manifest.stages["rows"]["corrupt"]]
        """(where, why) of each line that was left out."""
        self.checksum = hashlib.sha256(sums.encode()).hexdigest()
        for number in range(len(names)):
            self._shard(number)

    @property
    def train_sizes(self) -> np.ndarray:
        """The number of training rows in each shard that has some: int64."""
        sizes = np.minimum(self._starts[1:], self.num_train) - self._starts[:-1]
        return sizes[sizes > 0]

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """The rows with these numbers, which count through all shards: `ROW` [n]."""
        out = np.empty(len(indices), ROW)
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        for number in np.unique(shards):
            here = shards == number
            out[here] = self._shard(int(number))[indices[here] - self._starts[number]]
        return out

    def _shard(self, number: int) -> np.ndarray:
        """The shard, mapped. Few are at a time: the pages that are read of a file belong to the process."""
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        shard = open_shard(self._paths[number], int(self._sizes[number]))
        self._open[number] = shard
        if len(self._open) > _MOST_OPEN:
            self._open.popitem(last=False)
        return shard


def open_shard(path: Path, num_rows: int) -> np.ndarray:
    """The rows of a shard, mapped into memory: `ROW` [num_rows]. UserError for another file."""
    what = f"a shard of {num_rows} rows"
    require(path.is_file(), str(path), what, "no file")
    try:
        shard = np.load(path, mmap_mode="r")
    except ValueError as error:
        require(False, str(path), what, f"another file ({str(error).partition(chr(10))[0]})")
        raise
    got = f"{shard.dtype if shard.dtype != ROW else 'rows'} of shape {list(shard.shape)}"
    require(shard.dtype == ROW and shard.shape == (num_rows,), str(path), what, got)
    return shard


class ShardReader:
    """This rank's batches of a prepared data set, as tuples (Rows, their numbers int64 [b]).

    stream: over `data.train_sizes`. table_rows: of the table that all slots share. scaling: one of SCALINGS.
    eval_batch_size: rows of this rank in a batch of the evaluation.
    """

    name = "criteo"

    def __init__(
        self,
        data: Criteo,
        stream: TrainStream,
        *,
        table_rows: int,
        scaling: str,
        rank: int,
        world_size: int,
        eval_batch_size: int,
    ) -> None:
        self._data, self._stream, self._table_rows, self._scaling = data, stream, table_rows, scaling
        self._eval = (data.num_held_out, eval_batch_size, rank, world_size)

    def train(self, first_step: int = 0) -> Iterator[tuple[Rows, np.ndarray]]:
        """Endless micro-batches, from global step `first_step` (0-based) on."""
        for position in self._stream.positions(first_step):
            indices = self._stream.indices(position, self._stream.batch_size_local)
            yield self._read(indices), indices

    def evaluate(self) -> Iterator[tuple[Rows, np.ndarray]]:
        """This rank's part of the held-out rows, each once."""
        for indices in eval_batches(*self._eval):
            yield self._read(indices + self._data.num_train), indices

    def samples(self, indices: Sequence[int]) -> Iterator[tuple[Rows, np.ndarray]]:
        """The held-out rows with these numbers, one at a time."""
        for index in indices:
            number = np.array([index])
            yield self._read(number + self._data.num_train), number

    def close(self) -> None:
        """Nothing runs in the background."""

    def _read(self, indices: np.ndarray) -> Rows:
        rows = self._data.rows(indices)
        ids = table_ids(rows["hashes"], self._table_rows)
        return Rows(scaled(rows["numbers"], self._scaling), ids, rows["label"].astype(np.float32))
