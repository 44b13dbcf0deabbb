"""Exact match and F1 of answers that are spans of a paragraph, as SQuAD 1.1 measures them.

Source: Rajpurkar et al. (2016), section 6.1, and their evaluate-v1.1.py; the choice of a span among the scores is that
of Google's BERT (run_squad.py), with its 20 beginnings and ends and 30 tokens, which MLPerf has too.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.data.text.answer_windows import WindowBatch, Windows
from airank_fast.data.text.squad import Questions
from airank_fast.quality.records import Records

NUM_BEST, MOST_TOKENS = 20, 30  # beginnings and ends that are paired; tokens of an answer
_CHUNK = 1024  # windows whose pairs are in memory at a time
_ARTICLES, _PUNCTUATION = re.compile(r"\b(a|an|the)\b"), str.maketrans("", "", string.punctuation)


def normalised(text: str) -> list[str]:
    """The words that count: in lower case, without ASCII punctuation and articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def exact_match(predicted: str, answers: Sequence[str]) -> float:
    """1 where the words are those of one of the answers, in their order, else 0."""
    return float(normalised(predicted) in [normalised(answer) for answer in answers])


def f1(predicted: str, answers: Sequence[str]) -> float:
    """The best harmonic mean of precision and recall over the words of one of the answers."""
    words = Counter(normalised(predicted))
    return max(_f1(words, Counter(normalised(answer))) for answer in answers)


def _f1(predicted: Counter[str], answer: Counter[str]) -> float:
    common = (predicted & answer).total()
    return 2 * common / (predicted.total() + answer.total()) if common else 0.0


class Spans(NamedTuple):
    """Of each window the best span: its score, -inf without one, and where it begins and ends in the paragraph."""

    score: np.ndarray
    begin: np.ndarray
    end: np.ndarray


def best_spans(scores: np.ndarray, windows: Windows, indices: np.ndarray) -> Spans:
    """The best spans of these windows by the scores of their tokens.

    A span begins at a token that has its most context in the window, and has at most MOST_TOKENS.

    scores: float32 [n, L, 2], of each token as the first and as the last one; ignored behind the window's end. indices:
    int64 [n].
    """
    parts = [
        _best_spans(scores[first : first + _CHUNK], windows, indices[first : first + _CHUNK])
        for first in range(0, len(indices), _CHUNK)
    ]
    return Spans(*map(np.concatenate, zip(*parts, strict=True)))


def _best_spans(scores: np.ndarray, windows: Windows, indices: np.ndarray) -> Spans:
    length = scores.shape[1]
    lengths = windows.lengths[indices]
    places = np.minimum(windows.offsets[indices][:, None] + np.arange(length), len(windows.input_ids) - 1)
    # of the paragraph are the tokens between the question and the last [SEP]
    within = (np.arange(length) >= windows.paragraph[indices][:, None]) & (np.arange(length) < lengths[:, None] - 1)
    is_real = np.arange(length) < lengths[:, None]
    first, first_score = _best(np.where(is_real, scores[:, :, 0], -np.inf))
    last, last_score = _best(np.where(is_real, scores[:, :, 1], -np.inf))
    can_begin = np.take_along_axis(within & windows.decides[places], first, 1)
    can_end = np.take_along_axis(within, last, 1)
    more = last[:, None, :] - first[:, :, None]
    is_span = can_begin[:, :, None] & can_end[:, None, :] & (more >= 0) & (more < MOST_TOKENS)
    pairs = np.where(is_span, first_score[:, :, None] + last_score[:, None, :], -np.inf).reshape(len(indices), -1)
    best, row = pairs.argmax(1), np.arange(len(indices))
    begin = windows.chars[places[row, first[row, best // last.shape[1]]], 0]
    end = windows.chars[places[row, last[row, best % last.shape[1]]], 1]
    return Spans(pairs[row, best], begin, end)


def _best(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(places, values) of the largest NUM_BEST of each row."""
    values, places = torch.from_numpy(scores).topk(min(NUM_BEST, scores.shape[1]), dim=1)
    return places.numpy(), values.numpy()


class AnswerQuality(Records):
    """f1 and exact_match, fractions, over the questions that have a window.

    Outputs: scores [T, 2] for a WindowBatch. texts: returns the questions of the windows. longest: tokens of a window
    at most. results: of the last `values`, 1 for each window whose question is answered exactly, and 0 for the others.
    """

    results: list[int] | None = None

    def __init__(self, windows: Windows, texts: Callable[[], Questions], longest: int) -> None:
        super().__init__()
        self._windows, self._texts, self._longest = windows, texts, longest

    def record(self, outputs: Tensor, batch: WindowBatch) -> tuple[Tensor, dict[str, Any]]:
        """The scores of each window, filled up to the longest one."""
        filled = [F.pad(each, (0, 0, 0, self._longest - len(each))) for each in outputs.split(batch.lengths)]
        return batch.samples, {"sample": batch.samples, "scores": torch.stack(filled)}

    def compute(self, columns: dict[str, np.ndarray]) -> dict[str, float]:
        """Over the questions, each of which is answered by the best span of its windows; "" where there is none."""
        texts, found = self._texts(), self.answers(columns["scores"], columns["sample"])
        truths = {number: [answer.text for answer in texts.questions[number].answers] for number in found}
        exact = {number: exact_match(answer, truths[number]) for number, answer in found.items()}
        overlap = sum(f1(answer, truths[number]) for number, answer in found.items())
        self.results = [int(exact[number]) for number in self._windows.question[columns["sample"]]]
        return {"f1": overlap / len(found), "exact_match": sum(exact.values()) / len(found)}

    def answers(self, scores: np.ndarray, samples: np.ndarray) -> dict[int, str]:
        """The answer to each question that has one of these windows, by its number. scores: [n, L, 2]."""
        texts = self._texts()
        spans, questions = best_spans(scores, self._windows, samples), self._windows.question[samples]
        found = {int(number): "" for number in questions}
        order = np.argsort(spans.score, kind="stable")
        for place in order[spans.score[order] > -np.inf]:  # the best of a question comes last
            number = int(questions[place])
            context = texts.paragraphs[texts.questions[number].paragraph]
            found[number] = context[spans.begin[place] : spans.end[place]]
        return found
