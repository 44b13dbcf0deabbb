"""airank_fast::direct_conv2d*: convolutions of channels_last pictures as sums over the filters' taps, and gradients.

    y[n, k, i, j] = bias[k] + sum over c, r, s of x[n, c, stride i + dilation r - padding, ...] weight[k, c, r, s]

The kernels, on a CPU, keep a tile of results in registers while they walk through the picture, which is copied once
with its padding; neither patches are written out nor layouts converted, which is most of the time that oneDNN takes for
small pictures and few channels. Taps that meet padding alone are left out. Sums are in the dtype of the pictures, of a
weight's gradient in parts of at most 96 pixels: results depend on the processor's vectors, but not on the number of
threads. `nn.Conv2d` calls these ops where they are faster.
"""

from __future__ import annotations

import torch
from torch import Tensor

from airank_fast.ops.checks import check_dtype, check_shape, name_of, require
from airank_fast.ops.pictures import check_picture_format, in_format

_library = torch.library.Library("airank_fast", "FRAGMENT")
_ops = torch.ops.airank_fast
_SIDES = "int stride, int padding, int dilation"
for _schema in (
    f"direct_conv2d(Tensor x, Tensor weight, Tensor? bias, {_SIDES}) -> Tensor",
    f"direct_conv2d_input(Tensor grad, Tensor weight, int height, int width, {_SIDES}) -> Tensor",
    f"direct_conv2d_weight(Tensor grad, Tensor x, int kernel_h, int kernel_w, {_SIDES}) -> Tensor",
):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int) -> Tensor:
    """``torch.nn.functional.conv2d`` with the same stride, padding and dilation on both sides, without groups.

    Args:
        x: [N, C, H, W], float32 or float64, channels_last.
        weight: [K, C, R, S], of x's dtype, channels_last.
        bias: [K], of x's dtype, contiguous; or None.

    Returns:
        [N, K, ...], channels_last. No op of this file has a gradient by itself.

    Raises:
        RuntimeError: "direct_conv2d: NAME must be WHAT, got GOT"; those of the others have their own names.
    """
    return _ops.direct_conv2d.default(x, weight, bias, stride, padding, dilation)


def conv2d_input(
    grad: Tensor, weight: Tensor, height: int, width: int, stride: int, padding: int, dilation: int
) -> Tensor:
    """The gradient of `conv2d` with respect to x, [N, C, height, width], from y's; all channels_last."""
    return _ops.direct_conv2d_input.default(grad, weight, height, width, stride, padding, dilation)


def conv2d_weight(
    grad: Tensor, x: Tensor, kernel_h: int, kernel_w: int, stride: int, padding: int, dilation: int
) -> Tensor:
    """The gradient of `conv2d` with respect to weight, [K, C, kernel_h, kernel_w], from y's; all channels_last."""
    return _ops.direct_conv2d_weight.default(grad, x, kernel_h, kernel_w, stride, padding, dilation)


@torch.library.impl(_library, "direct_conv2d", "CompositeExplicitAutograd")
def conv2d_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int
) -> Tensor:
    """`conv2d` by torch."""
    return in_format(torch.conv2d(*_checked(x, weight, bias, stride, padding, dilation)), True)


@torch.library.impl(_library, "direct_conv2d_input", "CompositeExplicitAutograd")
def conv2d_input_reference(
    grad: Tensor, weight: Tensor, height: int, width: int, stride: int, padding: int, dilation: int
) -> Tensor:
    """`conv2d_input` by torch."""
    shape = _checked_input("direct_conv2d_input", grad, weight, height, width, stride, padding, dilation)
    found = _gradients(grad, grad.new_empty(shape), weight, stride, padding, dilation, (True, False, False))
    return in_format(found[0], True)


@torch.library.impl(_library, "direct_conv2d_weight", "CompositeExplicitAutograd")
def conv2d_weight_reference(
    grad: Tensor, x: Tensor, kernel_h: int, kernel_w: int, stride: int, padding: int, dilation: int
) -> Tensor:
    """`conv2d_weight` by torch."""
    shape = _checked_weight("direct_conv2d_weight", grad, x, kernel_h, kernel_w, stride, padding, dilation)
    found = _gradients(grad, x, grad.new_empty(shape), stride, padding, dilation, (False, True, False))
    return in_format(found[1], True)


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int, needed: tuple):
    sides = [stride] * 2, [padding] * 2, [dilation] * 2
    return torch.ops.aten.convolution_backward.default(grad, x, weight, None, *sides, False, [0, 0], 1, needed)


