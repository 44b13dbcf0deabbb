"""LayerNorm and FusedLayerNorm, drop-ins for torch.nn's and apex.normalization's classes of these names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from airank_fast.errors import UserError
from airank_fast.nn.tracing import one_call
from airank_fast.ops import layer_norm


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the last dimensions; arguments, parameters and state dict of torch.nn.LayerNorm.

    Shapes: input and output ``[..., *normalized_shape]``. The parameters may be float32 beside a 16-bit input, which
    stays 16-bit. Under autocast to a 16-bit dtype the output is 16-bit, for a float32 input too (as with apex, which
    rounds the input first); torch's is float32 there. Outside autocast it has the input's dtype.

    `memory_efficient` is apex's; it must be False. In apex it saves the output instead of the input, which the backward
    pass cannot recover where a weight is near zero.

    Raises:
        UserError: memory_efficient=True.
        RuntimeError: from `forward`, "layer_norm: NAME must be WHAT, got GOT".
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        memory_efficient: bool = False,
    ) -> None:
        if memory_efficient:
            raise UserError(f"LayerNorm: memory_efficient must be False, got {memory_efficient}")
        super().__init__(normalized_shape, eps, elementwise_affine, bias, device, dtype)

    @one_call
    def forward(self, input: Tensor) -> Tensor:
        """Normalise the input."""
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


class FusedLayerNorm(LayerNorm):
    """LayerNorm with the arguments of apex.normalization.FusedLayerNorm, whose fourth is not the bias.

    Raises:
        UserError: memory_efficient=True.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__(normalized_shape, eps, elementwise_affine, memory_efficient=memory_efficient)
