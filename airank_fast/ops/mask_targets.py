"""airank_fast::mask_targets: the masks of polygons inside boxes, as a mask head is trained on them.

The rule is that of MLPerf's reference, maskrcnn-benchmark: polygons are moved and scaled to the box, and filled on its
grid as the COCO API fills them; csrc/mask_targets_math.h. torchvision's targets are fractions, by roi_align of the mask
in full size; `roi_align` of uint8 or bool gives them, also for masks that have no polygons.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from airank_fast.ops import autograd
from airank_fast.ops.checks import check_device, check_dtype, require

_OP = "mask_targets"
_library = torch.library.Library("airank_fast", "FRAGMENT")
_library.define(
    """mask_targets(Tensor boxes, Tensor matched, Tensor points, Tensor polygon_offsets, Tensor object_offsets,
                    SymInt size) -> Tensor""",
    tags=(torch.Tag.pt2_compliant_tag,),
)

_MOST_SIZE = 64
_FAR = 1e9


@autograd.overridable
def mask_targets(
    boxes: Tensor, matched: Tensor, points: Tensor, polygon_offsets: Tensor, object_offsets: Tensor, size: int
) -> Tensor:
    """For each box the mask of its matched object on a grid of the box: 1 inside of any of its polygons, else 0.

    Args:
        boxes: [K, 4], corners (x1, y1, x2, y2), of any floating dtype. Less than a pixel counts as a pixel.
        matched: [K], int64, the object of each box.
        points: [P, 2], x and y of the vertices of all polygons, of any floating dtype.
        polygon_offsets: [polygons + 1], int64, where each polygon begins in `points`, and their number at the end.
        object_offsets: [objects + 1], int64, the same of objects in the polygons.
        size: M, rows and columns of the grid, in [1, 64].

    Returns:
        float32 [K, M, M], without a gradient. A box that is not finite gives NaN. A `matched` that is no object is an
        error on the CPU; on a GPU, where the host does not wait for it, its mask is NaN, and offsets are not checked.

    Raises:
        RuntimeError: "mask_targets: NAME must be WHAT, got GOT".
    """
    boxes, points = boxes.detach().float(), points.detach().float()
    return torch.ops.airank_fast.mask_targets(boxes, matched, points, polygon_offsets, object_offsets, size)


@torch.library.impl(_library, "mask_targets", "CompositeExplicitAutograd")
def mask_targets_reference(
    boxes: Tensor, matched: Tensor, points: Tensor, polygon_offsets: Tensor, object_offsets: Tensor, size: int
) -> Tensor:
    """The same in plain torch: every edge of every box's polygons with every column."""
    _check(boxes, matched, points, polygon_offsets, object_offsets, size)
    _check_offsets("polygon_offsets", polygon_offsets, len(points))
    _check_offsets("object_offsets", object_offsets, len(polygon_offsets) - 1)
    objects = len(object_offsets) - 1
    is_object = (matched >= 0) & (matched < objects)
    if boxes.is_cpu:
        for i in (~is_object).nonzero()[:1].flatten().tolist():
            require(_OP, False, f"matched[{i}] must be in [0, {objects})", matched[i].item())
    sides = boxes[:, 2:] - boxes[:, :2]
    is_there = sides.isfinite().all(1) & is_object
    found = torch.where(is_there, matched, 0)

    # A row for each polygon of a box, and one for each of its edges.
    box, polygon = _members(found, object_offsets)
    row, start = _members(polygon, polygon_offsets)
    after = torch.where(start + 1 < polygon_offsets[polygon + 1][row], start + 1, polygon_offsets[polygon][row])
    factors = (size / sides.clamp(min=1).double()).float()
    a, b = (_vertices((points[i] - boxes[box[row], :2]) * factors[box[row]]) for i in (start, after))

    column, y, is_crossed = _crossings(a, b, size)
    changes = torch.zeros(len(polygon), size + 1, size, dtype=torch.long, device=boxes.device)
    changes.index_put_((row[:, None], y, column), is_crossed.long(), accumulate=True)
    inside = changes[:, :size].cumsum(1) % 2
    masks = torch.zeros(len(boxes), size, size, dtype=torch.long, device=boxes.device).index_add(0, box, inside)
    return torch.where(is_there[:, None, None], (masks > 0).float(), torch.nan)


