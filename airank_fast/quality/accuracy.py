"""The share of labels whose logit is the largest: of pictures, or of masked tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from airank_fast.errors import require
from airank_fast.quality.sums import Sums


class Accuracy(Sums):
    """correct / counted. Outputs: logits [n, classes]; the batch has `labels`, int64 [n].

    name: the metric's in the task. ignored: a label that does not count.
    """

    def __init__(self, name: str, ignored: int = -100) -> None:
        super().__init__(2)
        self._name, self._ignored = name, ignored

    def amounts(self, outputs: Tensor, batch: Any) -> Tensor:
        """(correct, counted) of a batch."""
        correct, counts = outputs.argmax(1) == batch.labels, batch.labels != self._ignored
        return torch.stack([correct.sum(), counts.sum()])

    def compute(self, total: Tensor) -> dict[str, float]:
        """The accuracy; UserError where nothing was counted."""
        correct, counted = map(int, total)
        require(counted, "evaluation set", "one with a label", "none")
        self.counts = {"correct": correct, "counted": counted}
        return {self._name: correct / counted}
