"""ops.multiscale_roi_align, forward and backward, against torchvision's MultiScaleRoIAlign: the RoIs of Mask R-CNN.

    python bench/roi_align.py [--save] [--rounds N] [--device cpu|cuda]

A picture of 800 x 1344 as four levels of 256 channels, from a quarter of its size to a 32nd; 512 proposals, in bins of
7 x 7 for the boxes, and 128 of them, 14 x 14 for the masks. Sides of proposals are spread evenly by their logarithm,
from 16 to 600 pixels. Two samples along each axis of a bin.

torchvision runs in a Python of its own on the same processors in turn, on a GPU in this one: see other_python.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import harness
import other_python
import torch
from torch import Tensor

from airank_fast.ops import multiscale_roi_align

OURS = "multiscale_roi_align"
HEIGHT, WIDTH, CHANNELS = 800, 1344, 256
STRIDES = (4, 8, 16, 32)
CASES = ((512, 7, False), (512, 7, True), (128, 14, False), (128, 14, True))  # proposals, bins, channels_last
PEER = """
import torch
import torchvision

def call(levels, boxes, bins, grad, size):
    names = [str(i) for i in range(len(levels))]
    leaves = [level.detach().requires_grad_() for level in levels]
    pool = torchvision.ops.MultiScaleRoIAlign(names, bins, 2)
    y = pool(dict(zip(names, leaves)), [boxes], [size])
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]
"""


def proposals(number: int) -> Tensor:
    """Boxes inside the picture."""
    generator = torch.Generator().manual_seed(number)
    picture = torch.tensor([float(WIDTH), float(HEIGHT)])
    sides = 16 * (600 / 16) ** torch.rand(number, 1, generator=generator)
    sizes = sides * 2 ** (torch.rand(number, 2, generator=generator) - 0.5)
    centres = torch.rand(number, 2, generator=generator) * picture
    return torch.minimum(torch.cat([centres - sizes / 2, centres + sizes / 2], 1).clamp(min=0), picture.repeat(2))


def step(levels: list[Tensor], boxes: Tensor, bins: int, grad: Tensor) -> Callable[[], list[Tensor]]:
    """Forward and backward; returns the result and the gradients."""
    leaves = [level.detach().requires_grad_() for level in levels]
    scales = [1 / stride for stride in STRIDES]

    def run() -> list[Tensor]:
        y = multiscale_roi_align(leaves, [boxes], bins, scales, 2)
        return [y.detach(), *torch.autograd.grad(y, leaves, grad)]

    return run


def check(functions: dict[str, Callable]) -> None:
    """Results must agree before anything is timed; a sample next to an edge may be on either side of it."""
    results = [run() for run in functions.values()]
    for other in results[1:]:
        for got, want in zip(results[0], other, strict=True):
            difference = (got - want).norm() / want.norm()
            assert difference <= 1e-4, difference


def cases(device: str) -> Iterator[tuple[str, str, dict[str, Callable], int]]:
    """(case, our name, functions, bytes that must move)."""
    peer = other_python.with_torchvision(device)
    for number, bins, channels_last in CASES:
        torch.manual_seed(0)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        sizes = [(HEIGHT // stride, WIDTH // stride) for stride in STRIDES]
        levels = [torch.randn(1, CHANNELS, *size, device=device) for size in sizes]
        levels = [level.contiguous(memory_format=memory_format) for level in levels]
        boxes = proposals(number).to(device)
        grad = torch.randn(number, CHANNELS, bins, bins, device=device).contiguous(memory_format=memory_format)
        functions: dict[str, Callable] = {OURS: step(levels, boxes, bins, grad)}
        if peer is not None:
            functions["torchvision"] = peer.contestant(PEER, levels, boxes, bins, grad, (HEIGHT, WIDTH))
        layout = "channels_last" if channels_last else "contiguous"
        name = f"{number} of {CHANNELS} x {bins} x {bins} {layout} float32, forward + backward, {device}"
        num_bytes = 4 * (2 * grad.numel() + 2 * sum(level.numel() for level in levels))  # each read and written once
        yield name, OURS, functions, num_bytes


def main() -> None:
    """Check, time, print; save on request."""
    options = harness.op_options("roi_align", __doc__, rounds=31)
    harness.run_cases("roi_align", options, cases(options.device), check)


if __name__ == "__main__":
    main()
