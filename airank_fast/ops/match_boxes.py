"""airank_fast::match_boxes: each box with the truth of its picture that it overlaps most, as torchvision's Matcher.

Formulas in csrc/box_iou_math.h and csrc/match_boxes_math.h. The matrix of all IoUs is never stored.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from airank_fast.ops.checks import check_device, check_dtype, require
from airank_fast.ops.nms import in_32_bits

_OP = "match_boxes"
_MOST_TRUTHS = 2**24
BELOW_LOW, BETWEEN = -1, -2
_library = torch.library.Library("airank_fast", "FRAGMENT")
_library.define(
    f"{_OP}(Tensor boxes, Tensor? box_offsets, Tensor truths, Tensor truth_offsets, float high_threshold,"
    " float low_threshold, bool allow_low_quality_matches) -> (Tensor matches, Tensor ious)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def match_boxes(
    boxes: Tensor,
    truths: Tensor,
    truth_offsets: Tensor | Sequence[int],
    high_threshold: float,
    low_threshold: float,
    allow_low_quality_matches: bool = False,
    *,
    box_offsets: Tensor | Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """The truth of its picture that each box has the largest IoU with, for several pictures at once.

    As torchvision's ``Matcher(high_threshold, low_threshold, allow_low_quality_matches)`` on
    ``box_iou(truths, boxes)`` of each picture, to the bit.

    Args:
        boxes: x1, y1, x2, y2; float32 or float64, and bfloat16 or float16, which are computed in float32.
            [b, 4]: anchors, the same for every picture. [pictures, b, 4]: as many for each, as predictions.
            [b, 4] with `box_offsets`: those of all pictures one after another, as proposals.
        truths: [t, 4], those of all pictures one after another, of the boxes' dtype.
        truth_offsets: [pictures + 1], int64 or numbers: where each picture's begin in truths; the last is t.
        high_threshold, low_threshold: compared with IoUs in their dtype.
        allow_low_quality_matches: the boxes of a truth's largest IoU, all of equal ones, are matched whatever it is,
            each with the truth of its own largest IoU. As in torchvision, this holds for an IoU of 0 too.
        box_offsets: [pictures + 1], as truth_offsets.

    Returns:
        matches: int64 [pictures, b], or [b] with `box_offsets`: the number of the truth in its picture, of equal IoUs
            the first; -1 where the IoU is below `low_threshold`, -2 where it is between the two thresholds.
        ious: of the boxes' dtype, the largest IoU of each box. NaN where one is, as in torch's max.

        In a picture without truths, matches are -1 and IoUs 0. Nothing waits for the device; wrong offsets are an
        error on the CPU, and on a GPU they are cut to the tensors' sizes.

    Raises:
        RuntimeError: "match_boxes: NAME must be WHAT, got GOT".
    """
    truth_offsets = _offsets(truth_offsets, boxes.device)
    box_offsets = None if box_offsets is None else _offsets(box_offsets, boxes.device)
    thresholds = float(high_threshold), float(low_threshold)
    op = torch.ops.airank_fast.match_boxes
    return op(in_32_bits(boxes), box_offsets, in_32_bits(truths), truth_offsets, *thresholds, allow_low_quality_matches)


def _offsets(offsets: Tensor | Sequence[int], device: torch.device) -> Tensor:
    if isinstance(offsets, Tensor):
        return offsets
    return torch.tensor(list(offsets), dtype=torch.int64).to(device, non_blocking=True)


@torch.library.impl(_library, _OP, "CompositeExplicitAutograd")
def match_boxes_reference(
    boxes: Tensor,
    box_offsets: Tensor | None,
    truths: Tensor,
    truth_offsets: Tensor,
    high_threshold: float,
    low_threshold: float,
    allow_low_quality_matches: bool,
) -> tuple[Tensor, Tensor]:
    """The same in plain torch, by the matrix of each picture."""
    _check(boxes, box_offsets, truths, truth_offsets, high_threshold, low_threshold)
    pictures = len(truth_offsets) - 1
    of_truths = _checked_contents("truth_offsets", truth_offsets, len(truths))
    if box_offsets is not None:
        of_boxes = _checked_contents("box_offsets", box_offsets, len(boxes))
        parts = [boxes[first:last] for first, last in itertools.pairwise(of_boxes)]
    else:
        parts = list(boxes if boxes.dim() == 3 else boxes.expand(pictures, *boxes.shape))
    options = high_threshold, low_threshold, allow_low_quality_matches
    found = [
        _matched(part, truths[first:last], *options)
        for part, (first, last) in zip(parts, itertools.pairwise(of_truths), strict=True)
    ]
    nothing = boxes.new_empty(0, dtype=torch.int64), boxes.new_empty(0)
    matches, ious = (torch.cat([empty, *each]) for empty, each in zip(nothing, zip(*found, strict=True), strict=False))
    sizes = _sizes(boxes, box_offsets, pictures)
    return matches.view(sizes), ious.view(sizes)


def _matched(boxes: Tensor, truths: Tensor, high: float, low: float, low_quality: bool) -> tuple[Tensor, Tensor]:
    """Of one picture."""
    if 0 in (len(boxes), len(truths)):
        return boxes.new_full((len(boxes),), BELOW_LOW, dtype=torch.int64), boxes.new_zeros(len(boxes))
    mine, theirs = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (truths, boxes))
    lower = torch.maximum(truths[:, None, :2], boxes[:, :2])
    size = (torch.minimum(truths[:, None, 2:], boxes[:, 2:]) - lower).clamp(min=0)
    intersection = size[..., 0] * size[..., 1]
    iou = intersection / (mine[:, None] + theirs - intersection)
    largest, best = iou.max(0)
    matches = torch.where(largest < low, BELOW_LOW, torch.where(largest < high, BETWEEN, best))
    if low_quality:
        matches = torch.where((iou == iou.amax(1, keepdim=True)).any(0), best, matches)
    return matches, largest


@torch.library.register_fake(f"airank_fast::{_OP}", lib=_library)
def _fake(boxes, box_offsets, truths, truth_offsets, high_threshold, low_threshold, allow_low_quality_matches):
    _check(boxes, box_offsets, truths, truth_offsets, high_threshold, low_threshold)
    sizes = _sizes(boxes, box_offsets, truth_offsets.shape[0] - 1)
    return boxes.new_empty(sizes, dtype=torch.int64), boxes.new_empty(sizes)


def _sizes(boxes: Tensor, box_offsets: Tensor | None, pictures: int) -> tuple[int, ...]:
    return (boxes.shape[0],) if box_offsets is not None else (pictures, boxes.shape[-2])


def _check(boxes, box_offsets, truths, truth_offsets, high_threshold, low_threshold) -> None:
    """The checks of csrc/match_boxes_args.h, in the same order and words."""
    check_dtype(_OP, "boxes", boxes, torch.float32, torch.float64)
    check_device(_OP, "truths", truths, boxes.device)
    check_dtype(_OP, "truths", truths, boxes.dtype)
    fits = truths.dim() == 2 and truths.shape[1] == 4
    require(_OP, fits, "truths must have shape [t, 4]", list(truths.shape))
    many = truths.shape[0]
    require(_OP, many <= _MOST_TRUTHS, f"truths must be at most {_MOST_TRUTHS} boxes", many)
    _check_offsets(boxes, "truth_offsets", truth_offsets)
    pictures, shape = truth_offsets.shape[0] - 1, list(boxes.shape)
    has_four = boxes.dim() >= 2 and boxes.shape[-1] == 4
    if box_offsets is not None:
        require(_OP, has_four and boxes.dim() == 2, "boxes must have shape [b, 4]", shape)
        _check_offsets(boxes, "box_offsets", box_offsets)
        fits = box_offsets.shape[0] == pictures + 1
        require(_OP, fits, f"box_offsets must have shape [{pictures + 1}]", list(box_offsets.shape))
    else:
        fits = has_four and (boxes.dim() == 2 or (boxes.dim() == 3 and boxes.shape[0] == pictures))
        require(_OP, fits, f"boxes must have shape [b, 4] or [{pictures}, b, 4]", shape)
    required = f"low_threshold must be at most {high_threshold:g}, the high_threshold"
    require(_OP, low_threshold <= high_threshold, required, f"{low_threshold:g}")


def _check_offsets(boxes: Tensor, name: str, offsets: Tensor) -> None:
    check_device(_OP, name, offsets, boxes.device)
    check_dtype(_OP, name, offsets, torch.int64)
    fits = offsets.dim() == 1 and offsets.shape[0] >= 1
    require(_OP, fits, f"{name} must have shape [pictures + 1]", list(offsets.shape))


def _checked_contents(name: str, offsets: Tensor, total: int) -> list[int]:
    numbers = offsets.tolist()
    require(_OP, numbers[0] == 0, f"{name}[0] must be 0", numbers[0])
    for i, (lower, offset) in enumerate(itertools.pairwise(numbers), 1):
        require(_OP, lower <= offset <= total, f"{name}[{i}] must be in [{lower}, {total}]", offset)
    require(_OP, numbers[-1] == total, f"{name}[{len(numbers) - 1}] must be {total}", numbers[-1])
    return numbers
