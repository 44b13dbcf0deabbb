"""airank_fast::upsample_add_act: pictures of several resolutions upsampled to that of the first, added, and a ReLU.

The exchange between HRNet's branches, written once. Positions in csrc/upsample_math.h (those of
torch.nn.functional.interpolate). Backward masks the gradient by the result, then gathers each picture's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.ops import autograd
from airank_fast.ops.checks import check_device, check_dtype, require
from airank_fast.ops.pictures import check_picture, in_format, is_channels_last, memory_format

_OP = "upsample_add_act"
_SCHEMAS = (
    """upsample_add_act(Tensor x, Tensor? a, Tensor? b, Tensor? c, bool relu, bool nearest, bool align_corners,
                        bool channels_last) -> Tensor""",
    """upsample_add_act_backward(Tensor grad, SymInt height, SymInt width, bool nearest, bool align_corners,
                                 bool channels_last) -> Tensor""",
)
_library = torch.library.Library("airank_fast", "FRAGMENT")
_ops = torch.ops.airank_fast
for _schema in _SCHEMAS:
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))

_AT_ONCE = 3
"""Pictures that one call of the op adds to the first."""


@autograd.overridable
def upsample_add_act(
    inputs: Sequence[Tensor], *, relu: bool = True, mode: str = "bilinear", align_corners: bool = False
) -> Tensor:
    """The sum of the inputs, each interpolated to the height and width of the first, and a ReLU.

    As ``F.relu(inputs[0] + sum(F.interpolate(x, size, mode=mode, align_corners=...) for x in inputs[1:]))``, without
    rounding in between; of more than four inputs the sums of the first four, of the next three and so on are rounded.

    Args:
        inputs: pictures [N, C, h, w] of one dtype, float32, float64, bfloat16 or float16, any h and w each. All take
            the memory format of the first, contiguous or channels_last; one that has another is copied.
        relu: end with a ReLU, of which backward needs the result.
        mode: "bilinear" or "nearest".
        align_corners: as in F.interpolate; not with "nearest".

    Returns:
        [N, C, H, W] of the first input's dtype and memory format. Gradients are the same for any number of threads.

    Raises:
        RuntimeError, ValueError: "upsample_add_act: NAME must be WHAT, got GOT".
    """
    if mode not in ("bilinear", "nearest"):
        raise ValueError(f"{_OP}: mode must be bilinear or nearest, got {mode!r}")
    if mode == "nearest" and align_corners:
        raise ValueError(f"{_OP}: align_corners must be False for mode nearest, got True")
    if not inputs:
        raise ValueError(f"{_OP}: inputs must have at least one picture, got none")
    x = inputs[0]
    last = is_channels_last(x)
    x, *others = (in_format(picture, last) for picture in inputs)
    while True:
        some, others = others[:_AT_ONCE], others[_AT_ONCE:]
        padded = (*some, *(None,) * (_AT_ONCE - len(some)))
        x = _upsample_add_act(x, *padded, relu and not others, mode == "nearest", align_corners, last)
        if not others:
            return x


@torch.library.impl(_library, "upsample_add_act", "CompositeExplicitAutograd")
def upsample_add_act_reference(
    x: Tensor,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    relu: bool,
    nearest: bool,
    align_corners: bool,
    channels_last: bool,
) -> Tensor:
    """The same in plain torch."""
    _check(x, (a, b, c), channels_last)
    return in_format(_sum(x, a, b, c, relu, nearest, align_corners, channels_last), channels_last)


@torch.library.impl(_library, "upsample_add_act_backward", "CompositeExplicitAutograd")
def upsample_add_act_backward_reference(
    grad: Tensor, height: int, width: int, nearest: bool, align_corners: bool, channels_last: bool
) -> Tensor:
    """The gradient of a picture of that size, by the result's after the ReLU's, in plain torch."""
    _check_backward(grad, height, width, channels_last)
    return in_format(_gradient(grad, height, width, nearest, align_corners), channels_last)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _sum(x, a, b, c, relu, nearest, align_corners, _channels_last) -> Tensor:
    total = x.to(_wide(x))
    for other in (a, b, c):
        if other is None:
            continue
        if other.shape[2:] != x.shape[2:]:
            mode, corners = ("nearest", None) if nearest else ("bilinear", align_corners)
            wide = other.to(total.dtype)
            other = (
                F.interpolate(wide, x.shape[2:], mode=mode, align_corners=corners)
                if len(x)
                else wide.new_empty(x.shape)
            )
        total = total + other
    return (total.relu() if relu else total).to(x.dtype)


def _gradient(grad, height, width, nearest, align_corners) -> Tensor:
    size, shape = list(grad.shape[2:]), [*grad.shape[:2], height, width]
    if grad.numel() == 0:
        return grad.new_zeros(shape)
    wide = grad.to(_wide(grad))
    if nearest:
        return torch.ops.aten.upsample_nearest2d_backward(wide, size, shape).to(grad.dtype)
    return torch.ops.aten.upsample_bilinear2d_backward(wide, size, shape, align_corners).to(grad.dtype)


@torch.library.register_fake("airank_fast::upsample_add_act", lib=_library)
def _fake(x, a, b, c, relu, nearest, align_corners, channels_last):
    _check(x, (a, b, c), channels_last)
    return torch.empty_like(x, memory_format=memory_format(channels_last))


@torch.library.register_fake("airank_fast::upsample_add_act_backward", lib=_library)
def _backward_fake(grad, height, width, nearest, align_corners, channels_last):
    _check_backward(grad, height, width, channels_last)
    return grad.new_empty((*grad.shape[:2], height, width)).to(memory_format=memory_format(channels_last))


def _setup_context(ctx, inputs, output):
    x, a, b, c, relu, *ctx.how = inputs
    ctx.sizes = [None if other is None else other.shape[2:] for other in (a, b, c)]
    ctx.size = x.shape[2:]
    ctx.save_for_backward(output if relu else None)


def _backward(ctx, grad):
    (y,) = ctx.saved_tensors
    nearest, align_corners, channels_last = ctx.how
    if y is not None:
        grad = torch.ops.aten.threshold_backward(grad, y, 0)
    grad = in_format(grad, channels_last)
    gradients = [grad]
    for size, needed in zip(ctx.sizes, ctx.needs_input_grad[1:], strict=False):
        if size is None or not needed:
            gradients.append(None)
        elif size == ctx.size:
            gradients.append(grad)
        else:
            gradients.append(
                autograd.backward_of(_kernel, _formula, grad, *size, nearest, align_corners, channels_last)
            )
    return *gradients, None, None, None, None


def _kernel(*arguments) -> Tensor:
    return _ops.upsample_add_act_backward.default(*arguments)


def _formula(grad, height, width, nearest, align_corners, _channels_last) -> Tensor:
    return _gradient(grad, height, width, nearest, align_corners)


_upsample_add_act = autograd.differentiable(
    _ops.upsample_add_act.default, _setup_context, _backward, _sum, lib=_library
)
autograd.refuse_derivatives(_library, "upsample_add_act_backward")


def _check(x: Tensor, others: tuple[Tensor | None, ...], channels_last: bool) -> None:
    """The checks of csrc/upsample_add_act_args.h, in the same order and words, as are those below."""
    check_picture(_OP, "x", x, channels_last)
    for name, other in zip("abc", others, strict=True):
        if other is None:
            continue
        check_device(_OP, name, other, x.device)
        check_dtype(_OP, name, other, x.dtype)
        required = f"{name} must have shape [{x.shape[0]}, {x.shape[1]}, h, w]"
        require(_OP, other.dim() == 4 and other.shape[:2] == x.shape[:2], required, list(other.shape))
        check_picture(_OP, name, other, channels_last)


def _check_backward(grad: Tensor, height: int, width: int, channels_last: bool) -> None:
    op = f"{_OP}_backward"
    check_picture(op, "grad", grad, channels_last)
    require(op, height > 0 and width > 0, "size must be at least 1", [height, width])
