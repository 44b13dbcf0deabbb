"""Reads samples for BERT from the shards of `prepare wikicorpus`, or of NVIDIA's and MLPerf's scripts.

    corpus = WikiCorpus(root, vocab_size=30522, max_seq_length=512)
    reader = WikiCorpusReader(corpus, batch_size_local=56, global_batch_size=448, rank=rank, world_size=8, seed=1)
    for samples, _ in reader.train(first_step=0): ...       # endless; tokens.MicroBatch of Samples, unpadded
    for samples in reader.evaluate(): ...                   # each evaluation sample once over all ranks

The order is a pure function of (seed, position in the stream), as in `sampling`: an epoch's shards are shuffled and
taken a pool at a time, and the samples of a pool are shuffled. Where one pool holds all shards, the order is
`sampling.permutation`'s. Step k takes positions [k*B, (k+1)*B), which are dealt to ranks and micro-batches by their
lengths (`tokens.shares`); for that every rank reads the lengths of all samples of a pool. A rank holds its own samples
of a pool, and those of the next, which it reads meanwhile.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from airank_fast.data.manifest import Manifest
from airank_fast.data.sampling import Purpose, TrainStream, eval_batches, permutation, philox
from airank_fast.data.text.samples import Samples
from airank_fast.data.text.shards import Shard, inspect_shard, read_counts, read_shard
from airank_fast.data.text.tokens import MicroBatch, shares
from airank_fast.errors import UserError
from airank_fast.walk import files

POOL_SAMPLES = 2**18  # about 2 kB each at 512 tokens, 6 kB while a pool is being read
_WORDS_PER_COUNT = 4
_FOLDERS = {"train": ("train", "training"), "eval": ("eval", "eval_varlength", "test")}
_SUFFIXES = (".hdf5", ".h5")


class WikiCorpus:
    """The index of a data set: its shards and how many samples they have. Reads headers only.

    root holds train/ and eval/ (or training/, and eval_varlength/ or test/), with *.hdf5 files in them at any depth.
    A manifest must list exactly these shards, and be of a finished preparation.
    UserError: no shards, a shard too many or too few, a corrupt shard, another vocabulary.
    """

    def __init__(self, root: str | Path, *, vocab_size: int, max_seq_length: int):
        self.root = Path(root).expanduser().absolute()
        self.vocab_size, self.max_seq_length = vocab_size, max_seq_length
        if not self.root.is_dir():
            raise UserError(
                f"data: must be a directory with train/ and eval/, got {self.root}, which is not a directory"
            )
        manifest = Manifest.load(self.root)
        if manifest is not None:
            self._check_manifest(manifest)
        self._check_vocabulary()
        self.train, self.eval = (self._shards(split, manifest) for split in ("train", "eval"))
        self.num_train, self.num_eval = (
            sum(shard.num_samples for shard in shards) for shards in (self.train, self.eval)
        )

    def checksum(self) -> str:
        """sha256 of the names and sample counts of all shards, in hex."""
        lines = [f"{shard.path.relative_to(self.root)} {shard.num_samples}\n" for shard in (*self.train, *self.eval)]
        return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()

    def read(self, shard: Shard, rows: np.ndarray | None = None) -> Samples:
        """Samples of a shard, checked; see `read_shard`."""
        return read_shard(shard.path, vocab_size=self.vocab_size, max_seq_length=self.max_seq_length, rows=rows)

    def _check_manifest(self, manifest: Manifest) -> None:
        if manifest.kind != "wikicorpus":
            raise UserError(f"data: must be a wikicorpus data set, got {self.root}, which is {manifest.kind}")
        if not manifest.stages.get("samples", {}).get("done"):
            raise UserError(
                f"data: must be a finished data set, preparing {self.root} was interrupted "
                "(the same prepare command goes on with it)"
            )
        length = manifest.options["max_seq_length"]
        if length > self.max_seq_length:
            raise UserError(
                f"data: must have samples of at most {self.max_seq_length} tokens, got {length} in {self.root}"
            )

    def _check_vocabulary(self) -> None:
        path = self.root / "vocab.txt"
        if path.exists():
            with open(path, "rb") as file:
                num = sum(1 for _ in file)
            if num != self.vocab_size:
                raise UserError(f"data: must have a vocabulary of {self.vocab_size} tokens, got {num} in {path}")

    def _shards(self, split: str, manifest: Manifest | None) -> list[Shard]:
        folders = [self.root / name for name in _FOLDERS[split] if (self.root / name).is_dir()]
        if not folders:
            raise UserError(f"data: must have {split}/ with HDF5 shards in {self.root}, there is none")
        paths = [path for path in files(folders[0]) if path.suffix in _SUFFIXES]
        if manifest is not None:
            listed, found = set(manifest.names(split)), {str(path.relative_to(self.root)) for path in paths}
            for names, what in ((listed - found, "is missing"), (found - listed, "is not in the manifest")):
                if names:
                    raise UserError(
                        f"data: must have the shards of the manifest in {self.root}, {min(names)} {what}"
                        + f" ({len(names)} such)" * (len(names) > 1)
                    )
        shards = [shard for shard in map(inspect_shard, paths) if shard.num_samples]
        if not shards:
            raise UserError(f"data: must have HDF5 shards with samples in {folders[0]}, there are none")
        return shards


class _Pool(NamedTuple):
    epoch: int
    first: int  # position of the pool's first sample in the epoch
    shards: list[Shard]
    num_samples: int


class WikiCorpusReader:
    """See the module. UserError from an iterator names a corrupt shard.

    batch_size_local: samples per yielded training batch; global_batch_size: per optimizer step over all ranks, a
    multiple of batch_size_local * world_size. eval_batch_size: default batch_size_local. num_eval_samples: of the
    evaluation samples, from the first on; default all. pool_samples: how many are shuffled at once, over all ranks.
    balance: deal the samples of a step by length instead of in their order; see `tokens.shares`.
    """

    name = "wikicorpus"

    def __init__(
        self,
        corpus: WikiCorpus,
        *,
        batch_size_local: int,
        global_batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        eval_batch_size: int | None = None,
        num_eval_samples: int | None = None,
        pool_samples: int = POOL_SAMPLES,
        balance: bool = True,
    ):
        self._corpus, self._rank, self._world_size, self._seed = corpus, rank, world_size, seed
        self._balance = balance
        self._stream = TrainStream(
            corpus.num_train,
            seed,
            batch_size_local=batch_size_local,
            global_batch_size=global_batch_size,
            rank=rank,
            world_size=world_size,
        )
        self._pool_samples, self._eval_batch_size = pool_samples, eval_batch_size or batch_size_local
        self.num_eval_samples = corpus.num_eval if num_eval_samples is None else num_eval_samples
        if not 0 < self.num_eval_samples <= corpus.num_eval:
            raise UserError(f"data: must have {self.num_eval_samples} evaluation samples, got {corpus.num_eval}")
        self._training: Generator[MicroBatch, None, None] | None = None

    def train(self, first_step: int = 0) -> Iterator[MicroBatch]:
        """Endless local batches from global step `first_step` (0-based) on."""
        self.close()
        self._training = self._batches(first_step)
        return self._training

    def evaluate(self) -> Iterator[Samples]:
        """This rank's part of the evaluation samples, in order, the last batch smaller."""
        starts = np.cumsum([0, *(shard.num_samples for shard in self._corpus.eval)])
        held: Samples | None = None
        last = -1
        for indices in eval_batches(self.num_eval_samples, self._eval_batch_size, self._rank, self._world_size):
            parts = []
            for number in range(
                np.searchsorted(starts, indices[0], side="right") - 1,
                np.searchsorted(starts, indices[-1], side="right"),
            ):
                if number != last:
                    held, last = self._corpus.read(self._corpus.eval[number]), number
                assert held is not None
                here = indices[(indices >= starts[number]) & (indices < starts[number + 1])]
                parts.append(held.take(here - starts[number]))
            yield Samples.concatenate(parts)

    def samples(self, indices: Sequence[int]) -> Iterator[Samples]:
        """The evaluation samples with these numbers, one at a time; ascending numbers read each shard once."""
        starts = np.cumsum([0, *(shard.num_samples for shard in self._corpus.eval)])
        held, last = Samples.concatenate([]), -1
        for index in indices:
            number = int(np.searchsorted(starts, index, side="right")) - 1
            if number != last:
                held, last = self._corpus.read(self._corpus.eval[number]), number
            yield held.take([index - starts[number]])

    def close(self) -> None:
        """Stops reading ahead."""
        if self._training is not None:
            self._training.close()

    def _batches(self, first_step: int) -> Generator[MicroBatch, None, None]:
        size, parts = self._stream.batch_size_local, self._stream.batches_per_step * self._world_size
        pools = self._loaded(first_step * self._stream.global_batch_size)
        with ThreadPoolExecutor(1, thread_name_prefix="shards") as ahead:
            coming = ahead.submit(next, pools)
            while True:
                held, masked_of_step = coming.result()
                coming = ahead.submit(next, pools)
                for begin in range(0, len(held), size):
                    masked = masked_of_step[begin // (size * self._stream.batches_per_step)]
                    yield MicroBatch(held.take(range(begin, begin + size)), masked / parts)

    def _pools(self, first: int) -> Iterator[_Pool]:
        """Endless pools, from that of stream position `first` on."""
        shards, num_samples = self._corpus.train, self._corpus.num_train
        epoch, offset = divmod(first, num_samples)
        while True:
            keys = philox(self._seed, Purpose.SHARDS, (0, epoch)).random_raw(len(shards))
            start, chosen = 0, []
            for number, index in enumerate(np.argsort(keys, kind="stable").tolist()):
                chosen.append(index)
                num = sum(shards[i].num_samples for i in chosen)
                full = number + 1 == len(shards) or num + shards[index].num_samples > self._pool_samples
                if full:
                    if start + num > offset:
                        yield _Pool(epoch, start, [shards[i] for i in sorted(chosen)], num)
                    start, chosen = start + num, []
            epoch, offset = epoch + 1, 0

    def _loaded(self, first: int) -> Iterator[tuple[Samples, np.ndarray]]:
        """For each pool from stream position `first` on: this rank's samples of the steps that end in it, micro-batch
        by micro-batch, and the masked tokens of each step, over all ranks.

        A step that ends in the next pool is kept, with the samples of all ranks, until that pool's lengths are read.
        """
        batch, per_step = self._stream.global_batch_size, self._stream.batches_per_step
        begun = Samples.concatenate([])
        for pool in self._pools(first):
            before = max(0, first - (pool.epoch * self._corpus.num_train + pool.first))
            order = _order(self._seed, pool)[before:]
            counts = np.concatenate([read_counts(shard.path) for shard in pool.shards])[order]
            lengths, masked = np.concatenate([np.stack([begun.lengths, begun.num_masked], 1), counts]).T
            num_steps = len(lengths) // batch
            mine = []
            for start in range(0, num_steps * batch, batch):
                parts = shares(lengths[start : start + batch], self._world_size * per_step, balance=self._balance)
                mine += [start + part for part in parts[self._rank * per_step : (self._rank + 1) * per_step]]
            rest = np.arange(num_steps * batch, len(lengths))
            rows = np.concatenate([*mine, rest])  # numbered through `begun` and the pool's order
            is_new = rows >= len(begun)
            numbers = order[rows[is_new] - len(begun)]
            ascending = np.sort(numbers)
            rows[is_new] = len(begun) + np.searchsorted(ascending, numbers)
            held = Samples.concatenate([begun, self._read(pool, ascending)])
            begun = held.take(rows[len(rows) - len(rest) :])
            yield held.take(rows[: len(rows) - len(rest)]), masked[: num_steps * batch].reshape(-1, batch).sum(1)

    def _read(self, pool: _Pool, numbers: np.ndarray) -> Samples:
        """The samples of a pool with these numbers, ascending; the pool's shards are numbered through."""
        starts = np.cumsum([0, *(shard.num_samples for shard in pool.shards)])
        parts = []
        for shard, start, end in zip(pool.shards, starts[:-1], starts[1:], strict=True):
            rows = numbers[np.searchsorted(numbers, start) : np.searchsorted(numbers, end)] - start
            if len(rows):
                parts.append(self._corpus.read(shard, rows))
        return Samples.concatenate(parts)


def _order(seed: int, pool: _Pool) -> np.ndarray:
    """The pool's samples, numbered through its shards, in the order of the stream."""
    if pool.first == 0:
        return permutation(pool.num_samples, seed, pool.epoch)
    skip = pool.first % _WORDS_PER_COUNT
    words = philox(seed, Purpose.ORDER, (pool.first // _WORDS_PER_COUNT, pool.epoch)).random_raw(
        skip + pool.num_samples
    )
    return np.argsort(words[skip:], kind="stable")
