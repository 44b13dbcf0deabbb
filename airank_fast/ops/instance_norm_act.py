"""airank_fast::instance_norm_act: instance norm + residual + activation, each way in one op.

Formulas in csrc/batch_norm_act_math.h, with statistics of each channel of each picture. To the op the activation is its
slope below zero: 1 for none, 0 for a ReLU. The forward pass keeps the statistics, [N, 2, C]: means and
1 / sqrt(var + eps), float32 (float64 for float64 inputs). Backward reads x and the gradient, and computes again which
elements passed the activation; where a residual was added before it, they are read from the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

from airank_fast.ops import autograd
from airank_fast.ops.batch_norm_act import activated, slope_of
from airank_fast.ops.batch_norm_checks import check_slope, check_vector, math_dtype
from airank_fast.ops.checks import check_device, check_dtype, check_shape, require
from airank_fast.ops.pictures import check_picture, check_picture_format, in_format, is_channels_last

_OP = "instance_norm_act"
_SCHEMAS = (
    """instance_norm_act(Tensor x, Tensor? weight, Tensor? bias, Tensor? residual, float negative_slope, float eps,
                         bool channels_last) -> (Tensor, Tensor)""",
    """instance_norm_act_backward(Tensor grad, Tensor x, Tensor? y, Tensor? weight, Tensor? bias, Tensor statistics,
                                  float negative_slope, bool channels_last) -> (Tensor, Tensor, Tensor)""",
)
_library = torch.library.Library("airank_fast", "FRAGMENT")
_ops = torch.ops.airank_fast
for _schema in _SCHEMAS:
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


@autograd.overridable
def instance_norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    activation: str | None = None,
    negative_slope: float = 0.01,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias + residual, through an activation where one is named.

    As ``F.instance_norm(x, weight=weight, bias=bias, eps=eps)``, of which mean and biased variance are those of each
    channel of each picture, without rounding before the addition and the activation.

    Args:
        x: [N, C, H, W], contiguous or channels_last; float32, float64, bfloat16 or float16. Another layout is copied.
        weight, bias: [C], float32 (float64 beside float64 x), or None for 1 and 0.
        residual: of x's shape and dtype, or None. It takes x's layout.
        activation: None, "relu" or "leaky_relu".
        negative_slope: of "leaky_relu", above 0.
        eps: above 0.

    Returns:
        [N, C, H, W] of x's dtype and layout. For backward x and the statistics are kept, and with both a residual and
        an activation the result. Results and gradients are the same for any number of threads.

    Raises:
        ValueError: H * W = 1, as torch has it; an unknown activation, or its slope.
        RuntimeError: "instance_norm_act: NAME must be WHAT, got GOT".
    """
    slope = slope_of(activation, negative_slope, _OP)
    if x.dim() == 4 and x.shape[2] * x.shape[3] == 1:
        raise ValueError(f"{_OP}: x must have more than one value per channel of a picture, got shape {list(x.shape)}")
    channels_last = is_channels_last(x)
    x, residual = (t if t is None else in_format(t, channels_last) for t in (x, residual))
    return _instance_norm_act(x, weight, bias, residual, slope, eps, channels_last)


@torch.library.impl(_library, "instance_norm_act", "CompositeExplicitAutograd")
def instance_norm_act_reference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    negative_slope: float,
    eps: float,
    channels_last: bool,
) -> tuple[Tensor, Tensor]:
    """The result and the statistics in plain torch."""
    _check(x, weight, bias, residual, negative_slope, eps, channels_last)
    variance, mean = torch.var_mean(x.to(math_dtype(x)), (2, 3), correction=0)
    statistics = torch.stack([mean, (variance + eps).rsqrt()], 1)
    y = _result(x, weight, bias, residual, statistics, negative_slope)
    return in_format(y, channels_last), statistics


