"""Conv2d and ConvTranspose2d: torch's, but faster on CPUs where oneDNN's way is slow.

On AVX2 oneDNN takes long for the gradient of a weight in channels_last, and for small pictures and few channels for all
three products. Convolutions of at most DIRECT_WEIGHTS weights therefore run by airank_fast's own kernels
(ops/direct_conv.py), of large pictures the gradient of the weight alone. Of more weights that gradient is computed from
contiguous copies, for which oneDNN takes a half to a fifth of the time; that of a dilated convolution's weight takes
two to three times as long as a plain one's, and is computed as that: every rate-th pixel is of a picture of its own,
which meets no other. 3x3 convolutions of many channels are computed by Winograd's minimal filtering (ops/winograd.py).
`choices.py` decides.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.nn.choices import (
    contiguous_is_faster,
    direct_is_faster,
    is_large,
    phases_are_faster,
    winograd_is_faster,
)
from airank_fast.nn.tracing import one_call
from airank_fast.ops import direct_conv, winograd
from airank_fast.ops.pictures import in_format


class Conv2d(nn.Conv2d):
    """``nn.Conv2d`` with its arguments, parameters, state-dict keys and values, but faster on AVX2 processors.

    There float32 convolutions of few weights in channels_last run by airank_fast's own kernels. Of more weights,
    pictures in channels_last get their weights' gradients from contiguous copies, those of dilated convolutions from
    the pictures of every dilation-th pixel. 3x3 convolutions of stride 1 with at least 128 channels on both sides run
    by Winograd's minimal filtering, whose rounding errors are as small. Everywhere else, and under autocast,
    torch.compile, torch.func and exports, this is ``nn.Conv2d`` itself.

    Shapes: those of ``nn.Conv2d``.
    """

    @one_call
    def forward(self, input: Tensor) -> Tensor:
        """The convolution."""
        if winograd_is_faster(self, input):
            return _Winograd.apply(input, self.weight, self.bias, self.padding[0])
        if direct_is_faster(self, input):
            return convolve_directly(self, input)
        if self.padding_mode == "zeros" and not isinstance(self.padding, str):
            copies, rate = contiguous_is_faster(self, input), self.dilation[0] if phases_are_faster(self, input) else 1
            if copies or rate > 1:
                return _Convolution.apply(input, self.weight, self.bias, _geometry(self, (0, 0), False), copies, rate)
        return super().forward(input)


class ConvTranspose2d(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` with its arguments, parameters, state-dict keys and values, but faster on AVX2 processors.

    See ``Conv2d``. Without an output size this is faster; with one it is ``nn.ConvTranspose2d`` itself.
    """

    @one_call
    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The transposed convolution."""
        if output_size is None and contiguous_is_faster(self, input):
            return _Convolution.apply(
                input, self.weight, self.bias, _geometry(self, self.output_padding, True), True, 1
            )
        return super().forward(input, output_size)


def convolve_directly(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The convolution by the kernels of ops/direct_conv.py."""
    sides = conv.stride[0], conv.padding[0], conv.dilation[0]
    if torch.is_grad_enabled():
        return _Direct.apply(x, conv.weight, conv.bias, *sides)
    return _direct(x, conv.weight, conv.bias, *sides)


def _direct(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int) -> Tensor:
    convolve = torch.conv2d if is_large(x) else direct_conv.conv2d
    return convolve(x, weight, bias, stride, padding, dilation)


class _Direct(torch.autograd.Function):
    """Of large pictures only the weight's gradient is by our kernels."""

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.sides, ctx.bias_sizes = (stride, padding, dilation), None if bias is None else list(bias.shape)
        return _direct(x, weight, bias, stride, padding, dilation)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x, weight), (of_x, of_weight, of_bias, *_) = ctx.saved_tensors, ctx.needs_input_grad
        stride, padding, dilation = ctx.sides
        geometry = (stride, stride), (padding, padding), (dilation, dilation), False, (0, 0), 1
        if torch.is_grad_enabled():  # for a second derivative
            needed = of_x, of_weight, of_bias
            return *_gradients(grad, x, weight, ctx.bias_sizes, *geometry, needed), None, None, None
        grad = in_format(grad, True)
        grad_x = grad_weight = None
        if of_x and is_large(x):
            grad_x = _gradients(grad, x, weight, None, *geometry, (True, False, False))[0]
        elif of_x:
            grad_x = direct_conv.conv2d_input(grad, weight, x.shape[2], x.shape[3], stride, padding, dilation)
        if of_weight:
            kernel_h, kernel_w = weight.shape[2:]
            grad_weight = direct_conv.conv2d_weight(grad, x, kernel_h, kernel_w, stride, padding, dilation)
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if of_bias else None, None, None, None


def _geometry(conv: nn.Conv2d | nn.ConvTranspose2d, output_padding: tuple[int, ...], transposed: bool) -> tuple:
    """The arguments of aten::convolution behind the tensors."""
    return conv.stride, conv.padding, conv.dilation, transposed, output_padding, conv.groups


