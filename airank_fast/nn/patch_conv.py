"""A convolution that runs as a matrix product over patches of the input where that is faster."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.nn.choices import direct_is_faster, is_large, product_is_faster
from airank_fast.nn.conv import Conv2d, as_channels_last, convolve_directly
from airank_fast.nn.tracing import one_call


class PatchConv2d(Conv2d):
    """``nn.Conv2d`` with its arguments, parameters, state-dict keys and values, but faster.

    On a CPU, for few pixels and many channels, oneDNN's convolution spends most of its time on converting weights and
    their gradients to its own layout and back. There the patches of the filters are written side by side and
    multiplied, without the weights that meet padding alone; `choices.py` decides from measurements. That needs a
    convolution without bias, groups and dilation, padded by zeros. Of few weights, and of large pictures, this is
    airank_fast's ``Conv2d``. Everywhere else, and under autocast, torch.compile, torch.func and exports, it is
    ``nn.Conv2d`` itself.

    Shapes: those of ``nn.Conv2d``; the output is channels_last where it is a product.
    """

    @one_call
    def forward(self, input: Tensor) -> Tensor:
        has_large = is_large(input)
        if not has_large and direct_is_faster(self, input):
            return convolve_directly(self, input)
        if product_is_faster(self, input):
            return _Product.apply(input, self.weight, self.stride[0], self.padding[0])
        if has_large or self.dilation != (1, 1):
            return super().forward(input)
        return nn.Conv2d.forward(self, input)


class _Taps(NamedTuple):
    """Along one side: the weights that meet a pixel, lo to hi - 1, with their padding and number of outputs."""

    lo: int
    hi: int
    before: int
    after: int
    num_outputs: int


def _taps(size: int, kernel: int, stride: int, padding: int) -> _Taps:
    num_outputs = (size + 2 * padding - kernel) // stride + 1
    reach = (num_outputs - 1) * stride
    lo, hi = max(0, padding - reach), min(kernel, size + padding)
    before = padding - lo
    return _Taps(lo, hi, before, max(0, reach + (hi - lo) - before - size), num_outputs)


class _Product(torch.autograd.Function):
    """Saves its inputs, not the patches, so that its backward pass can be differentiated too."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        rows, columns = _sides(x, weight, stride, padding)
        y = _patches(x, rows, columns, stride) @ _matrix(weight, rows, columns).t()
        return as_channels_last(y.view(len(x), rows.num_outputs, columns.num_outputs, len(weight)))

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, weight, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x, weight), stride = ctx.saved_tensors, ctx.stride
        rows, columns = _sides(x, weight, stride, ctx.padding)
        flat = grad.permute(0, 2, 3, 1).reshape(-1, weight.shape[0])
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _fold(flat @ _matrix(weight, rows, columns), x.shape, rows, columns, stride)
        if ctx.needs_input_grad[1]:
            seen = flat.t() @ _patches(x, rows, columns, stride)
            seen = seen.view(-1, rows.hi - rows.lo, columns.hi - columns.lo, x.shape[1])
            kernel = weight.shape[2]
            unseen = (0, 0, columns.lo, kernel - columns.hi, rows.lo, kernel - rows.hi)
            grad_weight = (F.pad(seen, unseen) if any(unseen) else seen).permute(0, 3, 1, 2)
        return grad_x, grad_weight, None, None


def _sides(x: Tensor, weight: Tensor, stride: int, padding: int) -> list[_Taps]:
    return [_taps(size, weight.shape[2], stride, padding) for size in x.shape[2:]]


def _patches(x: Tensor, rows: _Taps, columns: _Taps, stride: int) -> Tensor:
    """[outputs, taps x channels]: the inputs of each output, in the order of channels_last weights."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, columns.before, columns.after, rows.before, rows.after))
    windows = padded.unfold(1, rows.hi - rows.lo, stride).unfold(2, columns.hi - columns.lo, stride)
    windows = windows[:, : rows.num_outputs, : columns.num_outputs].permute(0, 1, 2, 4, 5, 3)
    return windows.reshape(-1, windows.shape[3:].numel())


def _matrix(weight: Tensor, rows: _Taps, columns: _Taps) -> Tensor:
    """[out_channels, taps x channels]: the weights that meet a pixel; a view where all of channels_last ones do."""
    return weight[:, :, rows.lo : rows.hi, columns.lo : columns.hi].permute(0, 2, 3, 1).flatten(1)


def _fold(patches: Tensor, shape: torch.Size, rows: _Taps, columns: _Taps, stride: int) -> Tensor:
    """The adjoint of `_patches`: each pixel's sum over the patches that contain it."""
    num, channels, height, width = shape
    taps = (rows.hi - rows.lo, columns.hi - columns.lo)
    patches = patches.view(num, rows.num_outputs, columns.num_outputs, *taps, channels)
    padded = patches.new_zeros(num, height + rows.before + rows.after, width + columns.before + columns.after, channels)
    for i in range(taps[0]):
        for j in range(taps[1]):
            down = slice(i, i + stride * (rows.num_outputs - 1) + 1, stride)
            across = slice(j, j + stride * (columns.num_outputs - 1) + 1, stride)
            padded[:, down, across].add_(patches[:, :, :, i, j])
    return padded[:, rows.before : rows.before + height, columns.before : columns.before + width].permute(0, 3, 1, 2)
