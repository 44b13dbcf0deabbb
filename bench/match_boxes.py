"""ops.match_boxes against torchvision's box_iou and Matcher: anchors, proposals and predictions with their truths.

    python bench/match_boxes.py [--save] [--rounds N] [--device cpu|cuda]

anchors: 267,069 of five levels on 800 x 1333 (Mask R-CNN's region proposals), 2 pictures, low-quality matches too.
proposals: 2,000 for each of 2 pictures. predictions: YOLOv3's 10,647 at 416 x 416 for each of 8 pictures, of which the
largest IoU is needed. Each picture has 8 truths (about COCO's mean) or 100.

torchvision runs in a Python of its own on the same processors in turn, on a GPU in this one: see other_python.py. As
its detectors do, it takes one picture at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import harness
import other_python
import torch
from torch import Tensor

from airank_fast.ops import match_boxes

PEER = """
import torch
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

def call(boxes, truths, high, low, low_quality):
    matcher = Matcher(high, low, allow_low_quality_matches=low_quality)
    return [torch.stack([matcher(box_iou(t, b)) for b, t in zip(boxes, truths)])]
"""
LARGEST = """
import torch
from torchvision.ops import box_iou

def call(boxes, truths, *options):
    return [torch.stack([box_iou(t, b).max(0).values for b, t in zip(boxes, truths)])]
"""
HEIGHT, WIDTH, LEVELS = 800, 1333, 5


def random_boxes(number: int, seed: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Of 8 pixels to half of the picture."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 8 * (min(height, width) / 16) ** torch.rand(number, 2, generator=generator)
    corners = torch.rand(number, 2, generator=generator) * (torch.tensor([width, height]) - sizes)
    return torch.cat([corners, corners + sizes], 1)


def anchors() -> Tensor:
    """Three shapes at each place of five levels, level by level and row by row."""
    of_levels = []
    for level in range(LEVELS):
        stride, side = 4 * 2**level, 32 * 2**level
        x, y = (torch.arange(-(-extent // stride)) * stride for extent in (WIDTH, HEIGHT))
        y, x = torch.meshgrid(y, x, indexing="ij")
        roots = torch.tensor([0.5, 1.0, 2.0]).sqrt()
        halves = torch.stack([side / roots, side * roots], 1) / 2
        shapes = torch.cat([-halves, halves], 1)
        of_levels.append((torch.stack([x, y, x, y], -1).reshape(-1, 1, 4) + shapes).reshape(-1, 4))
    return torch.cat(of_levels)


def check(functions: dict[str, Callable]) -> None:
    """Matches, or the largest IoUs, must be equal.

    On a GPU, where a compiler may fuse a product and a sum, IoUs may differ by rounding, and one match in 10,000.
    """
    ours, *others = [function() for function in functions.values()]
    for (other,) in others:
        found = ours[int(other.is_floating_point())]
        if not found.is_cuda:
            assert torch.equal(found, other)
        elif other.is_floating_point():
            torch.testing.assert_close(found, other, rtol=1e-5, atol=1e-6)
        else:
            assert (found != other).float().mean() <= 1e-4


def cases(device: str) -> Iterator[tuple[str, str, dict[str, Callable], None]]:
    """(case, our name, functions, None)."""
    peer = other_python.with_torchvision(device)
    of_all = anchors()
    kinds = {
        "anchors": ([of_all] * 2, (0.7, 0.3, True), PEER),
        "proposals": ([random_boxes(2000, seed) for seed in range(2)], (0.5, 0.5, False), PEER),
        "predictions": ([random_boxes(10647, seed, 416, 416) for seed in range(8)], (0.7, 0.7, False), LARGEST),
    }
    for kind, (of_pictures, options, code) in kinds.items():
        for number in (8, 100):
            size = (416, 416) if kind == "predictions" else (HEIGHT, WIDTH)
            truths = [random_boxes(number, 100 + i, *size).to(device) for i in range(len(of_pictures))]
            of_pictures = [boxes.to(device) for boxes in of_pictures]
            boxes = of_pictures[0] if kind == "anchors" else torch.stack(of_pictures)
            packed = torch.cat(truths)
            offsets = torch.arange(len(truths) + 1, device=device) * number

            def ours(given: tuple = (boxes, packed, offsets, *options)) -> tuple[Tensor, Tensor]:
                return match_boxes(*given)

            functions: dict[str, Callable] = {"match_boxes": ours}
            if peer is not None:
                functions["torchvision"] = peer.contestant(code, of_pictures, truths, *options)
            case = f"{kind}, {len(of_pictures)} x {len(of_pictures[0])} boxes, {number} truths each, {device}"
            yield case, "match_boxes", functions, None


def main() -> None:
    """Check, time, print; save on request."""
    options = harness.op_options("match_boxes", __doc__, rounds=15)
    harness.run_cases("match_boxes", options, cases(options.device), check)


if __name__ == "__main__":
    main()