@torch.library.register_fake("airank_fast::direct_conv2d", lib=_library)
def _conv2d_fake(x, weight, bias, stride, padding, dilation):
    _checked(x, weight, bias, stride, padding, dilation)
    sizes = _outputs(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    return _empty(x, (len(x), len(weight), *sizes))


@torch.library.register_fake("airank_fast::direct_conv2d_input", lib=_library)
def _conv2d_input_fake(grad, weight, height, width, stride, padding, dilation):
    op = "direct_conv2d_input"
    return _empty(grad, _checked_input(op, grad, weight, height, width, stride, padding, dilation))


@torch.library.register_fake("airank_fast::direct_conv2d_weight", lib=_library)
def _conv2d_weight_fake(grad, x, kernel_h, kernel_w, stride, padding, dilation):
    op = "direct_conv2d_weight"
    return _empty(grad, _checked_weight(op, grad, x, kernel_h, kernel_w, stride, padding, dilation))


def _empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return like.new_empty(shape).to(memory_format=torch.channels_last)


# The checks of csrc/direct_conv_args.h, in the same order and words.


def _checked(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, dilation: int) -> tuple:
    op = "direct_conv2d"
    _check_tensor(op, "x", x, x)
    _check_tensor(op, "weight", weight, x)
    require(op, weight.shape[1] == x.shape[1], f"weight must have {x.shape[1]} channels", weight.shape[1])
    if bias is not None:
        good = list(bias.shape) == [len(weight)] and bias.dtype == x.dtype and bias.is_contiguous()
        got = f"{name_of(bias.dtype)} {list(bias.shape)} with strides {list(bias.stride())}"
        require(op, good, f"bias must be contiguous {name_of(x.dtype)} [{len(weight)}]", got)
    _check_geometry(op, x.shape[2:], weight.shape[2:], stride, padding, dilation)
    return x, weight, bias, stride, padding, dilation


def _checked_input(op: str, grad: Tensor, weight: Tensor, height: int, width: int, *sides: int) -> tuple[int, ...]:
    _check_tensor(op, "grad", grad, grad)
    _check_tensor(op, "weight", weight, grad)
    shape = len(grad), weight.shape[1], height, width
    _check_grad(op, grad, shape, tuple(weight.shape), *sides)
    return shape


def _checked_weight(op: str, grad: Tensor, x: Tensor, kernel_h: int, kernel_w: int, *sides: int) -> tuple[int, ...]:
    _check_tensor(op, "grad", grad, grad)
    _check_tensor(op, "x", x, grad)
    shape = grad.shape[1], x.shape[1], kernel_h, kernel_w
    _check_grad(op, grad, tuple(x.shape), shape, *sides)
    return shape


def _check_tensor(op: str, name: str, x: Tensor, like: Tensor) -> None:
    good = x.dim() == 4 and 0 not in x.shape[1:]
    require(op, good, f"{name} must have 4 dimensions, all but the first at least 1", list(x.shape))
    check_dtype(op, name, x, torch.float32, torch.float64)
    check_dtype(op, name, x, like.dtype)
    check_picture_format(op, name, x, True)


def _check_geometry(op: str, sizes, kernel, stride: int, padding: int, dilation: int) -> None:
    require(op, min(kernel) > 0, "filters must have at least one tap", list(kernel))
    require(op, stride > 0, "stride must be at least 1", stride)
    require(op, padding >= 0, "padding must be at least 0", padding)
    require(op, dilation > 0, "dilation must be at least 1", dilation)
    fits = min(_outputs(sizes, kernel, stride, padding, dilation)) > 0
    require(op, fits, "padded pictures must be as large as the filters", list(sizes))


def _check_grad(op: str, grad: Tensor, x: tuple, weight: tuple, *sides: int) -> None:
    _check_geometry(op, x[2:], weight[2:], *sides)
    check_shape(op, "grad", grad, [x[0], weight[0], *_outputs(x[2:], weight[2:], *sides)])


def _outputs(sizes, kernel, stride: int, padding: int, dilation: int) -> list[int]:
    rooms = [size + 2 * padding - dilation * (taps - 1) - 1 for size, taps in zip(sizes, kernel, strict=True)]
    return [0 if room < 0 else room // stride + 1 for room in rooms]
