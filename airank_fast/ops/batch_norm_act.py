"""airank_fast::batch_norm_*: batch norm + residual + activation over NHWC memory, ops between which a group can reduce.

Formulas in csrc/batch_norm_act_math.h. Per-channel results are one vector of 2C + 1 numbers, float32 (float64 for
float64 inputs):

    moments     mean[C], sum of squared deviations[C], count
    statistics  mean[C], 1 / sqrt(var + eps)[C], count

Training: statistics = batch_norm_statistics_(x, ...), then batch_norm_act. Over several processes:
batch_norm_moments on each, gathered as rows, and batch_norm_finish_ on each. Fixed statistics, which are no functions
of x, have no count: the running ones in evaluation and of a frozen batch norm. airank_fast.nn.BatchNormAct2d calls the
ops in this order.

To the ops the activation is its slope below zero: 1 for none, 0 for a ReLU. With one, batch_norm_act also returns the
elements that passed it, as uint8 [ceil(N * H * W / 8), C] with pixel 8 i + k in bit k of row i. The backward pass reads
these bits instead of the output; it is two ops, between which a group adds up its sums. With fixed statistics it reads
x only for the gradient of the weight.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from airank_fast.ops import autograd
from airank_fast.ops.batch_norm_checks import (
    check_act,
    check_backward,
    check_finish,
    check_nhwc,
    check_running,
    check_sums,
    is_fixed,
    mask_shape,
    math_dtype,
)
from airank_fast.ops.checks import require

_library = torch.library.Library("airank_fast", "FRAGMENT")
_RUNNING = """Tensor(a!)? running_mean, Tensor(b!)? running_var, Tensor(c!)? num_batches_tracked,
    float? momentum, float eps"""
for _schema in (
    "batch_norm_moments(Tensor x) -> Tensor",
    f"batch_norm_finish_(Tensor moments, {_RUNNING}) -> Tensor",
    f"batch_norm_statistics_(Tensor x, {_RUNNING}) -> Tensor",
    """batch_norm_act(Tensor x, Tensor? residual, Tensor? weight, Tensor? bias, Tensor statistics,
        float negative_slope, bool with_mask, str group="") -> (Tensor, Tensor)""",
    "batch_norm_act_sums(Tensor dy, Tensor x, Tensor? mask, Tensor statistics, float negative_slope) -> Tensor",
    """batch_norm_act_backward(Tensor dy, Tensor? x, Tensor? mask, Tensor? weight, Tensor statistics, Tensor? sums,
        float negative_slope, bool with_residual) -> (Tensor, Tensor)""",
):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))
_ops = torch.ops.airank_fast


def batch_norm_moments(x: Tensor) -> Tensor:
    """Mean, sum of squared deviations and count of each channel, as one vector of 2C + 1 numbers.

    Args:
        x: [N, C, H, W] in channels_last; float32, float64, bfloat16 or float16.

    Not differentiable by itself: batch_norm_act's gradient includes the part through the statistics.
    """
    return _ops.batch_norm_moments.default(x)


def batch_norm_finish_(
    moments: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """Combine moments, one row for each process, to statistics; update the running ones as torch does.

    Args:
        moments: [rows, 2C + 1], each row from batch_norm_moments.
        running_mean, running_var: [C], of the moments' dtype, or both None. The variance that goes into
            running_var is the unbiased one.
        num_batches_tracked: int64, counted up by one; or None.
        momentum: weight of the new value; None for the mean over all batches, by num_batches_tracked.
        eps: added to the (biased) variance.
    """
    running = (running_mean, running_var, num_batches_tracked, momentum, eps)
    return _ops.batch_norm_finish_.default(moments, *running)


def batch_norm_statistics_(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    num_batches_tracked: Tensor | None,
    momentum: float | None,
    eps: float,
) -> Tensor:
    """batch_norm_moments and batch_norm_finish_ in one call, for statistics of this process alone."""
    running = (running_mean, running_var, num_batches_tracked, momentum, eps)
    return _ops.batch_norm_statistics_.default(x, *running)


@autograd.overridable
def batch_norm_act(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor,
    *,
    activation: str | None = None,
    negative_slope: float = 0.01,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """(x - mean) * rstd * weight + bias + residual, through an activation where one is named.

    Args:
        x: [N, C, H, W] in channels_last; float32, float64, bfloat16 or float16.
        residual: of x's shape, dtype and layout, or None.
        weight, bias: [C], float32 (float64 beside float64 x), or None for 1 and 0.
        statistics: [2C + 1] of a batch: the gradient of x takes them as functions of x. Or [2C], the same without the
            count: fixed ones.
        activation: None, "relu" or "leaky_relu".
        negative_slope: of "leaky_relu", above 0.
        group: the processes whose batches the statistics cover; the backward pass adds up their sums. The gradients
            of weight and bias are those of this process. A group excludes second derivatives and all that needs
            torch's own operators (ops/autograd.py): torch.func, forward mode, export, DTensor. With fixed statistics
            it has no meaning.

    Returns:
        The output, of x's dtype and layout. For the backward pass of the activation a bit is kept for each element.
        With fixed statistics x is kept only where the weight or the bias has a gradient.

    Raises:
        RuntimeError, ValueError: "batch_norm_act: NAME must be WHAT, got GOT".
    """
    slope = slope_of(activation, negative_slope)
    inputs = (x, residual, weight, bias)
    with_mask = slope != 1 and autograd.records(*inputs)
    group_name = "" if group is None or is_fixed(statistics) else group.group_name
    return _batch_norm_act(*inputs, statistics, slope, with_mask, group_name)


def slope_of(activation: str | None, negative_slope: float, op: str = "batch_norm_act") -> float:
    """The slope of an activation below zero; ValueError where there is no such activation."""
    if activation not in (None, "relu", "leaky_relu"):
        raise ValueError(f"{op}: activation must be None, 'relu' or 'leaky_relu', got {activation!r}")
    if activation != "leaky_relu":
        return 1.0 if activation is None else 0.0
    if not 0 < negative_slope < math.inf:
        required = "negative_slope must be above 0 and finite (0 is activation 'relu')"
        raise ValueError(f"{op}: {required}, got {negative_slope}")
    return float(negative_slope)


def activated(z: Tensor, slope: float) -> Tensor:
    """The activation of that slope in torch's operators."""
    if slope == 1:
        return z
    return F.leaky_relu(z, slope) if slope else z.relu()


