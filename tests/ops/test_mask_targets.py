"""airank_fast::mask_targets against a walk along every edge, and wrong arguments.

On the CPU and, with -m gpu, on CUDA. The op was compared once with pycocotools 2.0.11 (frPyObjects, merge, decode):
equal on 2,400 random masks, of whole and of broken coordinates.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from airank_fast.nn import mask_targets
from airank_fast.ops.mask_targets import mask_targets_reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
NAN, INF = float("nan"), float("inf")
OP = torch.ops.airank_fast.mask_targets


def toward_zero(x):
    return int(x)


def walked(polygon, size):
    """Rows of pixels of a polygon [[x, y], ...] on a grid, by the COCO API's rule, step by step."""
    corners = [(toward_zero(5 * x + 0.5), toward_zero(5 * y + 0.5)) for x, y in polygon]
    steps = []
    for (xa, ya), (xb, yb) in zip(corners, [*corners[1:], corners[0]], strict=True):
        dx, dy = abs(xb - xa), abs(yb - ya)
        backward = xa > xb if dx >= dy else ya > yb
        (xs, ys), (xe, ye) = ((xb, yb), (xa, ya)) if backward else ((xa, ya), (xb, yb))
        if dx >= dy:
            slope = (ye - ys) / dx if dx else 0.0
            edge = [(xs + t, toward_zero(ys + slope * t + 0.5)) for t in range(dx + 1)]
        else:
            slope = (xe - xs) / dy
            edge = [(toward_zero(xs + slope * t + 0.5), ys + t) for t in range(dy + 1)]
        steps += edge[::-1] if backward else edge
    pixels = torch.zeros(size, size, dtype=torch.bool)
    for (u, v), (u_next, v_next) in pairwise(steps):
        column = (min(u, u_next) + 0.5) / 5 - 0.5
        if u != u_next and column == int(column) and 0 <= column < size:
            row = -int(-(min(max((min(v, v_next) + 0.5) / 5 - 0.5, 0), size)) // 1)
            pixels[row:, int(column)] ^= True
    return pixels


def expected(boxes, matched, objects, size):
    """maskrcnn-benchmark's crop, resize and union, in float32."""
    result = []
    for box, number in zip(boxes, matched, strict=True):
        width, height = ((box[i + 2] - box[i]).clamp(min=1) for i in (0, 1))
        factors = torch.tensor([size / width.item(), size / height.item()])
        union = torch.zeros(size, size, dtype=torch.bool)
        for polygon in objects[number]:
            union |= walked(((polygon - box[:2]) * factors).tolist(), size)
        result.append(union.float())
    return torch.stack(result)


def packed(objects, device="cpu"):
    """points, polygon_offsets, object_offsets."""
    polygons = [polygon for of_object in objects for polygon in of_object]
    sizes = torch.tensor([len(polygon) for polygon in polygons])
    counts = torch.tensor([len(of_object) for of_object in objects])
    offsets = [torch.cat([torch.zeros(1, dtype=torch.long), of.cumsum(0)]) for of in (sizes, counts)]
    return [t.to(device) for t in (torch.cat(polygons), *offsets)]


def made(seed=0):
    """Boxes, their objects, and objects: stars with short and long edges, whole coordinates, two and no polygons."""
    generator = torch.Generator().manual_seed(seed)

    def star(vertices, centre, radius):
        angle = torch.arange(vertices) * (2 * torch.pi / vertices)
        length = radius * (0.4 + 0.6 * torch.rand(vertices, generator=generator))
        return torch.stack([centre[0] + length * angle.cos(), centre[1] + length * angle.sin()], 1)

    objects = [
        [star(7, (40.0, 30.0), 25.0)],
        [star(60, (50.5, 40.2), 30.0), star(5, (20.0, 20.0), 9.0).round()],
        [torch.tensor([[10.0, 10], [42, 10], [42, 38], [10, 38]]), torch.tensor([[15.0, 15], [20, 15], [20, 15]])],
        [],
        [torch.tensor([[30.0, 5.0], [31, 80], [29.5, 80]])],
    ]
    boxes = torch.tensor(
        [
            [12.3, 8.1, 66.2, 57.9],
            [30.0, 22.0, 58.0, 50.0],
            [10.0, 10.0, 42.0, 38.0],
            [-5.5, -3.0, 90.0, 70.0],
            [25.0, 20.0, 25.3, 60.0],
            [200.0, 200.0, 220.0, 230.0],
            [0.0, 0.0, 140.0, 140.0],
        ]
    )
    return boxes.repeat_interleave(len(objects), 0), torch.arange(len(objects)).repeat(len(boxes)), objects


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [1, 28, 64])
def test_masks_are_those_of_a_walk(device, size):
    boxes, matched, objects = made(size)
    want = expected(boxes, matched.tolist(), objects, size)
    assert size == 1 or 0.1 < want.mean() < 0.9
    got = mask_targets(boxes.to(device), matched.to(device), *packed(objects, device), size)
    torch.testing.assert_close(got.cpu(), want, rtol=0, atol=0)
    reference = mask_targets_reference(boxes, matched, *packed(objects), size)
    torch.testing.assert_close(reference, want, rtol=0, atol=0)


