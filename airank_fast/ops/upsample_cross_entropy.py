"""airank_fast::upsample_cross_entropy: the loss of segmentation from logits of a lower resolution than the labels.

Bilinear upsampling as torch.nn.functional.interpolate's, then cross entropy, or the class of each pixel, or counts of
pairs of label and class; full-size logits are never stored. Positions in csrc/upsample_math.h, the loss's formula in
csrc/cross_entropy_math.h. Forward computes the gradient too, but for its factor: it has the size of the logits, and the
exponentials need not be taken twice.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.ops import autograd
from airank_fast.ops.checks import check_device, check_dtype, check_floating, check_shape, require

_OP = "upsample_cross_entropy"
_SCHEMAS = (
    """upsample_cross_entropy(Tensor logits, Tensor labels, Tensor? count, int ignore_index, bool align_corners,
                              bool with_gradient) -> (Tensor loss, Tensor gradient, Tensor scale)""",
    "upsample_argmax(Tensor logits, SymInt height, SymInt width, bool align_corners) -> Tensor",
    "upsample_confusion(Tensor logits, Tensor labels, int ignore_index, bool align_corners) -> Tensor",
)
_library = torch.library.Library("airank_fast", "FRAGMENT")
_ops = torch.ops.airank_fast
for _schema in _SCHEMAS:
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


@autograd.overridable
def upsample_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = 255,
    *,
    align_corners: bool = False,
    count: Tensor | float | None = None,
) -> Tensor:
    """Cross entropy between logits, upsampled to the labels' height and width, and the labels.

    As ``F.cross_entropy(F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=...), labels)``.

    Args:
        logits: [N, C, h, w], float32, float64, bfloat16 or float16, of any strides; contiguous and channels_last ones
            are equally fast.
        labels: classes [N, H, W], int64 or uint8, any H and W. One outside [0, C), other than `ignore_index`, is an
            error on the CPU; on a GPU it makes the loss NaN, since the host does not wait for it, and the gradient of
            the logits around its pixel.
        ignore_index: pixels with this label are left out of the loss and of the count. Their gradient is zero.
        align_corners: as in F.interpolate.
        count: what the sum of the losses is divided by; None: the number of pixels that are not ignored (NaN if there
            are none). With the mean count of all ranks or micro-batches, the mean of their losses is the loss of all
            pixels alike; with 1 the loss is the sum. A number, or a tensor of shape [], which has no gradient.

    Returns:
        The loss, a scalar, float32, or float64 of float64 logits, as is the arithmetic. The gradient of the logits has
        their dtype and is the same for any number of threads.

    Raises:
        RuntimeError: "upsample_cross_entropy: NAME must be WHAT, got GOT".
    """
    if count is not None:
        wide = _wide(logits)
        count = count.to(wide) if isinstance(count, Tensor) else logits.new_full((), count, dtype=wide)
    return _upsample_cross_entropy(logits, labels, count, ignore_index, align_corners, autograd.records(logits))


@autograd.overridable
def upsample_argmax(logits: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """The class of each pixel: of upsampled logits the largest one's, of equal ones the first.

    As ``F.interpolate(logits, size, mode="bilinear", align_corners=...).argmax(1)``, with interpolated 16-bit logits
    not rounded before they are compared.

    Args:
        logits: [N, C, h, w], float32, float64, bfloat16 or float16, of any strides.
        size: H and W.
        align_corners: as in F.interpolate.

    Returns:
        int64 [N, H, W]. NaN is larger than any number, as in torch.

    Raises:
        RuntimeError: "upsample_argmax: NAME must be WHAT, got GOT".
    """
    if autograd.needs_torchs_own(logits):
        return _upsampled(logits, size, align_corners).argmax(1)
    return _ops.upsample_argmax(logits, *size, align_corners)


@autograd.overridable
def upsample_confusion(
    logits: Tensor, labels: Tensor, ignore_index: int = 255, *, align_corners: bool = False
) -> Tensor:
    """How many pixels of each label are of each class by ``upsample_argmax``; for the mean IoU.

    Args:
        logits: [N, C, h, w], float32, float64, bfloat16 or float16, of any strides.
        labels: classes [N, H, W], int64 or uint8, any H and W. One outside [0, C), other than `ignore_index`, is an
            error on the CPU; on a GPU, where the host does not wait for it, its pixel is not counted.
        ignore_index: pixels with this label are not counted.
        align_corners: as in F.interpolate.

    Returns:
        int64 [C, C]: labels by classes. Sums of batches and of ranks are those of all pixels.

    Raises:
        RuntimeError: "upsample_confusion: NAME must be WHAT, got GOT".
    """
    return _ops.upsample_confusion(logits, labels, ignore_index, align_corners)


@torch.library.impl(_library, "upsample_cross_entropy", "CompositeExplicitAutograd")
def upsample_cross_entropy_reference(
    logits: Tensor,
    labels: Tensor,
    count: Tensor | None,
    ignore_index: int,
    align_corners: bool,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, gradient of the sum of the losses (or nothing), and 1 / count, in plain torch."""
    _check(_OP, logits, labels)
    _check_count(logits, count)
    _check_classes(_OP, labels, logits.shape[1], ignore_index)
    x, at, counts, valid = _full_size(logits, labels, ignore_index, align_corners)
    losses = -x.log_softmax(1).gather(1, at)[:, 0]
    losses = torch.where(counts, losses, 0).masked_fill(~valid, torch.nan)
    count = counts.sum().to(x.dtype) if count is None else count
    scale = torch.where(count == 0, 0, count.reciprocal())
    gradient = x.new_empty(0)
    if with_gradient:
        gradient = _sums_gradient(logits, labels, ignore_index, align_corners)
        gradient = gradient.contiguous(memory_format=_memory_format(logits))
    return losses.sum() / count, gradient, scale


