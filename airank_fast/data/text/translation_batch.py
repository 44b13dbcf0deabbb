"""Translation's batches: encoded pairs end to end, without padding, equally many tokens for every rank and micro-batch.

    train, held_out = Sentences.encode(pairs, subwords), Sentences.encode(others, subwords)
    stream = StratifiedStream(train.lengths, seed, ...)
    reader = TranslationReader(train, held_out, stream, max_tokens=5120, ...)

The order is a pure function of (seed, position in the stream), see `airank_fast.data.sampling`; who gets which
sentences of a step, of their lengths alone, which every rank has.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from airank_fast.data.prefetch import Batch, moved
from airank_fast.data.prefetch import prefetch as any_prefetch
from airank_fast.data.sampling import StratifiedStream
from airank_fast.data.text.tokens import deal
from airank_fast.data.text.translation_pairs import Pair
from airank_fast.data.text.translation_subwords import EOS, UNK, Subwords
from airank_fast.errors import require


@dataclass(frozen=True, eq=False)
class Side:
    """n sentences of one language, end to end, each with EOS at its end. tokens: int [N]; offsets: int64 [n + 1]."""

    tokens: np.ndarray
    offsets: np.ndarray

    @staticmethod
    def of(sentences: Iterable[list[int]]) -> Side:
        """From the subwords of each sentence, without EOS."""
        tokens, offsets = array("i"), array("q", [0])
        for sentence in sentences:
            tokens.extend(sentence)
            tokens.append(EOS)
            offsets.append(len(tokens))
        return Side(np.frombuffer(tokens, np.int32), np.frombuffer(offsets, np.int64))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sentence, EOS included."""
        return np.diff(self.offsets)

    def take(self, numbers: np.ndarray) -> Side:
        """The sentences with these numbers, in this order."""
        lengths = self.lengths[numbers]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        return Side(self.tokens[np.repeat(self.offsets[numbers], lengths) + within], offsets)


@dataclass(frozen=True, eq=False)
class Sentences:
    """n encoded pairs."""

    source: Side
    target: Side

    @staticmethod
    def encode(pairs: Iterable[Pair], subwords: Subwords) -> Sentences:
        """The pairs in subwords."""
        columns = list(zip(*pairs, strict=True)) or [(), ()]
        return Sentences(*(Side.of(subwords.encode(column)) for column in columns))

    def __len__(self) -> int:
        return len(self.source.offsets) - 1

    @property
    def longest(self) -> np.ndarray:
        """Tokens of each pair's longer side: int64 [n]."""
        return np.maximum(self.source.lengths, self.target.lengths)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each pair, source and target: int64 [n]."""
        return self.source.lengths + self.target.lengths

    def take(self, numbers: np.ndarray) -> Sentences:
        """The pairs with these numbers, in this order."""
        return Sentences(self.source.take(numbers), self.target.take(numbers))

    def without(self, longest: int) -> tuple[Sentences, int, int]:
        """(the pairs to train on, too long ones, ones with a sentence of only unknown words).

        longest: tokens of a sentence at most, EOS included.
        """
        too_long = self.longest > longest
        unknown = ~too_long & (_only_unknown(self.source) | _only_unknown(self.target))
        kept = np.flatnonzero(~(too_long | unknown))
        sentences = self if len(kept) == len(self) else self.take(kept)
        return sentences, int(too_long.sum()), int(unknown.sum())

    def checksum(self) -> str:
        """SHA-256 of all tokens in their order."""
        digest = hashlib.sha256()
        for side in (self.source, self.target):
            for part in (side.tokens, side.offsets):
                digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def _only_unknown(side: Side) -> np.ndarray:
    """Whether each sentence has no subword but UNK: bool [n]."""
    known = np.concatenate([[0], np.cumsum((side.tokens != UNK) & (side.tokens != EOS))])
    return known[side.offsets[1:]] == known[side.offsets[:-1]]


class Share(NamedTuple):
    """One rank's sentences of a micro-batch. mean_tokens: target tokens of the step's average micro-batch; 0: none."""

    numbers: np.ndarray
    mean_tokens: float = 0.0


@dataclass
class TranslationBatch(Batch):
    """b pairs on the device, end to end: S source tokens and T target tokens.

    source: int64 [S]; previous: int64 [T], what the decoder reads, each sentence begins with EOS; target: int64 [T],
    what it must predict, each ends with EOS. *_lengths: b numbers on the host, as nn.PackedSequences takes them;
    *_offsets: int64 [b + 1]. ids: the numbers of the pairs, on the host. Pairs of equal lengths lie side by side.
    weight: T divided by the target tokens of an average micro-batch of the step; with it the mean over all
    micro-batches and ranks is the mean over all target tokens.
    """

    source: Tensor
    source_offsets: Tensor
    previous: Tensor
    target: Tensor
    target_offsets: Tensor
    source_lengths: tuple[int, ...]
    target_lengths: tuple[int, ...]
    ids: tuple[int, ...]

    @property
    def num_samples(self) -> int:
        """Pairs in this batch."""
        return len(self.ids)

    @property
    def units(self) -> int:
        """Target tokens, the marks of the end included."""
        return len(self.target)

    def shape_key(self) -> object:
        """What selects the kernels of a step over this batch, besides the tensors' shapes."""
        return self.source_lengths, self.target_lengths


