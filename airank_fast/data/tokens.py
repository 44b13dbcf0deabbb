"""Token sequences for training and evaluation, from any source by one interface, without padding.

    for batch in prefetch(reader.train(first_step=0), device): ...

A reader has `train(first_step)`, endless; `evaluate()`, each sample once over all ranks; `close()`; `name`. Both yield
`Samples` (or what has its arrays). Which sample comes when is `sampling`'s business.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from airank_fast.data.sampling import TrainStream, eval_batches


@dataclass
class TokenBatch:
    """b sequences on the device, T tokens in all, one sequence behind the other, short ones first; M are to be guessed.

    input_ids, token_type_ids, position_ids: int64 [T]; masked_positions: int64 [M], into T; labels: int64 [M], what
    stands there; next_sentence_label: int64 [b] or None; lengths: b numbers on the host.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    position_ids: Tensor
    masked_positions: Tensor
    labels: Tensor
    next_sentence_label: Tensor | None
    lengths: list[int]
    _copy_s: float = 0.0
    _copy_events: tuple[torch.cuda.Event, torch.cuda.Event] | None = None

    def h2d_s(self) -> float:
        """Seconds it took to lay the batch out and move it to the device."""
        if self._copy_events is None:
            return self._copy_s
        start, stop = self._copy_events
        return start.elapsed_time(stop) / 1e3


def collate(samples, device: torch.device | str) -> TokenBatch:
    """The batch of `samples` (arrays by the names of airank_fast.data.samples.Samples, in any order of length).

    On CUDA all arrays travel in one copy from pinned memory, which nobody waits for.
    """
    device = torch.device(device)
    lengths = np.diff(samples.token_offsets)
    if (lengths[1:] < lengths[:-1]).any():
        samples = samples.take(np.argsort(lengths, kind="stable"))
        lengths = np.diff(samples.token_offsets)
    num_masked = np.diff(samples.masked_offsets)
    starts = np.repeat(samples.token_offsets[:-1], num_masked)
    arrays = {
        "input_ids": samples.input_ids,
        "token_type_ids": samples.segment_ids,
        "position_ids": np.arange(len(samples.input_ids)) - np.repeat(samples.token_offsets[:-1], lengths),
        "masked_positions": samples.masked_lm_positions + starts,
        "labels": samples.masked_lm_ids,
    }
    if samples.next_sentence_labels is not None:
        arrays["next_sentence_label"] = samples.next_sentence_labels
    joined = torch.from_numpy(np.concatenate([array.astype(np.int64) for array in arrays.values()]))
    events = None
    if device.type == "cuda":
        events = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))
        events[0].record()
        joined = joined.pin_memory().to(device, non_blocking=True)
        events[1].record()
    parts = dict(zip(arrays, joined.split([len(array) for array in arrays.values()]), strict=True))
    parts.setdefault("next_sentence_label", None)
    return TokenBatch(**parts, lengths=lengths.tolist(), _copy_events=events)


def deal(lengths: np.ndarray, num_parts: int) -> list[np.ndarray]:
    """Rows of a global batch for each part: as many for each, nearly as many tokens, shortest first.

    lengths: int [n], n a multiple of num_parts. Rows sorted by length are dealt out to and fro, as in a schoolyard, so
    that no two parts differ by more than the longest row. A pure function: every rank deals alike.
    """
    rounds = np.argsort(lengths, kind="stable").reshape(-1, num_parts)
    rounds[1::2] = rounds[1::2, ::-1]
    return [np.ascontiguousarray(rounds[:, part]) for part in range(num_parts)]


class BlockReader:
    """Samples of one rank from a source in memory: a reader like `wikicorpus.WikiCorpusReader`.

    A source has `lengths`, int [n], the tokens of each sample, and `take(indices, positions)`: the samples with these
    indices at these positions of the stream. The samples of a global batch are dealt over ranks and micro-batches by
    their lengths (see `deal`). eval_batch_size: samples of this rank in a batch of the evaluation.
    """

    name = "pydoc"

    def __init__(self, train, held_out, stream: TrainStream, *, rank: int, world_size: int, eval_batch_size: int):
        self._train, self._held_out, self._stream = train, held_out, stream
        self._rank, self._world_size, self._eval_batch_size = rank, world_size, eval_batch_size

    def train(self, first_step: int = 0) -> Iterator:
        """Endless micro-batches of this rank, from global step `first_step` (0-based) on."""
        per_step, batch_size = self._stream.batches_per_step, self._stream.global_batch_size
        step = first_step
        while True:
            positions = step * batch_size + np.arange(batch_size)
            indices = self._stream.indices(step * batch_size, batch_size)
            parts = deal(self._train.lengths[indices], self._world_size * per_step)
            for rows in parts[self._rank * per_step:(self._rank + 1) * per_step]:
                yield self._train.take(indices[rows], positions[rows])
            step += 1

    def evaluate(self) -> Iterator:
        """This rank's part of the held-out samples, each once."""
        for indices in eval_batches(len(self._held_out.lengths), self._eval_batch_size, self._rank, self._world_size):
            yield self._held_out.take(indices, indices)

    def close(self) -> None:
        """Nothing runs in the background."""


def prefetch(batches: Iterable, device: torch.device | str, *, balance: int = 1) -> Iterator[TokenBatch]:
    """Batches of samples on the device. Closing it closes `batches`; an error of the reader comes out as it is.

    balance: deal so many batches in a row out anew by their lengths, so that the micro-batches of a step cost alike.
    """
    source = iter(batches)
    try:
        while group := list(islice(source, balance)):
            for samples in group if len(group) == 1 else _dealt_anew(group):
                start = time.perf_counter()
                batch = collate(samples, device)
                batch._copy_s = time.perf_counter() - start
                yield batch
    finally:
        if hasattr(source, "close"):
            source.close()


def _dealt_anew(group: list) -> list:
    """The samples of batches of one size in batches of that size and of nearly equal numbers of tokens."""
    together = type(group[0]).concatenate(group)
    return [together.take(rows) for rows in deal(together.lengths, len(group))]
