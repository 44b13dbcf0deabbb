"""airank_fast::nms: non-maximum suppression of boxes, of all or in each group, also with results of a fixed size.

Formula in csrc/box_iou_math.h. Which boxes are kept depends on the last bit of an IoU; in float32 and float64 all
kernels round as torchvision's nms on the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from airank_fast.ops.checks import IN_16_BITS, check_device, check_dtype, require

_library = torch.library.Library("airank_fast", "FRAGMENT")
_ops = torch.ops.airank_fast
_ARGUMENTS = "(Tensor boxes, Tensor scores, Tensor? idxs, float iou_threshold)"
_library.define(f"nms{_ARGUMENTS} -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
_library.define(f"nms_padded{_ARGUMENTS} -> (Tensor kept, Tensor count)", tags=(torch.Tag.pt2_compliant_tag,))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression; takes the place of ``torchvision.ops.nms``.

    Boxes are taken by falling score, of equal ones the first. A box is removed if its IoU with a kept one before it is
    above the threshold.

    Args:
        boxes: [n, 4], x1, y1, x2, y2; float32 or float64, and bfloat16 or float16, which are computed in float32.
        scores: [n], of the same dtype.
        iou_threshold: compared with IoUs as a float64.

    Returns:
        int64 [kept]: the indices of the kept boxes by falling score, torchvision's to the bit. As there, a score of NaN
        comes first, and a box with a NaN is kept and removes none, as does one without area (unless the threshold is
        below 0). On a GPU the host waits once, for the number of results; `nms_padded` does not.

    Raises:
        RuntimeError: "nms: NAME must be WHAT, got GOT".
    """
    return _ops.nms(_wide(boxes), _wide(scores), None, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression in each group of boxes; takes the place of ``torchvision.ops.batched_nms``.

    Only boxes of the same group, such as a class or a level of a pyramid, remove each other. Coordinates are never
    shifted, so that the result is `nms` of each group. torchvision's differs by rounding where there are few boxes, and
    equal scores have no certain order in it.

    Args:
        boxes, scores, iou_threshold: as in `nms`.
        idxs: [n], the number of each box's group, of any integer dtype. On the CPU they differ by less than 2^32.

    Returns:
        int64 [kept]: the indices of the kept boxes of all groups by falling score, of equal ones the first. On a GPU
        the host waits once, for their number; `nms_padded` does not.

    Raises:
        RuntimeError: "nms: NAME must be WHAT, got GOT".
    """
    return _ops.nms(_wide(boxes), _wide(scores), _numbers("nms", idxs), iou_threshold)


def nms_padded(
    boxes: Tensor, scores: Tensor, iou_threshold: float, idxs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`nms`, or with `idxs` `batched_nms`, with results of a size that does not depend on the boxes' contents.

    Nothing waits for the device, so that it can be part of a captured step.

    Returns:
        kept: int64 [n], the indices of the kept boxes by falling score, then -1.
        count: int64 [], their number.

    Raises:
        RuntimeError: "nms_padded: NAME must be WHAT, got GOT".
    """
    idxs = None if idxs is None else _numbers("nms_padded", idxs)
    return _ops.nms_padded(_wide(boxes), _wide(scores), idxs, iou_threshold)


def _wide(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.float() if tensor.dtype in IN_16_BITS else tensor


def _numbers(op: str, idxs: Tensor) -> Tensor:
    integer = not (idxs.is_floating_point() or idxs.is_complex())
    require(op, integer, "idxs must be of an integer dtype", str(idxs.dtype).removeprefix("torch."))
    return idxs.long()


@torch.library.impl(_library, "nms", "CompositeExplicitAutograd")
def nms_reference(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float) -> Tensor:
    """The same in plain torch: each box with all those after it."""
    _check("nms", boxes, scores, idxs)
    return _kept(boxes, scores, idxs, iou_threshold)


@torch.library.impl(_library, "nms_padded", "CompositeExplicitAutograd")
def nms_padded_reference(
    boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float
) -> tuple[Tensor, Tensor]:
    """The same in plain torch."""
    _check("nms_padded", boxes, scores, idxs)
    kept = _kept(boxes, scores, idxs, iou_threshold)
    return torch.nn.functional.pad(kept, (0, len(boxes) - len(kept)), value=-1), kept.new_tensor(len(kept))


def _kept(boxes: Tensor, scores: Tensor, idxs: Tensor | None, iou_threshold: float) -> Tensor:
    order = scores.sort(stable=True, descending=True).indices
    boxes = boxes[order]
    groups = None if idxs is None else idxs[order]
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for i in range(len(boxes) - 1):
        if kept[i]:
            lower = torch.maximum(boxes[i, :2], boxes[i + 1 :, :2])
            upper = torch.minimum(boxes[i, 2:], boxes[i + 1 :, 2:])
            intersection = (upper - lower).clamp(min=0).prod(1)
            removed = (intersection / (areas[i] + areas[i + 1 :] - intersection)).double() > iou_threshold
            kept[i + 1 :] &= ~(removed if groups is None else removed & (groups[i + 1 :] == groups[i]))
    return order[kept]


@torch.library.register_fake("airank_fast::nms", lib=_library)
def _fake(boxes, scores, idxs, iou_threshold):
    _check("nms", boxes, scores, idxs)
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


@torch.library.register_fake("airank_fast::nms_padded", lib=_library)
def _padded_fake(boxes, scores, idxs, iou_threshold):
    _check("nms_padded", boxes, scores, idxs)
    return boxes.new_empty(boxes.shape[0], dtype=torch.int64), boxes.new_empty((), dtype=torch.int64)


def _check(op: str, boxes: Tensor, scores: Tensor, idxs: Tensor | None) -> None:
    """The checks of csrc/nms_args.h, in the same order and words."""
    shape = list(boxes.shape)
    require(op, boxes.dim() == 2 and boxes.shape[1] == 4, "boxes must have shape [n, 4]", shape)
    check_dtype(op, "boxes", boxes, torch.float32, torch.float64)
    for name, tensor, dtype in (("scores", scores, boxes.dtype), ("idxs", idxs, torch.int64)):
        if tensor is not None:
            check_device(op, name, tensor, boxes.device)
            check_dtype(op, name, tensor, dtype)
            fits = tensor.dim() == 1 and tensor.shape[0] == boxes.shape[0]
            require(op, fits, f"{name} must have shape [{boxes.shape[0]}]", list(tensor.shape))
