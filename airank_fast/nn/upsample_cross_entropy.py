"""The loss of semantic segmentation as a module, over the fused op."""

from __future__ import annotations

from torch import Tensor, nn

from airank_fast import ops
from airank_fast.nn.tracing import one_call


class UpsampleCrossEntropyLoss(nn.Module):
    """Cross entropy between logits, upsampled bilinearly to the labels' size, and labels. See
    ``ops.upsample_cross_entropy``, which has the shapes, dtypes and errors.

    Takes the place of ``F.interpolate`` and ``nn.CrossEntropyLoss`` after it; full-size logits are never stored.

    Args:
        ignore_index: label of the pixels that are left out.
        align_corners: as in ``F.interpolate``.
    """

    def __init__(self, ignore_index: int = 255, *, align_corners: bool = False) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.align_corners = align_corners

    def extra_repr(self) -> str:
        return f"ignore_index={self.ignore_index}, align_corners={self.align_corners}"

    @one_call
    def forward(self, input: Tensor, target: Tensor, count: Tensor | float | None = None) -> Tensor:
        """``count``: what the sum of the losses is divided by; None: the number of labels that are not ignored."""
        return ops.upsample_cross_entropy(
            input, target, self.ignore_index, align_corners=self.align_corners, count=count
        )
