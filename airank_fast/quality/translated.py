"""The quality of an unpaired translation both ways: what a classifier takes the made pictures for, and the way back."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from airank_fast.errors import require
from airank_fast.quality.domain_classifier import DomainClassifier
from airank_fast.quality.picture_error import error_sums, mean_error
from airank_fast.quality.sums import Sums


class Translations(NamedTuple):
    """Of a batch's a and b, pictures of -1 ... 1: made_b of a, made_a of b; cycled_a of made_b, cycled_b of made_a."""

    made_b: Tensor
    made_a: Tensor
    cycled_a: Tensor
    cycled_b: Tensor


class Translated(Sums):
    """translated, to_a, to_b: the share of made pictures that the classifier takes for the domain they shall be of.

    cycle_l1: the mean of |cycled - original| of both domains, of levels 0 ... 1. With `partners` also l1, the mean of
    |made_b - b|, where a and b are true partners, as they may be in an evaluation alone. Outputs: Translations; the
    batch has a, b and counts (`PictureBatch`).
    """

    def __init__(self, classifier: DomainClassifier, *, partners: bool = False) -> None:
        super().__init__(4, 2)
        self._classifier, self._partners = classifier, partners

    def amounts(self, outputs: Translations, batch: Any) -> Tensor:
        """(correct or differences, counted) of: to B, to A, the cycles, the partners."""
        of_a, of_b = batch.counts.unbind(1)
        to_b, to_a = self._classifier.is_b(outputs.made_b), ~self._classifier.is_b(outputs.made_a)
        rates = [torch.stack([(right & its).sum(), its.sum()]) for right, its in ((to_b, of_a), (to_a, of_b))]
        # Integers are multiplied and summed: on CUDA there is no matrix product of them.
        cycles = (error_sums(outputs.cycled_a, batch.a) * of_a[:, None]).sum(0)
        cycles += (error_sums(outputs.cycled_b, batch.b) * of_b[:, None]).sum(0)
        partners = error_sums(outputs.made_b, batch.b).sum(0) if self._partners else torch.zeros_like(cycles)
        return torch.stack([*rates, cycles, partners])

    def compute(self, total: Tensor) -> dict[str, float]:
        """UserError where there is no picture."""
        (to_b, from_a), (to_a, from_b) = total[:2].tolist()
        require(from_a and from_b, "evaluation set", "one with a picture of each domain", f"{from_a} and {from_b}")
        values = {
            "translated": (to_a + to_b) / (from_a + from_b),
            "to_a": to_a / from_b,
            "to_b": to_b / from_a,
            "cycle_l1": mean_error(total[2]),
        }
        return {**values, "l1": mean_error(total[3])} if self._partners else values