def _members(owners: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """All members of the owners, one after the other: which of the owners, and the member's number."""
    counts = offsets[owners + 1] - offsets[owners]
    which = torch.arange(len(owners), device=owners.device).repeat_interleave(counts)
    first = counts.cumsum(0) - counts
    return which, torch.arange(len(which), device=owners.device) - first[which] + offsets[owners][which]


def _vertices(points: Tensor) -> Tensor:
    """In fifths of a pixel, rounded as a C cast rounds."""
    return (points.double() * 5 + 0.5).nan_to_num(-_FAR, _FAR, -_FAR).clamp(-_FAR, _FAR).trunc()


def _crossings(a: Tensor, b: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """The columns [size]; for edges [E, 2] and columns the first row that changes sides, and whether one does."""
    is_flat = (b - a).abs()[:, :1] >= (b - a).abs()[:, 1:]
    turns = torch.where(is_flat, a[:, :1] > b[:, :1], a[:, 1:] > b[:, 1:])
    a, b = torch.where(turns, b, a), torch.where(turns, a, b)
    (ax, ay), (bx, by) = (v[:, :, None].unbind(1) for v in (a, b))
    column = torch.arange(size, device=a.device)
    before = 5.0 * column + 2
    is_crossed = (torch.minimum(ax, bx) <= before) & (before + 1 <= torch.maximum(ax, bx))

    slope = (by - ay) / (bx - ax)
    heights = [(ay + slope * (before + i - ax) + 0.5).trunc() for i in (0, 1)]
    flat = torch.minimum(*heights)

    slope = (bx - ax) / (by - ay)
    near = ((before + 0.5 - ax) / slope).trunc()
    steep = ay + near - 1
    for t in (near - 1, near, near + 1):
        is_before = ((ax + slope * t + 0.5).trunc() <= before) == (slope > 0)
        steep = torch.where(is_before & (t >= 0), ay + t, steep)
    y = torch.where(is_flat, flat, steep)
    row = torch.where(is_crossed, ((y + 2) / 5).floor().clamp(0, size), size)
    return column, row.long(), is_crossed


@torch.library.register_fake("airank_fast::mask_targets", lib=_library)
def _fake(boxes, matched, points, polygon_offsets, object_offsets, size):
    _check(boxes, matched, points, polygon_offsets, object_offsets, size)
    return boxes.new_empty(boxes.shape[0], size, size)


def _check(boxes, matched, points, polygon_offsets, object_offsets, size) -> None:
    """The checks of csrc/mask_targets_args.h, in the same order and words, as are those below."""
    check_dtype(_OP, "boxes", boxes, torch.float32)
    require(_OP, boxes.dim() == 2 and boxes.shape[1] == 4, "boxes must have shape [K, 4]", list(boxes.shape))
    _check_int64("matched", matched, boxes, "[K]")
    is_parallel = matched.shape[0] == boxes.shape[0]
    require(_OP, is_parallel, f"matched must have shape [{boxes.shape[0]}]", list(matched.shape))
    check_device(_OP, "points", points, boxes.device)
    check_dtype(_OP, "points", points, torch.float32)
    require(_OP, points.dim() == 2 and points.shape[1] == 2, "points must have shape [P, 2]", list(points.shape))
    _check_int64("polygon_offsets", polygon_offsets, boxes, "[polygons + 1]")
    _check_int64("object_offsets", object_offsets, boxes, "[objects + 1]")
    require(_OP, 1 <= size <= _MOST_SIZE, f"size must be in [1, {_MOST_SIZE}]", size)


def _check_int64(name: str, tensor: Tensor, like: Tensor, shape: str) -> None:
    check_device(_OP, name, tensor, like.device)
    check_dtype(_OP, name, tensor, torch.int64)
    is_list = tensor.dim() == 1 and (shape == "[K]" or tensor.shape[0] >= 1)
    require(_OP, is_list, f"{name} must have shape {shape}", list(tensor.shape))


def _check_offsets(name: str, offsets: Tensor, end: int) -> None:
    """On the CPU offsets must begin at 0, not fall, and end at the number of what they divide."""
    if not offsets.is_cpu:
        return
    numbers = offsets.tolist()
    require(_OP, numbers[0] == 0, f"{name}[0] must be 0", numbers[0])
    for i, (low, number) in enumerate(pairwise(numbers)):
        require(_OP, low <= number <= end, f"{name}[{i + 1}] must be in [{low}, {end}]", number)
    require(_OP, numbers[-1] == end, f"{name}[{len(numbers) - 1}] must be {end}", numbers[-1])
