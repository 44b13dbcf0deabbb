"""The mean absolute error of made pictures against true ones: of translated pictures against their true partners."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from airank_fast.data.images.domain_reader import levels
from airank_fast.errors import require
from airank_fast.quality.sums import Sums


def error_sums(made: Tensor, true: Tensor) -> Tensor:
    """(the sum of absolute differences of grey levels, their number) of each picture: int64 [N, 2].

    made, true: pictures of -1 ... 1 [N, C, H, W], compared as they are saved, in 8 bits. So sums are exact.
    """
    differences = (levels(made).short() - levels(true).short()).abs().flatten(1)
    sums = differences.sum(1, dtype=torch.int64)
    return torch.stack([sums, torch.full_like(sums, differences.shape[1])], 1)


def mean_error(total: Tensor) -> float:
    """The mean of sums (differences, number) over 0 ... 1; UserError where there is no picture."""
    difference, number = total.tolist()
    require(number, "evaluation set", "one with a picture", "none")
    return difference / (255 * number)


class PictureError(Sums):
    """l1: the mean of |made - true| over all pixels and channels, of levels 0 ... 1.

    Outputs: the pictures made of `a`, [N, C, H, W] of -1 ... 1; the batch has `b`, the true ones.
    """

    def __init__(self) -> None:
        super().__init__(2)

    def amounts(self, outputs: Tensor, batch: Any) -> Tensor:
        """(differences, number) of a batch."""
        return error_sums(outputs, batch.b).sum(0)

    def compute(self, total: Tensor) -> dict[str, float]:
        """See `mean_error`."""
        return {"l1": mean_error(total)}
