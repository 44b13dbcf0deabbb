"""Pairs of a query and a document that match or not: a file of lines, and the batches of any set of pairs.

    lines, corrupt = read_lines(path)                         # QUERY TAB DOCUMENT TAB LABEL, as the BQ corpus has them
    train, held_out = Pairs.of(lines, 20_000), Pairs.of(others, 20_000)
    reader = PairReader(train, held_out, stream, ...)

A sample of training is a pair that matches. Order and sampled negatives are pure functions of (seed, position in the
stream), see `airank_fast.data.sampling`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from airank_fast.data.prefetch import Batch, moved
from airank_fast.data.prefetch import prefetch as any_prefetch
from airank_fast.data.sampling import NUM_DRAWS, TrainStream, eval_batches, is_held_out
from airank_fast.data.text.trigrams import Bags, rarity
from airank_fast.errors import UserError, require

MOST_BYTES = 65_536  # of a line
MOST_NEGATIVES = NUM_DRAWS
_HOLD_OUT = 10  # one query in ten


class Readable(Protocol):
    """A file opened for bytes."""

    def readline(self, size: int, /) -> bytes: ...


class Line(NamedTuple):
    """A query, a document, and whether they match (1) or not (0)."""

    query: str
    document: str
    label: int


def read_lines(path: Path, *, skip_corrupt: bool = False) -> tuple[list[Line], list[tuple[str, str]]]:
    """The lines of a file, UTF-8 with LF or CRLF, and [(where, why)] of those that skip_corrupt leaves out.

    UserError, with the number of the line, for a line of other than three columns, another label than 0 or 1, an empty
    query or document, bytes that are not UTF-8, or more than 64 KiB; and for a file that has no line.
    """
    what = "a file of lines QUERY TAB DOCUMENT TAB LABEL"
    require(path.is_file(), str(path), what, "a directory" if path.is_dir() else "no file")
    lines, corrupt = [], []
    with open(path, "rb") as file:
        for number, content in enumerate(bounded_lines(file), 1):
            where = f"{path}, line {number}"
            try:
                lines.append(parse(content, where))
            except UserError as error:
                if not skip_corrupt:
                    raise
                corrupt.append((where, str(error).removeprefix(f"{where}: ")))
    require(lines, str(path), what, "none" if corrupt else "an empty file")
    return lines, corrupt


def bounded_lines(file: Readable) -> Iterator[bytes]:
    """The lines of a file; of one of more than MOST_BYTES its first MOST_BYTES + 1."""
    while content := file.readline(MOST_BYTES + 1):
        yield content
        while len(content) > MOST_BYTES and not content.endswith(b"\n"):
            content = file.readline(MOST_BYTES + 1)


def decoded(content: bytes, where: str) -> str:
    """The text of a line without its end; UserError, under the name `where`, for other bytes than UTF-8 or too many."""
    require(len(content) <= MOST_BYTES, where, f"a line of at most {MOST_BYTES:,} bytes", "a longer one")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        got = f"byte 0x{content[error.start]:02X} at position {error.start + 1} (GBK can be converted by iconv)"
        raise UserError(f"{where}: must be UTF-8, got {got}") from None
    return text.removesuffix("\n").removesuffix("\r")


def parse(content: bytes, where: str) -> Line:
    """The line of these bytes; UserError under the name `where`."""
    columns = decoded(content, where).split("\t")
    require(len(columns) == 3, where, "a line QUERY TAB DOCUMENT TAB LABEL", f"{len(columns)} columns")
    query, document, label = columns
    require(label in ("0", "1"), where, "a line with a label of 0 or 1", repr(label[:20]))
    require(query.strip() and document.strip(), where, "a line with a query and a document", "an empty one")
    return Line(query, document, int(label))


def split(lines: Iterable[Line]) -> tuple[list[Line], list[Line]]:
    """(train, held out): all lines of a query are on one side, by a hash of it."""
    sides: tuple[list[Line], list[Line]] = ([], [])
    for line in lines:
        sides[is_held_out(line.query.encode("utf-8", "surrogatepass"), _HOLD_OUT)].append(line)
    return sides


@dataclass(frozen=True, eq=False)
class Pairs:
    """n pairs of distinct texts.

    queries, documents: the bags of the texts. query, document: int64 [n], numbers of the pair's texts in them.
    label: int64 [n], 1 where they match.
    """

    queries: Bags
    documents: Bags
    query: np.ndarray
    document: np.ndarray
    label: np.ndarray

    @staticmethod
    def of(lines: Iterable[Line], num_buckets: int) -> Pairs:
        """From lines; equal texts of a column have one number."""
        texts: tuple[dict[str, int], dict[str, int]] = ({}, {})
        rows = [
            (texts[0].setdefault(query, len(texts[0])), texts[1].setdefault(document, len(texts[1])), label)
            for query, document, label in lines
        ]
        query, document, label = np.array(rows, np.int64).reshape(-1, 3).T
        queries, documents = (Bags.of(list(column), num_buckets) for column in texts)
        return Pairs(queries, documents, query, document, label)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def matching(self) -> np.ndarray:
        """Numbers of the pairs that match: int64 [m]."""
        return np.flatnonzero(self.label == 1)

    def rarity(self, num_buckets: int) -> np.ndarray:
        """See `trigrams.rarity`; of queries and documents together."""
        return rarity((self.queries, self.documents), num_buckets)

    def weighted(self, of_buckets: np.ndarray) -> Pairs:
        """With tf-idf weights; see `Bags.weighted`."""
        bags = self.queries.weighted(of_buckets), self.documents.weighted(of_buckets)
        return Pairs(*bags, self.query, self.document, self.label)

    def can_be_ordered(self) -> bool:
        """Whether a query has a document that matches and one that does not."""
        return bool(np.intersect1d(self.query[self.label == 1], self.query[self.label == 0]).size)


class Samples(NamedTuple):
    """Pairs on the host, under the names of PairBatch."""

    queries: Bags
    documents: Bags
    query: np.ndarray
    document: np.ndarray
    labels: np.ndarray
    samples: np.ndarray


@dataclass
class PairBatch(Batch):
    """b queries on the device, and b * (1 + k) documents: each query's own, then its k sampled negatives.

    query_*, document_*: the bags, as `Bags` has them. query: int64 [b], document: int64 [b * (1 + k)], the numbers of
    the texts in their set. labels: int64 [b], 1 where a query and its own document match. samples: int64 [b], the
    numbers of the pairs.
    """

    query_ids: Tensor
    query_weights: Tensor
    query_offsets: Tensor
    document_ids: Tensor
    document_weights: Tensor
    document_offsets: Tensor
    query: Tensor
    document: Tensor
    labels: Tensor
    samples: Tensor

    @property
    def num_samples(self) -> int:
        """Pairs of the data set in this batch."""
        return len(self.query)

    @classmethod
    def merged(cls, batches: Sequence[PairBatch]) -> PairBatch:
        """See Batch.merged."""
        parts = {name: [getattr(batch, name) for batch in batches] for name in vars(batches[0])}
        offsets: dict[str, Any] = {}
        for side in ("query", "document"):
            name = f"{side}_offsets"
            lengths = torch.cat([each.diff() for each in parts[name]])
            offsets[name] = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return replace(super().merged(batches), **offsets)


def collate(samples: Samples, device: torch.device | str) -> PairBatch:
    """The batch on the device; on CUDA by asynchronous copies from pinned memory."""
    queries, documents, *numbers = samples
    return PairBatch(*moved((*queries, *documents, *numbers), device))


class PairReader:
    """The batches of one rank: those of `stream`, over the matching pairs of `train`, and each pair of `held_out` once.

    negatives: sampled for each query, 0 to MOST_NEGATIVES: of its own documents that do not match, if it has any, else
    of all documents without those that match it. eval_batch_size: pairs of this rank in a batch of the evaluation.
    UserError for a query that all documents match.
    """

    name = "pairs"

    def __init__(
        self,
        train: Pairs,
        held_out: Pairs,
        stream: TrainStream,
        *,
        negatives: int,
        eval_batch_size: int,
        rank: int,
        world_size: int,
    ):
        self._train, self._held_out, self._stream, self._num_negatives = train, held_out, stream, negatives
        self._eval = (len(held_out), eval_batch_size, rank, world_size)
        self._matching: dict[int, set[int]] = defaultdict(set)
        self._others: dict[int, list[int]] = defaultdict(list)
        for query, document, label in zip(train.query, train.document, train.label, strict=True):
            if label:
                self._matching[int(query)].add(int(document))
            else:
                self._others[int(query)].append(int(document))
        most, num = max(map(len, self._matching.values()), default=0), train.documents.num_texts
        what = f"{most + 1} or more documents, as a query matches {most}"
        require(not negatives or most < num, "training pairs", what, num)

    def train(self, device: torch.device | str, first_step: int = 0) -> Generator[PairBatch, None, None]:
        """Endless micro-batches of this rank, from global step `first_step` (0-based) on."""
        items = self._drawn(first_step)
        return any_prefetch(items, device, partial(collate, device=device), lambda item: self.training(*item))

    def _drawn(self, first_step: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        matching = self._train.matching
        for request in self._stream.requests(first_step):
            assert request.draws is not None, "training requests have draws"
            yield matching[request.indices], request.draws[:, : self._num_negatives]

    def evaluate(self, device: torch.device | str) -> Generator[PairBatch, None, None]:
        """This rank's part of the held-out pairs, each once."""
        return any_prefetch(eval_batches(*self._eval), device, partial(collate, device=device), self.held_out)

    def samples(self, indices: Sequence[int], device: torch.device | str) -> Iterator[PairBatch]:
        """The held-out pairs with these numbers, one at a time."""
        for index in indices:
            yield collate(self.held_out(np.array([index])), device)

    def training(self, pairs: np.ndarray, draws: np.ndarray) -> Samples:
        """The pairs with these numbers, int64 [b], with negatives by these draws, float64 [b, k] in [0, 1)."""
        train = self._train
        negatives = np.array(
            [[self._negative(int(query), u) for u in row] for query, row in zip(train.query[pairs], draws, strict=True)]
        )
        documents = np.column_stack([train.document[pairs], negatives.reshape(len(pairs), -1)]).astype(np.int64)
        return self._samples(train, pairs, documents.ravel())

    def held_out(self, pairs: np.ndarray) -> Samples:
        """The held-out pairs with these numbers, int64 [b]."""
        return self._samples(self._held_out, pairs, self._held_out.document[pairs])

    def close(self) -> None:
        """Nothing runs in the background."""

    @staticmethod
    def _samples(side: Pairs, pairs: np.ndarray, documents: np.ndarray) -> Samples:
        queries = side.query[pairs]
        bags = side.queries.take(queries), side.documents.take(documents)
        return Samples(*bags, queries, documents, side.label[pairs], pairs)

    def _negative(self, query: int, draw: float) -> int:
        others, matching = self._others.get(query), self._matching[query]
        if others:
            return others[int(draw * len(others))]
        num = self._train.documents.num_texts
        document = int(draw * num)
        while document in matching:
            document = (document + 1) % num
        return document
