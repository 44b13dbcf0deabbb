"""Token sequences for training and evaluation, without padding: one interface to every reader.

    for batch in prefetch(reader.train(first_step=0), device): ...

A reader has `train(first_step)`, endless `MicroBatch`es; `evaluate()`, `Samples` (or what has its arrays), each once
over all ranks; `close()`; `name`. `sampling` has the step of each sample. Its rank and micro-batch within the step are
chosen here, by the lengths, which every rank has.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from airank_fast.data.prefetch import Batch
from airank_fast.data.prefetch import prefetch as any_prefetch
from airank_fast.data.sampling import TrainStream, eval_batches

IGNORED_LABEL = -100


class MicroBatch(NamedTuple):
    """One rank's samples of one micro-batch of a step.

    num_masked_mean: masked tokens of the whole step, over all ranks, divided by its micro-batches on all ranks.
    """

    samples: Any  # airank_fast.data.text.samples.Samples, or what has its arrays
    num_masked_mean: float


@dataclass(kw_only=True)
class PackedBatch(Batch):
    """b sequences on the device, end to end, short ones first: T tokens.

    input_ids, token_type_ids, position_ids: int64 [T]; lengths: b numbers on the host; offsets: int64 [b + 1], the
    start of each sequence, and T. longest: the most tokens that a sequence may have, in a batch that was filled up (see
    `Fill`).
    """

    INPUTS: ClassVar[tuple[str, ...]] = ("input_ids", "token_type_ids", "position_ids")

    input_ids: Tensor
    token_type_ids: Tensor
    position_ids: Tensor
    lengths: list[int]
    offsets: Tensor | None = None
    longest: int | None = None

    @property
    def num_samples(self) -> int:
        """Sequences of the data set in this batch."""
        return len(self.lengths) - (self.longest is not None)  # the last one fills up

    @classmethod
    def merged(cls: type[P], batches: Sequence[P]) -> P:
        """See Batch.merged; of batches that were not filled up."""
        batch = super().merged(batches)
        batch.offsets = torch.from_numpy(np.cumsum([0, *batch.lengths])).to(batch.input_ids.device)
        return batch

    def shape_key(self) -> object:
        """What selects the kernels of a step over this batch, besides the tensors' shapes."""
        return tuple(self.lengths) if self.longest is None else self.longest


P = TypeVar("P", bound=PackedBatch)


@dataclass(kw_only=True)
class TokenBatch(PackedBatch):
    """Sequences of which M tokens are predicted.

    masked_positions: int64 [M], into T; labels: int64 [M], the original ids there; next_sentence_label: int64 [b] or
    None. weight, float32: M divided by the M of an average micro-batch of the step; with it the mean over all
    micro-batches and ranks is the mean over all masked tokens.
    """

    masked_positions: Tensor
    labels: Tensor
    next_sentence_label: Tensor | None

    @property
    def num_outputs(self) -> int:
        """Tokens that are predicted."""
        return len(self.labels)

    @classmethod
    def merged(cls, batches: Sequence[TokenBatch]) -> TokenBatch:
        """See PackedBatch.merged."""
        starts = np.cumsum([0, *(sum(batch.lengths) for batch in batches)]).tolist()
        batch = super().merged(batches)
        batch.masked_positions = torch.cat([b.masked_positions + s for b, s in zip(batches, starts, strict=False)])
        return batch


class Fill(NamedTuple):
    """Batches of few shapes, for a step that is captured: T and M are filled up to multiples of these.

    tokens: of the longest sequence. T is filled up with one more sequence of 1 to `tokens` tokens, none of them
    predicted; M with labels of -100, which the loss ignores.
    """

    tokens: int
    masked: int


def collate(samples, device: torch.device | str, fill: Fill | None = None) -> TokenBatch:
    """The batch of `samples` (arrays by the names of airank_fast.data.text.samples.Samples, in any order of length)."""
    return _move(_lay_out(samples, fill), torch.device(device))


class _LaidOut(NamedTuple):
    """A batch on the host: its arrays end to end in one tensor, so that one copy moves them."""

    joined: Tensor  # int64
    sizes: dict[str, int]  # of the fields of TokenBatch in it
    lengths: list[int]
    longest: int | None


def _lay_out(item, fill: Fill | None = None) -> _LaidOut:
    samples, num_masked_mean = item if isinstance(item, MicroBatch) else (item, None)
    lengths = np.diff(samples.token_offsets)
    if (lengths[1:] < lengths[:-1]).any():
        samples = samples.take(np.argsort(lengths, kind="stable"))
        lengths = np.diff(samples.token_offsets)
    starts = np.repeat(samples.token_offsets[:-1], np.diff(samples.masked_offsets))
    arrays = {
        "input_ids": samples.input_ids,
        "token_type_ids": samples.segment_ids,
        "position_ids": np.arange(len(samples.input_ids)) - np.repeat(samples.token_offsets[:-1], lengths),
        "masked_positions": samples.masked_lm_positions + starts,
        "labels": samples.masked_lm_ids,
        "offsets": samples.token_offsets,
    }
    if samples.next_sentence_labels is not None:
        arrays["next_sentence_label"] = samples.next_sentence_labels
    weight = 1.0 if num_masked_mean is None else len(samples.masked_lm_ids) / num_masked_mean
    lengths = lengths.tolist()
    if fill is not None:
        lengths.append(_fill_up(arrays, fill))
    arrays["weight"] = np.array([weight]).view(np.int64)  # its bits
    sizes = {name: len(array) for name, array in arrays.items()}
    joined = torch.from_numpy(np.concatenate(list(arrays.values()), dtype=np.int64))
    return _LaidOut(joined, sizes, lengths, fill and fill.tokens)