@torch.library.impl(_library, "batch_norm_moments", "CompositeExplicitAutograd")
def moments_reference(x: Tensor) -> Tensor:
    """batch_norm_moments in plain torch."""
    check_nhwc("batch_norm_moments", "x", x)
    rows = _rows(x)
    mean = rows.mean(0) if rows.numel() else rows.new_zeros(rows.shape[1])
    return torch.cat([mean, (rows - mean).square().sum(0), rows.new_full((1,), rows.shape[0])])


@torch.library.impl(_library, "batch_norm_finish_", "CompositeExplicitAutograd")
def finish_reference(moments, running_mean, running_var, num_batches_tracked, momentum, eps) -> Tensor:
    """batch_norm_finish_ in plain torch."""
    check_finish(moments, running_mean, running_var, num_batches_tracked, momentum)
    means, deviations, counts = _split(moments.double())
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count.clamp(min=1)
    square = (deviations + counts * (means - mean).square()).sum(0)
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    if running_mean is not None:
        factor = num_batches_tracked.double().reciprocal() if momentum is None else momentum
        factor = factor * (count > 0)
        running_mean.add_(factor * (mean - running_mean))
        running_var.add_(factor * (square / (count - 1).clamp(min=1) - running_var))
    rstd = (square / count.clamp(min=1) + eps).rsqrt()
    return torch.cat([mean, rstd, count]).to(moments.dtype)


@torch.library.impl(_library, "batch_norm_statistics_", "CompositeExplicitAutograd")
def statistics_reference(x, running_mean, running_var, num_batches_tracked, momentum, eps) -> Tensor:
    """batch_norm_statistics_ in plain torch."""
    check_nhwc("batch_norm_statistics_", "x", x)
    check_running("batch_norm_statistics_", x, math_dtype(x), running_mean, running_var, num_batches_tracked, momentum)
    return finish_reference(moments_reference(x)[None], running_mean, running_var, num_batches_tracked, momentum, eps)


@torch.library.impl(_library, "batch_norm_act", "CompositeExplicitAutograd")
def act_reference(x, residual, weight, bias, statistics, negative_slope, with_mask, group="") -> tuple[Tensor, Tensor]:
    """batch_norm_act in plain torch: runs where there is no kernel, and is the oracle of the kernels' tests."""
    check_act(x, residual, weight, bias, statistics, negative_slope, with_mask)
    mean, rstd, _ = _split(statistics)
    z = (_rows(x) - mean) * (rstd if weight is None else rstd * weight)
    if bias is not None:
        z = z + bias
    if residual is not None:
        z = z + _rows(residual)
    mask = _pack(~(z <= 0)) if with_mask else x.new_empty(0, dtype=torch.uint8)
    return _like(activated(z, negative_slope), x), mask