@torch.library.impl(_library, "upsample_argmax", "CompositeExplicitAutograd")
def upsample_argmax_reference(logits: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """The same in plain torch."""
    _check_size(logits, height, width)
    return _upsampled(logits, (height, width), align_corners).argmax(1)


@torch.library.impl(_library, "upsample_confusion", "CompositeExplicitAutograd")
def upsample_confusion_reference(logits: Tensor, labels: Tensor, ignore_index: int, align_corners: bool) -> Tensor:
    """The same in plain torch."""
    op, classes = "upsample_confusion", logits.shape[1]
    _check(op, logits, labels)
    _check_classes(op, labels, classes, ignore_index)
    counts = (labels != ignore_index) & (labels < classes) & (labels >= 0)
    predicted = _upsampled(logits, labels.shape[1:], align_corners).argmax(1)
    pairs = labels.long()[counts] * classes + predicted[counts]
    return pairs.bincount(minlength=classes * classes).view(classes, classes)


def _upsampled(logits: Tensor, size, align_corners: bool) -> Tensor:
    if 0 in (*size, logits.shape[0]):
        return logits.new_empty((*logits.shape[:2], *size), dtype=_wide(logits))
    return F.interpolate(logits.to(_wide(logits)), tuple(size), mode="bilinear", align_corners=align_corners)


def _full_size(logits: Tensor, labels: Tensor, ignore_index: int, align_corners: bool) -> tuple[Tensor, ...]:
    """Upsampled logits, an index that can be gathered, which pixels count, which are valid; 0 where none counts."""
    counts, labels = labels != ignore_index, labels.long()
    possible = (labels >= 0) & (labels < logits.shape[1])
    x = torch.where(counts[:, None], _upsampled(logits, labels.shape[1:], align_corners), 0)
    return x, torch.where(possible, labels, 0)[:, None], counts, possible | ~counts


def _sums_gradient(logits: Tensor, labels: Tensor, ignore_index: int, align_corners: bool) -> Tensor:
    """The gradient of the sum of the losses, in the dtype of the arithmetic."""
    x, at, counts, valid = _full_size(logits, labels, ignore_index, align_corners)
    p = x.softmax(1)
    p = p.scatter_add(1, at, p.new_full(at.shape, -1))
    p = torch.where(counts[:, None], p, 0).masked_fill(~valid[:, None], torch.nan)
    if labels.numel() == 0:
        return torch.zeros_like(logits, dtype=p.dtype)
    size, shape = list(labels.shape[1:]), list(logits.shape)
    return torch.ops.aten.upsample_bilinear2d_backward(p, size, shape, align_corners)


@torch.library.register_fake("airank_fast::upsample_cross_entropy", lib=_library)
def _fake(logits, labels, count, ignore_index, align_corners, with_gradient):
    _check(_OP, logits, labels)
    _check_count(logits, count)
    wide = _wide(logits)
    gradient = logits.new_empty(0, dtype=wide)
    if with_gradient:
        gradient = torch.empty_like(logits, dtype=wide, memory_format=_memory_format(logits))
    return logits.new_empty((), dtype=wide), gradient, logits.new_empty((), dtype=wide)


@torch.library.register_fake("airank_fast::upsample_argmax", lib=_library)
def _argmax_fake(logits, height, width, align_corners):
    _check_size(logits, height, width)
    return logits.new_empty((logits.shape[0], height, width), dtype=torch.int64)


@torch.library.register_fake("airank_fast::upsample_confusion", lib=_library)
def _confusion_fake(logits, labels, ignore_index, align_corners):
    _check("upsample_confusion", logits, labels)
    return logits.new_empty((logits.shape[1], logits.shape[1]), dtype=torch.int64)


def _setup_context(ctx, inputs, output):
    logits, labels, _, ctx.ignore_index, ctx.align_corners, _ = inputs
    _, gradient, scale = output
    ctx.mark_non_differentiable(gradient, scale)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(logits, labels, gradient, scale)


def _backward(ctx, grad, _gradient, _scale):
    if grad is None or not ctx.needs_input_grad[0]:
        return (None,) * 6
    arguments = (grad, *ctx.saved_tensors, ctx.ignore_index, ctx.align_corners)
    return autograd.backward_of(_scaled, _recomputed, *arguments), None, None, None, None, None


def _scaled(grad, logits, _labels, gradient, scale, _ignore_index, _align_corners) -> Tensor:
    return (gradient * (grad * scale)).to(logits.dtype)


def _recomputed(grad, logits, labels, _gradient, scale, ignore_index, align_corners) -> Tensor:
    """The same as a function of the logits, for second derivatives."""
    return (_sums_gradient(logits, labels, ignore_index, align_corners) * (grad * scale)).to(logits.dtype)


def _torchs_own(logits, labels, count, ignore_index, align_corners, _with_gradient):
    x = _upsampled(logits, labels.shape[1:], align_corners)
    labels = labels.long()
    if count is None:
        return F.cross_entropy(x, labels, ignore_index=ignore_index)
    return F.cross_entropy(x, labels, ignore_index=ignore_index, reduction="sum") / count


_upsample_cross_entropy = autograd.differentiable(
    _ops.upsample_cross_entropy.default, _setup_context, _backward, _torchs_own, lib=_library
)


def _wide(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _memory_format(logits: Tensor) -> torch.memory_format:
    """Of the gradient: channels_last where the logits' classes are neighbours."""
    neighbours = logits.shape[1] != 1 and logits.stride(1) == 1
    return torch.channels_last if neighbours else torch.contiguous_format


def _check_logits(op: str, logits: Tensor) -> None:
    """The checks of csrc/upsample_cross_entropy_args.h, in the same order and words, as are those below."""
    required = "logits must have shape [N, C, h, w] with at least one class and one pixel"
    require(op, logits.dim() == 4 and 0 not in logits.shape[1:], required, list(logits.shape))
    check_floating(op, "logits", logits)


def _check(op: str, logits: Tensor, labels: Tensor) -> None:
    _check_logits(op, logits)
    check_device(op, "labels", labels, logits.device)
    check_dtype(op, "labels", labels, torch.int64, torch.uint8)
    fits = labels.dim() == 3 and labels.shape[0] == logits.shape[0]
    require(op, fits, f"labels must have shape [{logits.shape[0]}, H, W]", list(labels.shape))


def _check_count(logits: Tensor, count: Tensor | None) -> None:
    if count is not None:
        check_device(_OP, "count", count, logits.device)
        check_dtype(_OP, "count", count, _wide(logits))
        check_shape(_OP, "count", count, [])


def _check_size(logits: Tensor, height: int, width: int) -> None:
    op = "upsample_argmax"
    _check_logits(op, logits)
    require(op, height >= 0 and width >= 0, "size must be at least 0", [height, width])


def _check_classes(op: str, labels: Tensor, classes: int, ignore_index: int) -> None:
    """Only on the CPU: on a GPU the check would wait for the device."""
    if labels.device.type != "cpu":
        return
    impossible = ((labels < 0) | (labels >= classes)) & (labels != ignore_index)
    if impossible.any():
        at = impossible.nonzero()[0].tolist()
        required = f"labels{at} must be in [0, {classes}) or the ignore_index {ignore_index}"
        require(op, False, required, int(labels[tuple(at)]))