class _Convolution(torch.autograd.Function):
    """A convolution whose weight's gradient is computed from copies: contiguous ones, or of every rate-th pixel."""

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple, is_contiguous: bool, rate: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry, ctx.bias_sizes = geometry, None if bias is None else list(bias.shape)
        ctx.is_contiguous, ctx.rate = is_contiguous, rate
        return torch.convolution(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x, weight), needed = ctx.saved_tensors, ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # for a second derivative
            return *_gradients(grad, x, weight, ctx.bias_sizes, *ctx.geometry, needed), None, None, None
        grad_x = grad_weight = grad_bias = None
        if needed[0]:
            grad_x = _gradients(grad, x, weight, None, *ctx.geometry, (True, False, False))[0]
        if any(needed[1:]):
            geometry, layout = ctx.geometry, torch.contiguous_format if ctx.is_contiguous else torch.channels_last
            if ctx.rate > 1:
                grad, x = _phases(grad, ctx.rate), _phases(x, ctx.rate)
                stride, padding, dilation, *rest = geometry
                geometry = stride, [size // ctx.rate for size in padding], [1] * len(dilation), *rest
            copies = grad.contiguous(memory_format=layout), x.contiguous(memory_format=layout)
            like = weight.new_empty(weight.shape).contiguous(memory_format=layout)  # whose values are not read
            _, grad_weight, grad_bias = _gradients(*copies, like, ctx.bias_sizes, *geometry, (False, *needed[1:]))
        return grad_x, grad_weight, grad_bias, None, None, None


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, bias_sizes: list[int] | None, *rest) -> tuple[Tensor, ...]:
    """Of x, weight and bias; None where they are not needed."""
    return torch.ops.aten.convolution_backward.default(grad, x, weight, bias_sizes, *rest)


def _phases(x: Tensor, rate: int) -> Tensor:
    """The pictures of every rate-th pixel: [N, C, H, W] -> [N rate rate, C, H / rate, W / rate], padded by zeros."""
    num, channels, height, width = x.shape
    if height % rate or width % rate:
        x = F.pad(x, (0, -width % rate, 0, -height % rate))
    rows, columns = x.shape[2] // rate, x.shape[3] // rate
    parts = x.permute(0, 2, 3, 1).reshape(num, rows, rate, columns, rate, channels).permute(0, 2, 4, 1, 3, 5)
    return parts.reshape(-1, rows, columns, channels).permute(0, 3, 1, 2)


class _Winograd(torch.autograd.Function):
    """A 3x3 convolution of stride 1 with a padding of zeros; keeps x and the weight, no transforms."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.bias_sizes = padding, None if bias is None else list(bias.shape)
        windows = _windows(x, padding)
        products = torch.bmm(windows.flatten(1, 3), winograd.filters(weight).transpose(1, 2))
        y = winograd.outputs(products.view(*windows.shape[:-1], len(weight)))
        if bias is not None:
            y += bias
        return as_channels_last(y)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x, weight), needed = ctx.saved_tensors, ctx.needs_input_grad[:3]
        if torch.is_grad_enabled():  # for a second derivative
            geometry = (1, 1), (ctx.padding,) * 2, (1, 1), False, (0, 0), 1
            return *_gradients(grad, x, weight, ctx.bias_sizes, *geometry, needed), None
        of_products = winograd.outputs_backward(grad.permute(0, 2, 3, 1).contiguous())
        flat = of_products.flatten(1, 3)
        grad_x = grad_weight = grad_bias = None
        if needed[0]:
            of_windows = torch.bmm(flat, winograd.filters(weight)).view(*of_products.shape[:-1], x.shape[1])
            pixels = winograd.windows_backward(of_windows)
            inside = slice(ctx.padding, -ctx.padding if ctx.padding else None)
            grad_x = pixels[:, inside, inside].contiguous().permute(0, 3, 1, 2)
        if needed[1]:
            windows = _windows(x, ctx.padding)
            grad_weight = winograd.filters_backward(torch.bmm(flat.transpose(1, 2), windows.flatten(1, 3)))
        if needed[2]:
            grad_bias = grad.sum((0, 2, 3))
        return grad_x, grad_weight, grad_bias, None


def as_channels_last(pixels: Tensor) -> Tensor:
    """[N, H, W, C] as [N, C, H, W] in the same memory: no view to autograd, which a ReLU could not overwrite."""
    view = pixels.permute(0, 3, 1, 2)
    return pixels.new_empty(0).set_(view.untyped_storage(), view.storage_offset(), view.shape, view.stride())


def _windows(x: Tensor, padding: int) -> Tensor:
    pixels = x.permute(0, 2, 3, 1)
    return winograd.windows(F.pad(pixels, (0, 0, *(padding,) * 4)) if padding else pixels.contiguous())
