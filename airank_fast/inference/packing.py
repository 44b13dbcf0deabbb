"""Convolutions whose weights are in oneDNN's own layout, for inference on a CPU.

torch's convolution brings its weights into that layout at every call. For a few small pictures this takes longer than
the products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_reorder: Any = getattr(torch._C._nn, "mkldnn_reorder_conv2d_weight", None)


def packed(network: nn.Module) -> int:
    """Put `PackedConv2d` in the place of each float32 ``nn.Conv2d`` of a network on the CPU; returns how many.

    Subclasses stay, as they have ways of their own. The network's weights are gone then from its state dict.
    """
    if _reorder is None or not torch.backends.mkldnn.is_available():
        return 0
    made: dict[nn.Module, PackedConv2d] = {}
    for parent in list(network.modules()):
        for name, module in list(parent._modules.items()):  # named_children has a shared module once
            if type(module) is nn.Conv2d and _can_be_packed(module):
                if module not in made:
                    made[module] = PackedConv2d(module)
                setattr(parent, name, made[module])
    return len(made)


def _can_be_packed(conv: nn.Conv2d) -> bool:
    is_plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
    return is_plain and conv.weight.is_cpu and conv.weight.dtype == torch.float32


class PackedConv2d(nn.Module):
    """A convolution for inference, its weights packed for the height and width of the first pictures that come.

    Pictures of another size are computed as ``nn.Conv2d`` does, as their layout may be another one. So are none at all.

    Shapes: those of ``nn.Conv2d``; float32.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self._geometry: Any = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.bias = None if conv.bias is None else conv.bias.detach()
        self._plain: Tensor | None = conv.weight.detach()
        self._packed: Tensor | None = None
        self._size: torch.Size | None = None

    @property
    def weight(self) -> Tensor:
        """The weights as ``nn.Conv2d`` has them, which some networks read."""
        if self._plain is None:
            assert self._packed is not None
            self._plain = self._packed.to_dense()
        return self._plain

    def forward(self, x: Tensor) -> Tensor:
        """The convolution."""
        if self._packed is None and x.numel():
            self._packed = _reorder(self.weight.to_mkldnn(), *self._geometry, list(x.shape))
            self._plain, self._size = None, x.shape[2:]
        if x.shape[2:] == self._size and x.numel():
            return torch.ops.mkldnn._convolution_pointwise(x, self._packed, self.bias, *self._geometry, "none", [], "")
        padding, stride, dilation, groups = self._geometry
        return nn.functional.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)
