"""The mean over classes of intersection / union of predicted and labelled pixels, from one confusion matrix.

The matrix is over the whole evaluation set and all ranks. Means over pictures, batches or ranks are other numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from airank_fast.errors import require
from airank_fast.quality.sums import Sums


class MeanIoU(Sums):
    """mean_iou. Outputs: classes, integer [b, H, W]; the batch has `labels`, integer [b, H, W].

    A class that neither a label nor a prediction has is left out of the mean. Pixels whose label is `ignored` do not
    count. `matrix` is that of the last `values`, int64 [labels, predictions].
    """

    def __init__(self, num_classes: int, ignored: int = 255) -> None:
        super().__init__(num_classes, num_classes)
        self._num_classes, self._ignored = num_classes, ignored
        self.matrix: Tensor | None = None

    def amounts(self, outputs: Tensor, batch: Any) -> Tensor:
        """The confusion matrix of a batch. Nothing waits for the device: ignored pixels count in a row of their own."""
        number = self._num_classes
        labels = torch.where(batch.labels == self._ignored, number, batch.labels.long())
        pairs = labels * number + outputs
        counts = torch.zeros((number + 1) * number, dtype=torch.int64, device=pairs.device)
        counts.scatter_add_(0, pairs.flatten(), torch.ones_like(counts[:1]).expand(pairs.numel()))
        return counts.view(number + 1, number)[:number]

    def compute(self, total: Tensor) -> dict[str, float]:
        """UserError where no pixel has a label."""
        require(total.sum(), "evaluation set", "one with a labelled pixel", "none")
        self.matrix = total
        both = total.diagonal()
        either = total.sum(0) + total.sum(1) - both
        there = either > 0
        return {"mean_iou": (both[there].double() / either[there]).mean().item()}
