"""The area under the ROC curve: the probability that a sample of label 1 has a higher score than one of label 0."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from airank_fast.errors import require
from airank_fast.quality.records import Column, Records


class AUC(Records):
    """Outputs: scores [n], of any monotone scale. The batch has `labels`, 0 or 1 [n], and `samples`, int64 [n].

    name: the metric's in the task.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def record(self, outputs: Tensor, batch: Any) -> tuple[Tensor, dict[str, Column]]:
        """The scores and labels of a batch."""
        return batch.samples, {"scores": outputs, "labels": batch.labels}

    def compute(self, columns: dict[str, np.ndarray]) -> dict[str, float]:
        """See `area`."""
        return {self._name: area(columns["scores"], columns["labels"])}


def area(scores: np.ndarray, labels: np.ndarray) -> float:
    """The share of pairs of a label 1 and a label 0 in which the former has the higher score; equal scores are half.

    scores: floating point or integers [n]; labels: 0 or 1 [n]. Pairs are counted in integers, so that the result is
    exact to the last bit. NaN if a score is NaN; UserError without both labels.
    """
    positive = labels == 1
    num_positive, num_negative = int(positive.sum()), int((labels == 0).sum())
    require(
        num_positive and num_negative, "evaluation set", "of both labels", f"{num_positive} ones, {num_negative} zeros"
    )
    if np.isnan(scores).any():
        return math.nan
    order = np.argsort(scores)
    ordered = scores[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))  # of each group of equal scores
    ones = np.cumsum(positive[order])[last]  # up to and with the group
    zeros = last + 1 - ones
    below = np.concatenate([[0], zeros[:-1]])
    twice = int((np.diff(ones, prepend=0) * (below + zeros)).sum())
    return twice / (2 * num_positive * num_negative)