@torch.library.impl(_library, "instance_norm_act_backward", "CompositeExplicitAutograd")
def instance_norm_act_backward_reference(
    grad: Tensor,
    x: Tensor,
    y: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    negative_slope: float,
    channels_last: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x and of a residual before an activation, and of each picture's bias and weight, [N, 2, C].

    The last are the sums of dz and of dz * xhat. The gradient of the residual is empty where y is None.
    """
    _check_backward(grad, x, y, weight, bias, statistics, negative_slope, channels_last)
    dx, dz, sums = _gradients(grad, x, y, weight, bias, statistics, statistics, negative_slope)
    dresidual = grad.new_empty(0) if y is None else in_format(dz.to(grad.dtype), channels_last)
    return in_format(dx.to(grad.dtype), channels_last), dresidual, sums


def _of_pixels(numbers: Tensor) -> Tensor:
    """[N, C] or [C], to be broadcast over pixels."""
    return numbers[..., None, None]


def _result(x, weight, bias, residual, statistics, negative_slope) -> Tensor:
    z = _normalised(x.to(statistics.dtype), weight, bias, statistics)
    z = z if residual is None else z + residual
    return activated(z, negative_slope).to(x.dtype)


def _normalised(x, weight, bias, statistics) -> Tensor:
    mean, rstd = statistics.unbind(1)
    z = (x - _of_pixels(mean)) * _of_pixels(rstd if weight is None else rstd * weight)
    return z if bias is None else z + _of_pixels(bias)


def _gradients(grad, x, y, weight, bias, statistics, tied, negative_slope) -> tuple[Tensor, Tensor, Tensor]:
    """In the dtype of the statistics. `tied` are the same as functions of x, where the result is differentiated."""
    wide, dz = x.to(statistics.dtype), grad.to(statistics.dtype)
    if negative_slope != 1:
        passed = ~((_normalised(wide, weight, bias, statistics) if y is None else y) <= 0)
        dz = torch.where(passed, dz, dz * negative_slope if negative_slope else 0)
    xhat = _normalised(wide, None, None, tied)
    dbias, dweight = dz.sum((2, 3)), (dz * xhat).sum((2, 3))
    pixels = x.shape[2] * x.shape[3]
    dx = dz - (_of_pixels(dbias) + xhat * _of_pixels(dweight)) / pixels
    rstd = tied[:, 1]
    return dx * _of_pixels(rstd if weight is None else rstd * weight), dz, torch.stack([dbias, dweight], 1)


def _statistics_of(x: Tensor, statistics: Tensor) -> Tensor:
    """The same statistics as functions of x."""
    variance, mean = torch.var_mean(x.to(statistics.dtype), (2, 3), correction=0)
    saved_mean, rstd = statistics.unbind(1)
    return torch.stack([autograd.tied(saved_mean, mean), autograd.tied(rstd.pow(-2), variance).rsqrt()], 1)


@torch.library.register_fake("airank_fast::instance_norm_act", lib=_library)
def _fake(x, weight, bias, residual, negative_slope, eps, channels_last):
    _check(x, weight, bias, residual, negative_slope, eps, channels_last)
    return in_format(torch.empty_like(x), channels_last), x.new_empty((x.shape[0], 2, x.shape[1]), dtype=math_dtype(x))


@torch.library.register_fake("airank_fast::instance_norm_act_backward", lib=_library)
def _backward_fake(grad, x, y, weight, bias, statistics, negative_slope, channels_last):
    _check_backward(grad, x, y, weight, bias, statistics, negative_slope, channels_last)
    dx = in_format(torch.empty_like(x), channels_last)
    return dx, grad.new_empty(0) if y is None else torch.empty_like(dx), torch.empty_like(statistics)


def _setup_context(ctx, inputs, output):
    x, weight, bias, residual, ctx.negative_slope, _, ctx.channels_last = inputs
    y, statistics = output
    ctx.mark_non_differentiable(statistics)
    ctx.set_materialize_grads(False)
    keeps_y = residual is not None and ctx.negative_slope != 1
    ctx.save_for_backward(x, y if keeps_y else None, weight, bias, statistics)


def _backward(ctx, grad, _dstatistics):
    if grad is None:
        return (None,) * 7
    grad = in_format(grad, ctx.channels_last)
    gradients = autograd.backward_of(_kernel, _formula, grad, *ctx.saved_tensors, ctx.negative_slope, ctx.channels_last)
    needed = zip(gradients, ctx.needs_input_grad, strict=False)
    return *(part if need else None for part, need in needed), None, None, None


def _kernel(grad, x, y, *others) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, weight, bias and residual."""
    dx, dz, sums = _ops.instance_norm_act_backward.default(grad, x, y, *others)
    dbias, dweight = sums.sum(0)
    return dx, dweight, dbias, grad if y is None else dz


def _formula(grad, x, y, weight, bias, statistics, negative_slope, _channels_last):
    """The same for a second derivative, which includes the part through the statistics."""
    tied = _statistics_of(x, statistics)
    dx, dz, sums = _gradients(grad, x, y, weight, bias, statistics, tied, negative_slope)
    dbias, dweight = sums.sum(0)
    return dx.to(grad.dtype), dweight, dbias, grad if negative_slope == 1 else dz.to(grad.dtype)


def _torchs_own(x, weight, bias, residual, negative_slope, eps, _channels_last) -> Tensor:
    variance, mean = torch.var_mean(x.to(math_dtype(x)), (2, 3), correction=0)
    return _result(x, weight, bias, residual, torch.stack([mean, (variance + eps).rsqrt()], 1), negative_slope)


_instance_norm_act = autograd.differentiable(
    _ops.instance_norm_act.default, _setup_context, _backward, _torchs_own, lib=_library
)
autograd.refuse_derivatives(_library, "instance_norm_act_backward")


def _check(x, weight, bias, residual, negative_slope, eps, channels_last) -> None:
    """The checks of csrc/instance_norm_act_args.h, in the same order and words, as are those below."""
    check_picture(_OP, "x", x, channels_last)
    for name, vector in (("weight", weight), ("bias", bias)):
        check_vector(_OP, name, vector, math_dtype(x), [x.shape[1]], x)
    _check_like(_OP, "residual", residual, x, channels_last)
    check_slope(_OP, negative_slope)
    require(_OP, 0 < eps < float("inf"), "eps must be above 0 and finite", f"{eps:g}")


def _check_backward(grad, x, y, weight, bias, statistics, negative_slope, channels_last) -> None:
    op = f"{_OP}_backward"
    check_picture(op, "x", x, channels_last)
    _check_like(op, "grad", grad, x, channels_last)
    _check_like(op, "y", y, x, channels_last)
    for name, vector in (("weight", weight), ("bias", bias)):
        check_vector(op, name, vector, math_dtype(x), [x.shape[1]], x)
    check_vector(op, "statistics", statistics, math_dtype(x), [x.shape[0], 2, x.shape[1]], x)
    check_slope(op, negative_slope)
    require(op, y is None or negative_slope != 1, "y must be given with an activation only", "negative_slope 1")


def _check_like(op: str, name: str, tensor: Tensor | None, x: Tensor, channels_last: bool) -> None:
    if tensor is None:
        return
    check_device(op, name, tensor, x.device)
    check_dtype(op, name, tensor, x.dtype)
    check_shape(op, name, tensor, x.shape)
    check_picture_format(op, name, tensor, channels_last)
