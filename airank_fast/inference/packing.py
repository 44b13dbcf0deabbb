"""Convolutions whose weights are in oneDNN's own layout, for inference on a CPU.

torch's convolution brings its weights into that layout at every call. For a few small pictures this takes longer than
the products.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

CLEARLY_FASTER = 0.75  # of the seconds of weights that are there
TIMED_RUNS = 3
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

    oneDNN's layout depends on the number of pictures and threads, and a wrong one costs more than plain weights do. For
    1, 2, 4, 8, ... pictures the first call therefore times what is packed already against new weights. Pictures of
    another size are computed as ``nn.Conv2d`` does. So are none at all.

    Shapes: those of ``nn.Conv2d``; float32.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self._geometry: Any = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self.bias = None if conv.bias is None else conv.bias.detach()
        self._plain: Tensor | None = conv.weight.detach()
        self._packed: dict[int, Tensor] = {}  # by the bits of the number of pictures
        self._size: torch.Size | None = None

    @property
    def weight(self) -> Tensor:
        """The weights as ``nn.Conv2d`` has them, which some networks read."""
        if self._plain is None:
            self._plain = next(iter(self._packed.values())).to_dense()
        return self._plain

    def forward(self, x: Tensor) -> Tensor:
        """The convolution."""
        if not x.numel() or self._size not in (None, x.shape[2:]):
            padding, stride, dilation, groups = self._geometry
            return nn.functional.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)
        self._size = x.shape[2:]
        weight = self._packed.get(len(x).bit_length())
        if weight is None:
            weight = self._packed[len(x).bit_length()] = self._pack(x)
        return self._convolve(x, weight)

    def _pack(self, x: Tensor) -> Tensor:
        """New packed weights for pictures like these, or older ones that are about as fast."""
        made = _reorder(self.weight.to_mkldnn(), *self._geometry, list(x.shape))
        self._plain = None
        known = list({id(weight): weight for weight in self._packed.values()}.values())
        if not known:
            return made
        seconds = {id(weight): self._seconds(x, weight) for weight in (*known, made)}
        best = min(known, key=lambda weight: seconds[id(weight)])
        return made if seconds[id(made)] < CLEARLY_FASTER * seconds[id(best)] else best

    def _seconds(self, x: Tensor, weight: Tensor) -> float:
        found = []
        for _ in range(TIMED_RUNS):
            begin = time.perf_counter()
            self._convolve(x, weight)
            found.append(time.perf_counter() - begin)
        return min(found)

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(x, weight, self.bias, *self._geometry, "none", [], "")
