"""What BERT reads of questions about paragraphs: [CLS] question [SEP] a window of the paragraph [SEP].

    windows = cached_windows(path, vocabulary, Sizes())    # of a file in SQuAD's form
    reader = WindowReader(train, windows, stream, ...)

A paragraph that is longer than a sequence has several windows, which overlap. Of a token that several have, that one
decides in which the token has most context. So does Google's BERT (run_squad.py), and MLPerf's
(language/bert/create_squad_data.py), in the order of the file: with Google's uncased vocabulary the 10,570 questions of
dev-v1.1.json have 10,833 windows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from airank_fast.data.cache import made_once
from airank_fast.data.manifest import checksum
from airank_fast.data.prefetch import moved
from airank_fast.data.prefetch import prefetch as any_prefetch
from airank_fast.data.sampling import TrainStream, eval_batches
from airank_fast.data.text.squad import Question, Questions, read_questions
from airank_fast.data.text.tokens import PackedBatch
from airank_fast.data.text.wordpiece import Tokenizer, read_vocabulary
from airank_fast.errors import require

FORMAT = 1  # of the cache; another number where windows are made otherwise


@dataclass(frozen=True)
class Sizes:
    """Tokens of a sequence, of a question at most, which is cut, and between the beginnings of two windows."""

    sequence: int = 384
    question: int = 64
    stride: int = 128


@dataclass(frozen=True, eq=False)
class Windows:
    """n windows with T tokens, one behind the other; that of number i has those from offsets[i] to offsets[i + 1].

    input_ids: int32 [T]. chars: int32 [T, 2], where a token of the paragraph begins and ends in it; of others (0, 0).
    decides: bool [T], whether the token has its most context here. offsets: int64 [n + 1]. question: int32 [n], its
    number. paragraph: int32 [n], the place of the first token of the paragraph. first, last: int32 [n], the places of
    the answer's first and last token; 0, of [CLS], where the window does not have it whole.
    """

    input_ids: np.ndarray
    chars: np.ndarray
    decides: np.ndarray
    offsets: np.ndarray
    question: np.ndarray
    paragraph: np.ndarray
    first: np.ndarray
    last: np.ndarray

    def __len__(self) -> int:
        return len(self.question)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each window: int64 [n]."""
        return np.diff(self.offsets)

    def save(self, folder: Path) -> None:
        """Write each array to a file of its own."""
        for each in fields(self):
            np.save(folder / f"{each.name}.npy", getattr(self, each.name))

    @staticmethod
    def load(folder: Path) -> Windows:
        """What `save` wrote, mapped into memory."""
        return Windows(**{each.name: np.load(folder / f"{each.name}.npy", mmap_mode="r") for each in fields(Windows)})


def cached_windows(path: Path, vocabulary: Path, sizes: Sizes, *, lowercase: bool = True) -> Windows:
    """The windows of a file's questions, from the user's cache or made now; they are mapped, and not read, from there.

    vocabulary: a vocab.txt of WordPiece, by whose lines the ids count. UserError: as `read_questions`; no vocabulary.
    """
    for each in (path, vocabulary):
        require(each.is_file(), str(each), "a file", "no such file")
    stated = {
        "format": FORMAT,
        "questions": checksum(path),
        "vocabulary": checksum(vocabulary),
        "lowercase": lowercase,
        **asdict(sizes),
    }
    key = hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()[:24]

    def make(folder: Path) -> None:
        texts, tokens = read_questions(path), read_vocabulary(vocabulary, str(vocabulary))
        tokenizer = Tokenizer(tokens, lowercase=lowercase)
        cut(texts, tokenizer, sizes, str(path)).save(folder)

    return Windows.load(made_once(f"squad-{key}", make, f"windows of {path}", "a HOME that can be written"))


def cut(texts: Questions, tokenizer: Tokenizer, sizes: Sizes, where: str) -> Windows:
    """The windows of all questions, in their order. UserError, named `where`, for an answer without a token."""
    paragraphs = list(tokenizer.spans(texts.paragraphs))
    questions = tokenizer.encode([question.text for question in texts.questions])
    made: list[_Window] = []
    for number, (question, ids) in enumerate(zip(texts.questions, questions, strict=True)):
        head = [tokenizer.cls, *ids[: sizes.question], tokenizer.sep]
        made += _windows(number, question, head, *paragraphs[question.paragraph], tokenizer.sep, sizes, where)
    columns = _Window(*zip(*made, strict=True))
    return Windows(
        input_ids=np.concatenate(columns.input_ids, dtype=np.int32),
        chars=np.concatenate(columns.chars, dtype=np.int32),
        decides=np.concatenate(columns.decides),
        offsets=np.cumsum([0, *map(len, columns.input_ids)]),
        question=np.array(columns.question, np.int32),
        paragraph=np.array(columns.paragraph, np.int32),
        first=np.array(columns.first, np.int32),
        last=np.array(columns.last, np.int32),
    )


class _Window(NamedTuple):
    """The fields of `Windows`, of one."""

    question: Any
    input_ids: Any
    chars: Any
    decides: Any
    paragraph: Any
    first: Any
    last: Any


