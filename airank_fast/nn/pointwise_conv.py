"""A 1x1 convolution that runs as a matrix product where that is faster."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.nn.choices import direct_is_faster, product_is_faster
from airank_fast.nn.conv import convolve_directly
from airank_fast.nn.tracing import one_call


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution without bias: ``nn.Conv2d(in, out, 1, stride, bias=False)``, but faster.

    In NHWC a 1x1 convolution is one matrix product over the pixels. On CPUs that product is faster than the
    convolution primitive, forward and backward, in bfloat16 where the processor multiplies it and in float32 on AVX2
    for few pixels; with few weights, airank_fast's own kernels (ops/direct_conv.py) are faster still. `choices.py`
    decides from measurements. Everywhere else this is ``nn.Conv2d``.

    Shapes: input ``[N, in_channels, H, W]`` or ``[in_channels, H, W]``, weight ``[out_channels, in_channels, 1, 1]``,
    output ``[N, out_channels, ceil(H / stride), ceil(W / stride)]`` or without N, in channels_last when the product
    is used.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, device=None, dtype=None) -> None:
        super().__init__(in_channels, out_channels, 1, stride=stride, bias=False, device=device, dtype=dtype)

    @one_call
    def forward(self, input: Tensor) -> Tensor:
        if direct_is_faster(self, input):
            return convolve_directly(self, input)
        if not product_is_faster(self, input):
            return super().forward(input)
        step_h, step_w = self.stride
        pixels = input[:, :, ::step_h, ::step_w].permute(0, 2, 3, 1)
        return F.linear(pixels, self.weight.flatten(1)).permute(0, 3, 1, 2)
