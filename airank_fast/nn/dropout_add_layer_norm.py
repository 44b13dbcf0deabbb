"""Dropout, the addition of a residual and LayerNorm as one module, as between a transformer's layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from airank_fast.errors import UserError
from airank_fast.nn.tracing import one_call
from airank_fast.ops import dropout_add_layer_norm


class DropoutAddLayerNorm(nn.LayerNorm):
    """``LayerNorm(dropout(x) + residual)``; parameters and state dict of torch.nn.LayerNorm.

    Shapes: x, residual and output ``[..., *normalized_shape]``. Dtypes as with airank_fast.nn.LayerNorm; the residual
    may be float32 beside a 16-bit x, and its sum then stays float32. Elements are dropped while training, by numbers
    from torch's generator of x's device: `torch.manual_seed` repeats them, a captured CUDA graph draws new ones at
    each replay, and checkpointed layers are recomputed with the same ones.

    Args:
        normalized_shape: the shape of a row.
        p: the share of x that is dropped.
        eps, elementwise_affine, bias, device, dtype: as in torch.nn.LayerNorm.
        return_sum: return ``(output, dropout(x) + residual)``, for networks that normalise before a layer.

    Raises:
        UserError: p out of range.
        RuntimeError: from `forward`, "dropout_add_layer_norm: NAME must be WHAT, got GOT".
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        p: float = 0.1,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        return_sum: bool = False,
    ) -> None:
        if not 0 <= p <= 1:
            raise UserError(f"DropoutAddLayerNorm: p must be from 0 to 1, got {p}")
        super().__init__(normalized_shape, eps, elementwise_affine, bias, device, dtype)
        self.p = p
        self.return_sum = return_sum

    @one_call
    def forward(self, x: Tensor, residual: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Drop elements of x, add the residual and normalise the sum."""
        return dropout_add_layer_norm(
            x,
            residual,
            self.normalized_shape,
            self.weight,
            self.bias,
            self.eps,
            p=self.p,
            training=self.training,
            return_sum=self.return_sum,
        )

    def extra_repr(self) -> str:
        """The arguments in the module's repr."""
        return f"{super().extra_repr()}, p={self.p}, return_sum={self.return_sum}"
