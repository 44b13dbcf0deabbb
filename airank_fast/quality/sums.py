"""Meters that are sums of a fixed size: accuracy, confusion matrices, BLEU's counts, pairs in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from airank_fast.job import Ranks


class Sums:
    """Sums over the evaluation set, on the device, from which `compute` makes the values.

    A subclass implements `amounts(outputs, batch)`, a tensor of `shape` and `dtype`, and `compute(total)`. Integer sums
    are exact with any number of ranks. Each sample must come once over all ranks.
    """

    counts: Mapping[str, int] = {}

    def __init__(self, *shape: int, dtype: torch.dtype = torch.int64) -> None:
        self._shape, self._dtype = shape, dtype
        self._sums: Tensor | None = None

    def amounts(self, outputs: Any, batch: Any) -> Tensor:
        """A batch's part of the sums."""
        raise NotImplementedError

    def compute(self, total: Tensor) -> dict[str, float]:
        """{metric: value} of the sums over all ranks, on the CPU."""
        raise NotImplementedError

    def update(self, outputs: Any, batch: Any) -> None:
        """Add a batch; does not wait for the device."""
        amounts = self.amounts(outputs, batch)
        self._sums = amounts if self._sums is None else self._sums + amounts

    def values(self, ranks: Ranks) -> dict[str, float]:
        """{metric: value} over all ranks; a rank may have had no batch."""
        total = torch.zeros(self._shape, dtype=self._dtype, device=ranks.device)
        if self._sums is not None:
            total += self._sums
        return self.compute(ranks.sum(total).cpu())