def _windows(
    number: int,
    question: Question,
    head: list[int],
    ids: list[int],
    spans: list[tuple[int, int]],
    end_id: int,
    sizes: Sizes,
    where: str,
) -> Iterator[_Window]:
    chars = np.array(spans, np.int32).reshape(-1, 2)
    answer = question.answers[0]
    inside = np.flatnonzero((chars[:, 1] > answer.start) & (chars[:, 0] < answer.start + len(answer.text)))
    require(len(inside), f"{where}, question {question.name!r}", "an answer with a token", repr(answer.text[:40]))
    room = sizes.sequence - len(head) - 1
    begins = _begins(len(ids), room, sizes.stride)
    lengths = np.minimum(len(ids) - begins, room)
    deciding = _deciding(len(ids), begins, lengths)
    for index, (begin, length) in enumerate(zip(begins.tolist(), lengths.tolist(), strict=True)):
        end, shift = begin + length, len(head) - begin
        is_whole = begin <= inside[0] and inside[-1] < end
        outside = np.zeros((len(head), 2), np.int32)
        yield _Window(
            number,
            np.array([*head, *ids[begin:end], end_id], np.int32),
            np.concatenate([outside, chars[begin:end], outside[:1]]),
            np.concatenate([outside[:, 0] > 0, deciding[begin:end] == index, [False]]),
            len(head),
            int(inside[0]) + shift if is_whole else 0,
            int(inside[-1]) + shift if is_whole else 0,
        )


def _begins(num_tokens: int, room: int, stride: int) -> np.ndarray:
    """Where the windows begin: every min(stride, room) tokens, until one has the last token."""
    step = min(stride, room)
    return step * np.arange(1 + -(-max(0, num_tokens - room) // step))


def _deciding(num_tokens: int, begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Of each token the window in which the smaller one of its contexts, before and behind it, is largest."""
    token = np.arange(num_tokens)
    before, behind = token - begins[:, None], (begins + lengths - 1)[:, None] - token
    context = np.minimum(before, behind)
    return np.where(context < 0, -np.inf, context + 0.01 * lengths[:, None]).argmax(0)


@dataclass(kw_only=True)
class WindowBatch(PackedBatch):
    """b windows, short ones first, with T tokens.

    samples: int64 [b], their numbers. first, last: int64 [b], see `Windows`.
    """

    samples: Tensor
    first: Tensor
    last: Tensor

    @property
    def num_outputs(self) -> int:
        """Tokens, each of which has its scores."""
        return sum(self.lengths)


def lay_out(windows: Windows, indices: np.ndarray) -> tuple[list[int], dict[str, np.ndarray]]:
    """(the lengths of the windows with these indices, short ones first, their arrays as a batch has them)."""
    indices = indices[np.argsort(windows.lengths[indices], kind="stable")]
    lengths = windows.lengths[indices].tolist()
    positions = np.concatenate([np.arange(length) for length in lengths])
    begins = windows.offsets[indices]
    rows = [windows.input_ids[begin : begin + length] for begin, length in zip(begins, lengths, strict=True)]
    arrays = {
        "input_ids": np.concatenate(rows),
        "token_type_ids": positions >= np.repeat(windows.paragraph[indices], lengths),
        "position_ids": positions,
        "offsets": np.cumsum([0, *lengths]),
        "samples": indices,
        "first": windows.first[indices],
        "last": windows.last[indices],
    }
    return lengths, {name: array.astype(np.int64) for name, array in arrays.items()}


def collate(item: tuple[list[int], dict[str, np.ndarray]], device: torch.device | str) -> WindowBatch:
    """The batch on the device; on CUDA by asynchronous copies from pinned memory."""
    lengths, arrays = item
    tensors: dict[str, Any] = dict(zip(arrays, moved(arrays.values(), device), strict=True))
    return WindowBatch(lengths=lengths, **tensors)


class WindowReader:
    """The windows of one rank: those of `stream`, of `train`, and those to evaluate on once over all ranks.

    eval_batch_size: of this rank.
    """

    name = "squad"

    def __init__(
        self,
        train: Windows,
        held_out: Windows,
        stream: TrainStream,
        *,
        eval_batch_size: int,
        rank: int,
        world_size: int,
    ):
        self._train, self._held_out, self.stream = train, held_out, stream
        self._eval = (len(held_out), eval_batch_size, rank, world_size)

    def train(self, device: torch.device | str, first_step: int = 0) -> Generator[WindowBatch, None, None]:
        """Endless micro-batches of this rank, from global step `first_step` (0-based) on."""
        indices = (request.indices for request in self.stream.requests(first_step))
        return _batches(self._train, indices, device)

    def evaluate(self, device: torch.device | str) -> Generator[WindowBatch, None, None]:
        """This rank's part of the windows to evaluate on."""
        return _batches(self._held_out, eval_batches(*self._eval), device)

    def samples(self, indices: Sequence[int], device: torch.device | str) -> Generator[WindowBatch, None, None]:
        """The windows to evaluate on with these numbers, one a batch."""
        return _batches(self._held_out, (np.array([index]) for index in indices), device)

    def close(self) -> None:
        """Nothing runs in the background."""


def _batches(
    windows: Windows, indices: Iterable[np.ndarray], device: torch.device | str
) -> Generator[WindowBatch, None, None]:
    return any_prefetch(indices, device, partial(collate, device=device), partial(lay_out, windows))