class LaidOut(NamedTuple):
    """A batch on the host: int64 arrays under the names of TranslationBatch, in its order, and lengths."""

    arrays: tuple[np.ndarray, ...]
    source_lengths: tuple[int, ...]
    target_lengths: tuple[int, ...]
    ids: tuple[int, ...]
    weight: float


def lay_out(share: Share, sentences: Sentences) -> LaidOut:
    """The batch of a share, by lengths: of the target, then of the source."""
    lengths = sentences.source.lengths[share.numbers], sentences.target.lengths[share.numbers]
    numbers = share.numbers[np.lexsort(lengths)]
    taken = sentences.take(numbers)
    source, target = (side.tokens.astype(np.int64) for side in (taken.source, taken.target))
    previous = np.roll(target, 1)
    previous[taken.target.offsets[:-1]] = EOS
    arrays = source, taken.source.offsets, previous, target, taken.target.offsets
    weight = len(target) / share.mean_tokens if share.mean_tokens else 1.0
    source_lengths, target_lengths, ids = (
        tuple(each.tolist()) for each in (taken.source.lengths, taken.target.lengths, numbers)
    )
    return LaidOut(arrays, source_lengths, target_lengths, ids, weight)


def collate(laid_out: LaidOut, device: torch.device | str) -> TranslationBatch:
    """The batch on the device; on CUDA by asynchronous copies from pinned memory."""
    arrays, source_lengths, target_lengths, ids, weight = laid_out
    source, source_offsets, previous, target, target_offsets = moved(arrays, device)
    return TranslationBatch(
        source, source_offsets, previous, target, target_offsets, source_lengths, target_lengths, ids, weight=weight
    )


class TranslationReader:
    """The batches of one rank: those of `stream`, and each held-out pair once.

    max_tokens: of a micro-batch, source or target, at most. eval_batch_size: pairs of this rank in a batch of the
    evaluation. UserError where a micro-batch of the first epoch has more tokens.
    """

    name = "sentence pairs"

    def __init__(
        self,
        train: Sentences,
        held_out: Sentences,
        stream: StratifiedStream,
        *,
        max_tokens: int,
        eval_batch_size: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._train, self._held_out, self._stream = train, held_out, stream
        self._rank, self._world_size, self._eval_batch_size = rank, world_size, eval_batch_size
        longest = int(train.longest.max())
        require(longest <= max_tokens, "--max-tokens", f"at least {longest}, as the longest sentence has", max_tokens)
        largest, size = self._largest(), stream.batch_size_local
        what = (
            f"{size * max_tokens // largest} pairs or fewer for each rank and micro-batch, by --max-tokens {max_tokens}"
        )
        require(largest <= max_tokens, "--batch-size", what, f"{size}, of up to {largest} tokens")

    def _largest(self) -> int:
        """The most tokens, source or target, of a micro-batch of the first epoch's whole steps; an upper bound."""
        size = self._stream.global_batch_size
        num_steps = len(self._train) // size
        order = self._stream.indices(0, num_steps * size).reshape(num_steps, size)
        num_parts = size // self._stream.batch_size_local
        found = []
        for side in (self._train.source, self._train.target):
            of_pairs = side.lengths[order]
            part = of_pairs.sum(1).max() // num_parts
            found.append(int(part + (of_pairs.max() if num_parts > 1 else 0)))
        return max(found)

    def train(self, device: torch.device | str, first_step: int = 0) -> Generator[TranslationBatch, None, None]:
        """Endless micro-batches of this rank, from global step `first_step` (0-based) on."""
        return self._batches(self._dealt(first_step), self._train, device)

    def evaluate(self, device: torch.device | str) -> Generator[TranslationBatch, None, None]:
        """This rank's part of the held-out pairs, each once, the longest sources first."""
        order = np.argsort(-self._held_out.source.lengths, kind="stable")[self._rank :: self._world_size]
        size = self._eval_batch_size
        shares = (Share(order[first : first + size]) for first in range(0, len(order), size))
        return self._batches(shares, self._held_out, device)

    def close(self) -> None:
        """Nothing runs in the background."""

    @staticmethod
    def _batches(
        shares: Iterable[Share], sentences: Sentences, device: torch.device | str
    ) -> Generator[TranslationBatch, None, None]:
        return any_prefetch(shares, device, partial(collate, device=device), partial(lay_out, sentences=sentences))

    def _dealt(self, first_step: int) -> Iterator[Share]:
        size, per_step, step = self._stream.global_batch_size, self._stream.batches_per_step, first_step
        num_parts = self._world_size * per_step
        while True:
            numbers = self._stream.indices(step * size, size)
            mean_tokens = int(self._train.target.lengths[numbers].sum()) / num_parts
            parts = deal(self._train.lengths[numbers], num_parts)
            for rows in parts[self._rank * per_step : (self._rank + 1) * per_step]:
                yield Share(numbers[rows], mean_tokens)
            step += 1