@torch.library.impl(_library, "batch_norm_act_sums", "CompositeExplicitAutograd")
def sums_reference(dy, x, mask, statistics, negative_slope) -> Tensor:
    """batch_norm_act_sums in plain torch."""
    check_sums(dy, x, mask, statistics, negative_slope)
    mean, rstd, _ = _split(statistics)
    dz = _masked(dy, mask, negative_slope)
    return torch.stack([dz.sum(0), (dz * (_rows(x) - mean)).sum(0) * rstd])


@torch.library.impl(_library, "batch_norm_act_backward", "CompositeExplicitAutograd")
def backward_reference(dy, x, mask, weight, statistics, sums, negative_slope, with_residual) -> tuple[Tensor, Tensor]:
    """batch_norm_act_backward in plain torch."""
    check_backward(dy, x, mask, weight, statistics, sums, negative_slope, with_residual)
    mean, rstd, count = _split(statistics)
    dx = dz = _masked(dy, mask, negative_slope)
    if x is not None:
        mean_dz, slope = torch.stack([sums[0], sums[1] * rstd]) / count
        dx = dz - mean_dz - (_rows(x) - mean) * slope
    dx = dx * (rstd if weight is None else rstd * weight)
    return _like(dx, dy), _like(dz, dy) if with_residual else dy.new_empty(0)


def _rows(x: Tensor) -> Tensor:
    """x as [N * H * W, C], in the dtype of the arithmetic."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).to(math_dtype(x))


def _pixels(rows: Tensor, x: Tensor) -> Tensor:
    """Rows in the shape and dtype of x."""
    n, c, h, w = x.shape
    return rows.view(n, h, w, c).permute(0, 3, 1, 2).to(x.dtype)


def _like(rows: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x).copy_(_pixels(rows, x))


def _split(vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, rstd or deviations, and the count, which is empty where there is none."""
    num_channels = vector.shape[-1] // 2
    return vector.split([num_channels, num_channels, vector.shape[-1] % 2], -1)


def _pack(passed: Tensor) -> Tensor:
    bits = torch.nn.functional.pad(passed.to(torch.uint8), (0, 0, 0, -passed.shape[0] % 8))
    weights = torch.tensor([1 << k for k in range(8)], dtype=torch.uint8, device=passed.device)
    return (bits.view(-1, 8, passed.shape[1]) * weights[:, None]).sum(1, dtype=torch.uint8)


def _masked(dy: Tensor, mask: Tensor | None, negative_slope: float) -> Tensor:
    dz = _rows(dy)
    if mask is None:
        return dz
    shifts = torch.arange(8, dtype=torch.uint8, device=mask.device)
    passed = ((mask[:, None] >> shifts[:, None]) & 1).flatten(0, 1)[: dz.shape[0]]
    return torch.where(passed != 0, dz, dz * negative_slope if negative_slope else 0)


@torch.library.register_fake("airank_fast::batch_norm_moments", lib=_library)
def _moments_fake(x):
    check_nhwc("batch_norm_moments", "x", x)
    return x.new_empty(2 * x.shape[1] + 1, dtype=math_dtype(x))


@torch.library.register_fake("airank_fast::batch_norm_finish_", lib=_library)
def _finish_fake(moments, running_mean, running_var, num_batches_tracked, momentum, eps):
    check_finish(moments, running_mean, running_var, num_batches_tracked, momentum)
    return moments.new_empty(moments.shape[1])


@torch.library.register_fake("airank_fast::batch_norm_statistics_", lib=_library)
def _statistics_fake(x, running_mean, running_var, num_batches_tracked, momentum, eps):
    op = "batch_norm_statistics_"
    check_nhwc(op, "x", x)
    check_running(op, x, math_dtype(x), running_mean, running_var, num_batches_tracked, momentum)
    return x.new_empty(2 * x.shape[1] + 1, dtype=math_dtype(x))


@torch.library.register_fake("airank_fast::batch_norm_act", lib=_library)
def _act_fake(x, residual, weight, bias, statistics, negative_slope, with_mask, group=""):
    check_act(x, residual, weight, bias, statistics, negative_slope, with_mask)
    return torch.empty_like(x), x.new_empty(mask_shape(x) if with_mask else 0, dtype=torch.uint8)