def _fill_up(arrays: dict[str, np.ndarray], fill: Fill) -> int:
    """Fill up the arrays of a batch, in place; returns the length of the sequence that was added."""
    num_tokens, num_masked = len(arrays["input_ids"]), len(arrays["labels"])
    extra, extra_masked = fill.tokens - num_tokens % fill.tokens, -num_masked % fill.masked
    ends: dict[str, Any] = {
        "input_ids": np.zeros(extra),
        "token_type_ids": np.zeros(extra),
        "position_ids": np.arange(extra),
        "masked_positions": np.zeros(extra_masked),
        "labels": np.full(extra_masked, IGNORED_LABEL),
        "next_sentence_label": [IGNORED_LABEL],
        "offsets": [num_tokens + extra],
    }
    for name, array in arrays.items():
        arrays[name] = np.concatenate([array, ends[name]], dtype=np.int64, casting="unsafe")
    return extra


def _move(batch: _LaidOut, device: torch.device) -> TokenBatch:
    """To the device; on CUDA in one asynchronous copy from pinned memory."""
    joined = batch.joined
    if device.type == "cuda":
        joined = joined.pin_memory().to(device, non_blocking=True)
    parts = dict(zip(batch.sizes, joined.split(list(batch.sizes.values())), strict=True))
    weight = parts.pop("weight").view(torch.float64)[0].float()
    next_sentence_label = parts.pop("next_sentence_label", None)
    more = {"next_sentence_label": next_sentence_label, "lengths": batch.lengths, "longest": batch.longest}
    return TokenBatch(**parts, **more, weight=weight)


def deal(lengths: np.ndarray, num_parts: int) -> list[np.ndarray]:
    """Rows of a global batch for each part: equally many, with nearly equally many tokens, shortest first.

    lengths: int [n], n a multiple of num_parts. Rows sorted by length are dealt to parts 0 ... N-1, then N-1 ... 0, so
    that no two parts differ by more than the longest row. A pure function of the lengths, so the same on every rank and
    in a resumed run.
    """
    rounds = np.argsort(lengths, kind="stable").reshape(-1, num_parts)
    rounds[1::2] = rounds[1::2, ::-1]
    return [np.ascontiguousarray(rounds[:, part]) for part in range(num_parts)]


def shares(lengths: np.ndarray, num_parts: int, *, balance: bool) -> list[np.ndarray]:
    """Rows of a global batch for each micro-batch of each rank: dealt by length, or as they come in the stream."""
    return deal(lengths, num_parts) if balance else list(np.arange(len(lengths)).reshape(num_parts, -1))


class BlockReader:
    """Samples of one rank from a source in memory: a reader like `wikicorpus.WikiCorpusReader`.

    A source has `lengths`, int [n], the tokens of each sample; `num_masked`, the masked tokens of every sample; and
    `take(indices, positions)`: the samples with these indices at these positions of the stream. balance: see `shares`.
    eval_batch_size: samples of this rank in a batch of the evaluation. name: of the source, for the log.
    """

    def __init__(
        self,
        train,
        held_out,
        stream: TrainStream,
        *,
        rank: int,
        world_size: int,
        eval_batch_size: int,
        balance: bool = True,
        name: str = "pydoc",
    ):
        self.name = name
        self._train, self._held_out, self._stream, self._balance = train, held_out, stream, balance
        self._rank, self._world_size, self._eval_batch_size = rank, world_size, eval_batch_size

    def train(self, first_step: int = 0) -> Iterator[MicroBatch]:
        """Endless micro-batches of this rank, from global step `first_step` (0-based) on."""
        per_step, batch_size = self._stream.batches_per_step, self._stream.global_batch_size
        step = first_step
        while True:
            positions = step * batch_size + np.arange(batch_size)
            indices = self._stream.indices(step * batch_size, batch_size)
            parts = shares(self._train.lengths[indices], self._world_size * per_step, balance=self._balance)
            for rows in parts[self._rank * per_step : (self._rank + 1) * per_step]:
                yield MicroBatch(self._train.take(indices[rows], positions[rows]), len(rows) * self._train.num_masked)
            step += 1

    def evaluate(self) -> Iterator:
        """This rank's part of the held-out samples, each once."""
        for indices in eval_batches(len(self._held_out.lengths), self._eval_batch_size, self._rank, self._world_size):
            yield self._held_out.take(indices, indices)

    @property
    def stream(self) -> TrainStream:
        """The order of the training samples."""
        return self._stream

    def samples(self, indices: Sequence[int]) -> Iterator:
        """The held-out samples with these numbers, one at a time."""
        for index in indices:
            yield self._held_out.take(np.array([index]), np.array([index]))

    def close(self) -> None:
        """Nothing runs in the background."""


def prefetch(
    batches: Iterable, device: torch.device | str, fill: Fill | None = None
) -> Generator[TokenBatch, None, None]:
    """Batches of samples on the device, read and laid out ahead by a thread.

    batches: of MicroBatch or of samples. Closing the iterator closes `batches`; an error of the reader is raised in
    place of its batch. fill: the shapes to which batches are filled up.
    """
    device = torch.device(device)
    return any_prefetch(batches, device, partial(_move, device=device), partial(_lay_out, fill=fill))
