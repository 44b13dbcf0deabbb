"""Cross entropy with torch.nn's interface, over the fused op."""

from __future__ import annotations

from torch import Tensor, nn

from airank_fast import ops
from airank_fast.nn.tracing import one_call


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    inplace_backward: bool = False,
) -> Tensor:
    """Drop-in for ``torch.nn.functional.cross_entropy`` of class indices; see ``ops.cross_entropy``.

    The loss of 16-bit logits is float32, without a conversion before. Class weights, class probabilities as target and
    the arguments that torch has deprecated (size_average, reduce) are errors: ValueError, RuntimeError.
    """
    for name, value in (("weight", weight), ("size_average", size_average), ("reduce", reduce)):
        if value is not None:
            raise ValueError(f"cross_entropy: {name} must be None, got {value}")
    return ops.cross_entropy(
        input, target, label_smoothing, ignore_index, reduction=reduction, inplace_backward=inplace_backward
    )


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """``torch.nn.CrossEntropyLoss`` of class indices; an unsupported argument is an error.

    ``inplace_backward=True`` writes the gradient over the logits, which are lost: see ``ops.cross_entropy``.
    """

    def __init__(
        self,
        weight: None = None,
        size_average: None = None,
        ignore_index: int = -100,
        reduce: None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        inplace_backward: bool = False,
    ) -> None:
        for name, value in (("weight", weight), ("size_average", size_average), ("reduce", reduce)):
            if value is not None:
                raise ValueError(f"CrossEntropyLoss: {name} must be None, got {value}")
        super().__init__(ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing)
        self.inplace_backward = inplace_backward

    @one_call
    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(
            input,
            target,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            inplace_backward=self.inplace_backward,
        )