@torch.library.register_fake("airank_fast::batch_norm_act_sums", lib=_library)
def _sums_fake(dy, x, mask, statistics, negative_slope):
    check_sums(dy, x, mask, statistics, negative_slope)
    return x.new_empty(2, x.shape[1], dtype=math_dtype(x))


@torch.library.register_fake("airank_fast::batch_norm_act_backward", lib=_library)
def _backward_fake(dy, x, mask, weight, statistics, sums, negative_slope, with_residual):
    check_backward(dy, x, mask, weight, statistics, sums, negative_slope, with_residual)
    return torch.empty_like(dy), torch.empty_like(dy) if with_residual else dy.new_empty(0)


def _setup_context(ctx, inputs, output):
    x, _, weight, _, statistics, ctx.negative_slope, with_mask, ctx.group = inputs
    _, mask = output
    ctx.mark_non_differentiable(mask)
    ctx.set_materialize_grads(False)
    keeps_x = not is_fixed(statistics) or ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
    ctx.save_for_backward(x if keeps_x else None, mask if with_mask else None, weight, statistics)


def _backward(ctx, dy, _dmask):
    if dy is None:
        return (None,) * 8
    needed = ctx.needs_input_grad[:4]
    gradients = autograd.backward_of(
        _kernels, _formula, dy, *ctx.saved_tensors, ctx.negative_slope, ctx.group, needed[0] or needed[1], needed[1]
    )
    return *(part if need else None for part, need in zip(gradients, needed, strict=True)), None, None, None, None


def _kernels(dy, x, mask, weight, statistics, negative_slope, group, need_dx, need_residual):
    """Gradients of x, residual, weight and bias; x is None where only those of x and residual are needed."""
    dy = dy.contiguous(memory_format=torch.channels_last)
    sums = dweight = dbias = None
    if x is not None:
        sums = _ops.batch_norm_act_sums.default(dy, x, mask, statistics, negative_slope)
        dbias, dweight = sums.unbind()
    if is_fixed(statistics):
        x = sums = None
    elif group:
        functional = torch.ops._c10d_functional
        sums = functional.wait_tensor(functional.all_reduce(sums, "sum", group))
    dx, dresidual = None, dy
    if need_dx:
        masked = need_residual and mask is not None
        dx, dz = _ops.batch_norm_act_backward.default(dy, x, mask, weight, statistics, sums, negative_slope, masked)
        dresidual = dz if masked else dy
    return dx, dresidual, dweight, dbias


def _formula(dy, x, mask, weight, statistics, negative_slope, group, _need_dx, _need_residual):
    """The same for a second derivative, which includes the part through the statistics."""
    dx = dz = _masked(dy, mask, negative_slope)
    _, rstd, _ = _split(statistics)
    dweight = dbias = None
    if x is not None:
        rows, mean, rstd, count = _with_statistics_of(x, statistics, group)
        xhat = (rows - mean) * rstd
        dbias, dweight = dz.sum(0), (dz * xhat).sum(0)
        dx = dz - (dbias + xhat * dweight) / count if count.numel() else dz
    dx = dx * (rstd if weight is None else rstd * weight)
    return _pixels(dx, dy), _pixels(dz, dy), dweight, dbias


def _torchs_own(x, residual, weight, bias, statistics, negative_slope, _with_mask, group):
    rows, mean, rstd, _ = _with_statistics_of(x, statistics, group)
    z = (rows - mean) * (rstd if weight is None else rstd * weight)
    z = z if bias is None else z + bias
    z = z if residual is None else z + _rows(residual)
    return _pixels(activated(z, negative_slope), x)


def _with_statistics_of(x, statistics, group) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x as rows; and mean, rstd and count. Mean and rstd are functions of x where they are not fixed."""
    required = "group must be None for second derivatives, torch.func, forward mode, export and DTensor"
    require("batch_norm_act", not group, required, f"group {group!r}")
    rows = _rows(x)
    mean, rstd, count = _split(statistics)
    if not is_fixed(statistics):
        variance, mean_of_x = torch.var_mean(rows, 0, correction=0)
        mean, rstd = autograd.tied(mean, mean_of_x), autograd.tied(rstd.pow(-2), variance).rsqrt()
    return rows, mean, rstd, count


_batch_norm_act = autograd.differentiable(
    _ops.batch_norm_act.default, _setup_context, _backward, _torchs_own, lib=_library
)
autograd.refuse_derivatives(_library, "batch_norm_act_sums", "batch_norm_act_backward")
