"""airank_fast::cross_entropy: loss of logits against class indices, and its gradient, one read of the logits each.

Formula in csrc/cross_entropy_math.h (that of torch.nn.functional.cross_entropy). Forward saves two numbers per row,
from which backward computes the gradient: no log-probabilities are stored. The gradient needs as much memory as the
logits, or none: `inplace_backward` writes it over them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.ops import autograd
from airank_fast.ops.checks import check_device, check_dtype, check_floating, check_shape, require

_OP = "cross_entropy"
_SCHEMAS = (
    """cross_entropy(Tensor logits, Tensor target, float label_smoothing, int ignore_index, int reduction,
                     bool inplace_backward) -> (Tensor loss, Tensor statistics, Tensor scale)""",
    """cross_entropy_backward(Tensor grad, Tensor logits, Tensor target, Tensor statistics, Tensor scale,
                              float label_smoothing, int ignore_index) -> Tensor""",
    """cross_entropy_backward_(Tensor(a!) logits, Tensor grad, Tensor target, Tensor statistics, Tensor scale,
                               float label_smoothing, int ignore_index) -> ()""",
)
_library = torch.library.Library("airank_fast", "FRAGMENT")
_ops = torch.ops.airank_fast
for _schema in _SCHEMAS:
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))

_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


@autograd.overridable
def cross_entropy(
    logits: Tensor,
    target: Tensor,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    *,
    reduction: str = "mean",
    inplace_backward: bool = False,
) -> Tensor:
    """Cross entropy between logits and class indices, as torch.nn.functional.cross_entropy.

    Args:
        logits: [classes], [rows, classes] or [rows, classes, ...], float32, float64, bfloat16 or float16. Rows
            may have gaps between them in memory; if the elements of a row have, they are copied.
        target: class indices, int64, of the logits' shape without the dimension of classes. An index outside
            [0, classes), other than `ignore_index`, is an error on the CPU; on a GPU that row's loss and gradient
            are NaN, since the host does not wait for it.
        label_smoothing: weight of the uniform distribution in the target, in [0, 1].
        ignore_index: rows with this target are left out of the loss and of the number of rows. Their logits are not
            read, and their gradient is zero.
        reduction: "mean" over the rows that count (NaN if there are none), "sum", or "none".
        inplace_backward: let backward write the gradient into the memory of the logits, which are lost. Nothing may
            read them after that: where autograd saved them for another operator, or for a second backward, it raises
            its error about an inplace operation. Under torch.compile it has no effect.

    Returns:
        The loss: float32, or float64 of float64 logits; a scalar, or of the target's shape with "none".
        Arithmetic is in that dtype, of 16-bit logits too.

    Raises:
        RuntimeError, ValueError: "cross_entropy: NAME must be WHAT, got GOT".
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(f"cross_entropy: reduction must be none, mean or sum, got {reduction!r}")
    if inplace_backward and logits.is_leaf and logits.requires_grad:
        raise ValueError("cross_entropy: inplace_backward must have logits that were computed, got a leaf")
    shape = target.shape
    if logits.dim() == 1:
        logits, target = logits[None], target.reshape(1) if target.numel() == 1 else target
    elif logits.dim() > 2:
        check_shape(_OP, "target", target, logits.shape[:1] + logits.shape[2:])
        logits, target = logits.movedim(1, -1).flatten(0, -2), target.flatten()
    inplace_backward = inplace_backward and not torch.compiler.is_compiling()
    loss = _cross_entropy(logits, target, label_smoothing, ignore_index, _REDUCTIONS[reduction], inplace_backward)
    return loss.reshape(shape) if reduction == "none" else loss


