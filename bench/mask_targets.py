"""ops.mask_targets against pycocotools: the targets of Mask R-CNN's mask head, from polygons.

    python bench/mask_targets.py [--save] [--rounds N] [--device cpu|cuda]

The RoIs of a picture that have an object, 128, with 20 objects of one or two polygons of 40 vertices, on grids of
28 x 28. The peer does what maskrcnn-benchmark does: for each RoI it moves and scales the polygons, and calls
frPyObjects, merge and decode. It runs on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import harness
import torch
from torch import Tensor

from airank_fast.ops import mask_targets

OURS = "mask_targets"
ROIS, OBJECTS, VERTICES, SIZE = 128, 20, 40, 28


def made() -> tuple[Tensor, Tensor, list[list[Tensor]]]:
    """RoIs, the object of each, and the polygons of the objects."""
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    angles = torch.arange(VERTICES) * (2 * torch.pi / VERTICES)
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    centres, radii = rand(OBJECTS, 2) * 800, 20 + 150 * rand(OBJECTS, 1)
    objects = [
        [centre + (i + radius * (0.6 + 0.4 * rand(VERTICES, 1))) * circle for i in range(1 + number % 2)]
        for number, (centre, radius) in enumerate(zip(centres, radii, strict=True))
    ]
    matched = torch.arange(ROIS) % OBJECTS
    corners = torch.cat([centres - radii, centres + radii], 1)[matched]
    return corners + 0.4 * radii[matched] * (rand(ROIS, 4) - 0.5), matched, objects


def by_pycocotools(boxes: Tensor, matched: Tensor, objects: list[list[Tensor]]) -> Tensor:
    """maskrcnn-benchmark's way."""
    from pycocotools import mask

    targets = []
    for box, number in zip(boxes, matched.tolist(), strict=True):
        factors = SIZE / (box[2:] - box[:2]).clamp(min=1)
        polygons = [((polygon - box[:2]) * factors).flatten().tolist() for polygon in objects[number]]
        targets.append(torch.from_numpy(mask.decode(mask.merge(mask.frPyObjects(polygons, SIZE, SIZE)))))
    return torch.stack(targets).float()


def check(functions: dict[str, Callable]) -> None:
    """The same pixels, but for those whose vertices the factors' rounding moves over a fifth of a pixel."""
    results = [run().cpu() for run in functions.values()]
    for other in results[1:]:
        assert (results[0] != other).float().mean() < 1e-3


def cases(device: str) -> Iterator[tuple[str, str, dict[str, Callable], None]]:
    """(case, our name, functions, None)."""
    boxes, matched, objects = made()
    polygons = [polygon for of_object in objects for polygon in of_object]
    ends = [torch.tensor([len(of) for of in lists]).cumsum(0) for lists in (polygons, objects)]
    offsets = [torch.nn.functional.pad(of, (1, 0)) for of in ends]
    arguments = [t.to(device) for t in (boxes, matched, torch.cat(polygons), *offsets)]
    functions: dict[str, Callable] = {OURS: lambda: mask_targets(*arguments, SIZE)}
    if device == "cpu" and harness.is_there("pycocotools"):
        functions["pycocotools"] = lambda: by_pycocotools(boxes, matched, objects)
    yield f"{ROIS} RoIs, {SIZE} x {SIZE}, polygons of {VERTICES} vertices, {device}", OURS, functions, None


def main() -> None:
    """Check, time, print; save on request."""
    options = harness.op_options("mask_targets", __doc__, rounds=31)
    harness.run_cases("mask_targets", options, cases(options.device), check)


if __name__ == "__main__":
    main()
