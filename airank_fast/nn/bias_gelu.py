"""A linear layer followed by GELU; the activation's kernel adds the bias."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast import ops
from airank_fast.nn.tracing import one_call


class LinearGELU(nn.Linear):
    """``nn.Sequential(nn.Linear(...), nn.GELU(approximate))`` with nn.Linear's parameters and state-dict keys.

    The product x W^T is torch's; bias and GELU are one pass over it, forward and backward. Under autocast the product
    is 16-bit, as in nn.Linear, and the bias is added in float32, unrounded.

    Shapes: input ``[..., in_features]``, weight ``[out_features, in_features]``, bias ``[out_features]``,
    output ``[..., out_features]``.

    ``isinstance`` finds an ``nn.Linear``, which is right for initialisation, weight decay and tensor parallelism. Tools
    that replace linear layers (LoRA, quantisation of weights) must leave it out, or the GELU is lost without an error:
    name the modules to be replaced.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, approximate: str = "none", device=None, dtype=None
    ) -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(f"LinearGELU: approximate must be none or tanh, got {approximate!r}")
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.approximate = approximate

    @one_call
    def forward(self, input: Tensor) -> Tensor:
        product = F.linear(input, self.weight)
        if self.bias is None:
            return F.gelu(product, approximate=self.approximate)
        return ops.bias_gelu(product, self.bias, self.approximate)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, approximate={self.approximate!r}"