@torch.library.impl(_library, "cross_entropy", "CompositeExplicitAutograd")
def cross_entropy_reference(
    logits: Tensor, target: Tensor, label_smoothing: float, ignore_index: int, reduction: int, inplace_backward: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, [max, sum of exp(x - max)] per row, and the factor of the rows' gradients, in plain torch."""
    _check(logits, target, label_smoothing, reduction)
    _check_targets(target, logits.shape[1], ignore_index)
    x, at, counts, valid = _wide(logits, target, ignore_index)
    log_p = x.log_softmax(1)
    losses = -(1 - label_smoothing) * log_p.gather(1, at)[:, 0]
    if label_smoothing != 0:
        losses = losses - label_smoothing * log_p.mean(1)
    losses = torch.where(counts, losses, 0).masked_fill(~valid, torch.nan)
    maximum = x.amax(1)
    below_it = (x - maximum[:, None]).exp().sum(1)
    statistics = torch.where(counts[:, None], torch.stack([maximum, below_it], 1), 0)
    scale = counts.sum().to(x.dtype).reciprocal() if reduction == 1 else x.new_ones(())
    if reduction == 0:
        return losses, statistics, scale
    return (losses.sum() / counts.sum() if reduction == 1 else losses.sum()), statistics, scale


@torch.library.impl(_library, "cross_entropy_backward", "CompositeExplicitAutograd")
def cross_entropy_backward_reference(
    grad: Tensor,
    logits: Tensor,
    target: Tensor,
    statistics: Tensor,
    scale: Tensor,
    label_smoothing: float,
    ignore_index: int,
) -> Tensor:
    """The gradient of the logits in plain torch."""
    _check_backward(grad, logits, target, statistics, scale, label_smoothing)
    x, at, counts, valid = _wide(logits, target, ignore_index)
    p = (x - statistics[:, :1]).exp() / statistics[:, 1:]
    p = p - label_smoothing / logits.shape[1]
    p = p.scatter_add(1, at, p.new_full(at.shape, label_smoothing - 1))
    gradient = p * (grad * scale).expand(len(target))[:, None]
    gradient = torch.where(counts[:, None], gradient, 0).masked_fill(~valid[:, None], torch.nan)
    return gradient.to(logits.dtype)


def _gradient(grad, logits, target, _statistics, scale, label_smoothing, ignore_index) -> Tensor:
    """The same for a second derivative, without infinities from ignored rows."""
    x, at, counts, valid = _wide(logits, target, ignore_index)
    p = torch.where(counts[:, None], x, 0).softmax(1) - label_smoothing / logits.shape[1]
    p = p.scatter_add(1, at, p.new_full(at.shape, label_smoothing - 1))
    weight = torch.where(counts, grad * scale, 0).masked_fill(~valid, torch.nan)
    return (p * weight[:, None]).to(logits.dtype)


@torch.library.impl(_library, "cross_entropy_backward_", "CompositeExplicitAutograd")
def cross_entropy_backward_reference_(
    logits: Tensor,
    grad: Tensor,
    target: Tensor,
    statistics: Tensor,
    scale: Tensor,
    label_smoothing: float,
    ignore_index: int,
) -> None:
    """The same, written over the logits."""
    arguments = (grad, logits, target, statistics, scale, label_smoothing, ignore_index)
    logits.copy_(cross_entropy_backward_reference(*arguments))


@torch.library.register_fake("airank_fast::cross_entropy", lib=_library)
def _cross_entropy_fake(logits, target, label_smoothing, ignore_index, reduction, inplace_backward):
    _check(logits, target, label_smoothing, reduction)
    wide, rows = torch.promote_types(logits.dtype, torch.float32), logits.shape[0]
    loss = logits.new_empty((rows,) if reduction == 0 else (), dtype=wide)
    return loss, logits.new_empty((rows, 2), dtype=wide), logits.new_empty((), dtype=wide)


@torch.library.register_fake("airank_fast::cross_entropy_backward", lib=_library)
def _backward_fake(grad, logits, target, statistics, scale, label_smoothing, ignore_index):
    _check_backward(grad, logits, target, statistics, scale, label_smoothing)
    return logits.new_empty(logits.shape)


@torch.library.register_fake("airank_fast::cross_entropy_backward_", lib=_library)
def _backward_fake_(logits, grad, target, statistics, scale, label_smoothing, ignore_index):
    _check_backward(grad, logits, target, statistics, scale, label_smoothing)


def _setup_context(ctx, inputs, output):
    logits, target, ctx.label_smoothing, ctx.ignore_index, _, ctx.inplace_backward = inputs
    _, statistics, scale = output
    ctx.mark_non_differentiable(statistics, scale)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(logits, target, statistics, scale)


def _backward(ctx, grad, _statistics, _scale):
    if grad is None or not ctx.needs_input_grad[0]:
        return (None,) * 6
    # Raises where the logits have been changed since, by another user or by an earlier backward in place.
    logits, target, statistics, scale = ctx.saved_tensors
    options = (ctx.label_smoothing, ctx.ignore_index)
    # Rows that share memory (an expanded tensor) cannot hold a gradient each, nor those of vmap; and logits that
    # autograd differentiates once more must not change.
    arguments = (grad, logits, target, statistics, scale, *options)
    kept = torch.is_grad_enabled() or 0 in logits.stride() or autograd.in_vmap(grad)
    if not ctx.inplace_backward or kept:
        gradient = autograd.backward_of(_ops.cross_entropy_backward.default, _gradient, *arguments)
        return gradient, None, None, None, None, None
    gradient = logits.detach()
    _ops.cross_entropy_backward_.default(gradient, grad, target, statistics, scale, *options)
    torch.autograd.graph.increment_version(logits)
    return gradient, None, None, None, None, None


def _torchs_own(logits, target, label_smoothing, ignore_index, reduction, _inplace_backward):
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    name = next(name for name, number in _REDUCTIONS.items() if number == reduction)
    return F.cross_entropy(wide, target, None, None, ignore_index, None, name, label_smoothing)


_cross_entropy = autograd.differentiable(
    _ops.cross_entropy.default, _setup_context, _backward, _torchs_own, lib=_library
)
autograd.refuse_derivatives(_library, "cross_entropy_backward")


def _wide(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits in the dtype of the arithmetic, an index that can be gathered, which rows count, which are valid."""
    counts = target != ignore_index
    possible = (target >= 0) & (target < logits.shape[1])
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return x, torch.where(possible, target, 0)[:, None], counts, possible | ~counts


def _check(logits: Tensor, target: Tensor, label_smoothing: float, reduction: int) -> None:
    """The checks of csrc/cross_entropy_args.h, in the same order and words."""
    required = "logits must have shape [rows, classes] with at least one class"
    require(_OP, logits.dim() == 2 and logits.shape[1] > 0, required, list(logits.shape))
    check_floating(_OP, "logits", logits)
    check_device(_OP, "target", target, logits.device)
    check_dtype(_OP, "target", target, torch.int64)
    check_shape(_OP, "target", target, logits.shape[:1])
    require(_OP, 0 <= label_smoothing <= 1, "label_smoothing must be in [0, 1]", label_smoothing)
    require(_OP, reduction in (0, 1, 2), "reduction must be 0 (none), 1 (mean) or 2 (sum)", reduction)


def _check_targets(target: Tensor, num_classes: int, ignore_index: int) -> None:
    """Only on the CPU: on a GPU the check would wait for the device, and the row's loss is NaN instead."""
    if target.device.type != "cpu":
        return
    impossible = ((target < 0) | (target >= num_classes)) & (target != ignore_index)
    if impossible.any():
        i = int(impossible.nonzero()[0, 0])
        required = f"target[{i}] must be in [0, {num_classes}) or the ignore_index {ignore_index}"
        require(_OP, False, required, int(target[i]))


def _check_backward(grad, logits, target, statistics, scale, label_smoothing) -> None:
    op = f"{_OP}_backward"
    _check(logits, target, label_smoothing, 0)
    wide, rows = torch.promote_types(logits.dtype, torch.float32), logits.shape[0]
    for name, tensor in (("grad", grad), ("statistics", statistics), ("scale", scale)):
        check_device(op, name, tensor, logits.device)
        check_dtype(op, name, tensor, wide)
    require(op, list(grad.shape) in ([], [rows]), f"grad must have shape [] or [{rows}]", list(grad.shape))
    check_shape(op, "statistics", statistics, [rows, 2])
    check_shape(op, "scale", scale, [])
