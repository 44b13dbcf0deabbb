"""A linear layer with GELU after it, whose bias is added by the activation's kernel."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast import ops


class LinearGELU(nn.Linear):
    """``nn.Sequential(nn.Linear(...), nn.GELU(approximate))`` with nn.Linear's parameters and state-dict keys.

    The product x W^T is torch's; bias and GELU are one pass over it, forward and backward. Under autocast the product
    is 16-bit, as in nn.Linear, and the bias is added in float32 as it is.

    Shapes: input ``[..., in_features]``, weight ``[out_features, in_features]``, bias ``[out_features]``,
    output ``[..., out_features]``.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, approximate: str = "none", device=None, dtype=None
    ) -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(f"LinearGELU: approximate must be none or tanh, got {approximate!r}")
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        product = F.linear(input, self.weight)
        if self.bias is None:
            return F.gelu(product, approximate=self.approximate)
        return ops.bias_gelu(product, self.bias, self.approximate)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, approximate={self.approximate!r}"
