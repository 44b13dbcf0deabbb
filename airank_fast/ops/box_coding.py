"""Boxes as their differences from others: as torchvision's BoxCoder, in torch's own operators.

With sizes w, h and centres x, y of a box and of its reference r:

    code = (weight_x (x - x_r) / w_r, weight_y (y - y_r) / h_r, weight_w log(w / w_r), weight_h log(h / h_r))

Source: Girshick et al. 2014, "Rich feature hierarchies", appendix C. No kernel: of the sampled anchors and selected
proposals of a step, some thousands, torch's operators take half a millisecond.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from airank_fast.ops.checks import require

CLIP = math.log(1000 / 16)
_ONES = (1.0, 1.0, 1.0, 1.0)


def encode_boxes(boxes: Tensor, references: Tensor, weights: Sequence[float] = _ONES) -> Tensor:
    """The codes by which ``decode_boxes`` finds boxes from their references, such as truths from anchors.

    Args:
        boxes, references: [..., 4], x1, y1, x2, y2, of the same shape or broadcast to it.
        weights: of x, y, width and height.

    Returns:
        [..., 4], torchvision's to the bit.

    Raises:
        RuntimeError: "encode_boxes: NAME must be WHAT, got GOT".
    """
    _check("encode_boxes", boxes=boxes, references=references)
    _check_weights("encode_boxes", weights)
    (centres, sizes), (from_centres, from_sizes) = _measures(_planes(boxes)), _measures(_planes(references))
    moved = _by(torch.mul, centres - from_centres, weights[:2]) / from_sizes
    return _rows(torch.cat([moved, _by(torch.mul, torch.log(sizes / from_sizes), weights[2:])]))


def decode_boxes(
    codes: Tensor,
    references: Tensor,
    weights: Sequence[float] = _ONES,
    *,
    clip: float = CLIP,
    image_size: tuple[int, int] | Tensor | None = None,
) -> Tensor:
    """The boxes that have the codes relative to their references.

    Args:
        codes: [n, 4], or [n, k, 4] for k boxes of each reference, as of k classes.
        references: [n, 4], x1, y1, x2, y2.
        weights: of x, y, width and height.
        clip: the largest logarithm of a factor on a size; exp of a larger one would be no box.
        image_size: (height, width), or a tensor [n, 2] of those of each reference's picture: the boxes are cut to it.

    Returns:
        As the codes; torchvision's to the bit.

    Raises:
        RuntimeError: "decode_boxes: NAME must be WHAT, got GOT".
    """
    op = "decode_boxes"
    _check(op, codes=codes, references=references)
    require(op, references.dim() == 2, "references must have shape [n, 4]", list(references.shape))
    good = codes.dim() in (2, 3) and codes.shape[0] == references.shape[0]
    number = references.shape[0]
    require(op, good, f"codes must have shape [{number}, 4] or [{number}, k, 4]", list(codes.shape))
    _check_weights(op, weights)
    planes = _planes(codes)
    centres, sizes = _measures(_planes(references.to(codes.dtype)).view(4, number, *[1] * (codes.dim() - 2)))
    centres = _by(torch.div, planes[:2], weights[:2]) * sizes + centres
    half = 0.5 * (_by(torch.div, planes[2:], weights[2:]).clamp(max=clip).exp() * sizes)
    lower, upper = centres - half, centres + half
    if image_size is None:
        return _rows(torch.cat([lower, upper]))
    if not isinstance(image_size, Tensor):
        columns = zip((*lower, *upper), (*image_size[::-1],) * 2, strict=True)
        return torch.stack([column.clamp(0, most) for column, most in columns], -1)
    require(op, image_size.shape == (number, 2), f"image_size must have shape [{number}, 2]", list(image_size.shape))
    most = image_size.to(codes).T.flip(0).reshape(2, number, *[1] * (codes.dim() - 2))
    return _rows(torch.cat([torch.minimum(corners.clamp(min=0), most) for corners in (lower, upper)]))


def _planes(boxes: Tensor) -> Tensor:
    """[4, ...]: torch is several times as fast where neighbours in memory are treated alike."""
    return boxes.movedim(-1, 0).contiguous()


def _rows(planes: Tensor) -> Tensor:
    return planes.movedim(0, -1).contiguous()


def _measures(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and sizes, of planes."""
    sizes = boxes[2:] - boxes[:2]
    return boxes[:2] + 0.5 * sizes, sizes


def _by(function: Callable[..., Tensor], pairs: Tensor, weights: Sequence[float]) -> Tensor:
    """Two planes multiplied with or divided by numbers, which are not copied to a device."""
    if tuple(weights) == (1, 1):
        return pairs
    if weights[0] == weights[1]:
        return function(pairs, weights[0])
    return torch.stack([function(plane, weight) for plane, weight in zip(pairs, weights, strict=True)])


def _check_weights(op: str, weights: Sequence[float]) -> None:
    require(op, len(weights) == 4, "weights must be 4 numbers", list(weights))


def _check(op: str, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        shape = list(tensor.shape)
        require(op, tensor.is_floating_point(), f"{name} must be of a floating dtype", str(tensor.dtype)[6:])
        require(op, tensor.dim() >= 2 and shape[-1] == 4, f"{name} must have shape [..., 4]", shape)