# A rectangle and a triangle in the box [0, 0, 7, 7] on a grid of 7, as pycocotools fills them.
FILLED = {
    "rectangle": (
        [[1.0, 2.0], [5.375, 2.0], [5.375, 6.5], [1.0, 6.5]],
        ["0000000", "0000000", "0111100", "0111100", "0111100", "0111100", "0111100"],
    ),
    "triangle": (
        [[0.5, 0.5], [6.75, 3.25], [2.125, 6.875]],
        ["0000000", "0110000", "0111100", "0111110", "0011100", "0011000", "0000000"],
    ),
}


@pytest.mark.parametrize("name", FILLED)
def test_pycocotools_pixels(name):
    polygon, rows = FILLED[name]
    got = mask_targets(torch.tensor([[0, 0, 7.0, 7.0]]), torch.tensor([0]), *packed([[torch.tensor(polygon)]]), 7)
    assert ["".join(map(str, row)) for row in got[0].int().tolist()] == rows


@pytest.mark.parametrize("device", DEVICES)
def test_boxes_that_are_not_finite_and_nothing(device):
    boxes, matched, objects = made()
    boxes[1, 0], boxes[3, 2] = NAN, INF
    got = mask_targets(boxes.to(device), matched.to(device), *packed(objects, device), 14).cpu()
    assert got.isnan().flatten(1).any(1).nonzero().flatten().tolist() == [1, 3]
    assert got[[1, 3]].isnan().all()
    nothing = [t.to(device) for t in (torch.zeros(0, 2), torch.zeros(1, dtype=torch.long))]
    got = mask_targets(boxes[:0].to(device), matched[:0].to(device), *nothing, nothing[1], 14)
    assert got.shape == (0, 14, 14)


@pytest.mark.parametrize("device", DEVICES)
def test_other_dtypes_and_strides(device):
    boxes, matched, objects = made()
    points, *offsets = packed(objects, device)
    boxes, matched = boxes.to(device), matched.to(device)
    want = mask_targets(boxes, matched, points, *offsets, 14)
    laid_out = boxes.double().t().contiguous().t(), torch.stack([matched, matched], 1)[:, 0], points.double()
    torch.testing.assert_close(mask_targets(*laid_out, *offsets, 14), want, rtol=0, atol=0)


BOXES, MATCHED, POINTS = torch.tensor([[0, 0, 4.0, 4.0]]), torch.tensor([0]), torch.rand(3, 2)
OFFSETS, ONE = torch.tensor([0, 3]), torch.tensor([0, 1])
ARGUMENTS = (BOXES, MATCHED, POINTS, OFFSETS, ONE, 7)
WRONG = {
    "boxes must be float32, got float64": {0: BOXES.double()},
    "boxes must have shape [K, 4], got [4]": {0: BOXES[0]},
    "matched must be on cpu, got meta": {1: MATCHED.to("meta")},
    "matched must be int64, got int32": {1: MATCHED.int()},
    "matched must have shape [K], got []": {1: MATCHED[0]},
    "matched must have shape [1], got [2]": {1: MATCHED.repeat(2)},
    "points must be on cpu, got meta": {2: POINTS.to("meta")},
    "points must be float32, got float64": {2: POINTS.double()},
    "points must have shape [P, 2], got [6]": {2: POINTS.flatten()},
    "polygon_offsets must be int64, got int32": {3: OFFSETS.int()},
    "polygon_offsets must have shape [polygons + 1], got [0]": {3: OFFSETS[:0]},
    "object_offsets must have shape [objects + 1], got [1, 2]": {4: ONE[None]},
    "size must be in [1, 64], got 65": {5: 65},
    "polygon_offsets[0] must be 0, got 1": {3: torch.tensor([1, 3])},
    "polygon_offsets[1] must be in [0, 3], got 4": {3: torch.tensor([0, 4])},
    "polygon_offsets[2] must be in [3, 3], got 2": {3: torch.tensor([0, 3, 2])},
    "polygon_offsets[1] must be 3, got 2": {3: torch.tensor([0, 2])},
    "object_offsets[1] must be 1, got 0": {4: torch.tensor([0, 0])},
    "matched[0] must be in [0, 1), got 1": {1: MATCHED + 1},
    "matched[0] must be in [0, 1), got -1": {1: MATCHED - 1},
}


@pytest.mark.not_emulated
@pytest.mark.parametrize("function", [OP, mask_targets_reference])
@pytest.mark.parametrize(("message", "changes"), WRONG.items(), ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(function, message, changes):
    with pytest.raises(RuntimeError) as caught:
        function(*(changes.get(i, argument) for i, argument in enumerate(ARGUMENTS)))
    assert str(caught.value) == "mask_targets: " + message


@pytest.mark.gpu
def test_an_object_that_is_not_there_on_a_gpu():
    arguments = [t.cuda() for t in ARGUMENTS[:-1]]
    assert mask_targets(arguments[0], arguments[1] + 1, *arguments[2:], 7).isnan().all()


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    boxes, matched, objects = made()
    arguments = (boxes.to(device), matched.to(device), *packed(objects, device), 14)
    torch.library.opcheck(OP.default, arguments, test_utils=("test_schema", "test_faketensor"))


def test_the_kernel_is_loaded_where_the_extension_is_built():
    pytest.importorskip("airank_fast._C")
    assert torch._C._dispatch_has_kernel_for_dispatch_key("airank_fast::mask_targets", "CPU")
