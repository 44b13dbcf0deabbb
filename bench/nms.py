"""ops.nms and ops.batched_nms against torchvision's, on boxes as a detector proposes them.

    python bench/nms.py [--save] [--rounds N] [--device cpu|cuda]

1,000, 4,760 and 20,000 boxes on a picture of 1333 x 800. Clusters: most lie around one of 40 objects, as proposals do;
the more, the better the detector is. Uniform: few overlap, as at the start of a training, and most are kept. Groups:
the boxes of five levels of a pyramid, each of twice the size of the one before; Mask R-CNN has 4,760 at 800 x 1333.

torchvision runs in a Python of its own on the same processors in turn, on a GPU in this one: see other_python.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import harness
import other_python
import torch
from torch import Tensor

from airank_fast.ops import batched_nms, nms

NUMBERS = (1000, 4760, 20000)
HEIGHT, WIDTH, OBJECTS, LEVELS, THRESHOLD = 800, 1333, 40, 5, 0.7
PEERS = {
    "nms": "import torchvision\ncall = torchvision.ops.nms",
    "batched_nms": "import torchvision\ncall = torchvision.ops.batched_nms",
}


def proposals(number: int, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and levels."""
    generator = torch.Generator().manual_seed(number)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    picture = torch.tensor([float(WIDTH), float(HEIGHT)])
    levels = torch.randint(LEVELS, (number,), generator=generator)
    sides = 32 * 2.0 ** levels[:, None] if kind == "groups" else 2 ** (5 + 4 * rand(number, 1))
    sizes = sides * 2 ** (rand(number, 2) - 0.5)
    centres = rand(number, 2) * picture
    if kind == "clusters":
        of = torch.randint(OBJECTS, (number,), generator=generator)
        objects, object_sizes = rand(OBJECTS, 2) * picture, 2 ** (5 + 4 * rand(OBJECTS, 2))
        near = rand(number) < 0.8
        centres[near] = (objects[of] + object_sizes[of] * 0.3 * (rand(number, 2) - 0.5))[near]
        sizes[near] = (object_sizes[of] * 2 ** (0.6 * (rand(number, 2) - 0.5)))[near]
    boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], 1)
    scores = torch.randperm(number, generator=generator) / number  # equal ones have no certain order in torchvision
    return torch.minimum(boxes.clamp(min=0), picture.repeat(2)), scores, levels


def check(functions: dict[str, Callable]) -> None:
    """The same boxes must be kept, in the same order.

    On a GPU, where a compiler may fuse a product and a sum, one in a thousand may be another.
    """
    results = [function() for function in functions.values()]
    for other in results[1:]:
        if results[0].is_cuda:
            differing = set(results[0].tolist()) ^ set(other.tolist())
            assert len(differing) <= 1e-3 * len(results[0]), len(differing)
        else:
            assert torch.equal(results[0], other), (len(results[0]), len(other))


def cases(device: str) -> Iterator[tuple[str, str, dict[str, Callable], None]]:
    """(case, our name, functions, None)."""
    peer = other_python.with_torchvision(device)
    for kind in ("clusters", "uniform", "groups"):
        for number in NUMBERS:
            boxes, scores, levels = (tensor.to(device) for tensor in proposals(number, kind))
            name, arguments = "nms", (boxes, scores, THRESHOLD)
            if kind == "groups":
                name, arguments = "batched_nms", (boxes, scores, levels, THRESHOLD)
            ours = {"nms": nms, "batched_nms": batched_nms}[name]
            functions: dict[str, Callable] = {name: lambda ours=ours, given=arguments: ours(*given)}
            if peer is not None:
                functions["torchvision"] = peer.contestant(PEERS[name], *arguments)
            kept = len(functions[name]())
            yield f"{kind}, {number} boxes, {kept} kept, {device}", name, functions, None


def main() -> None:
    """Check, time, print; save on request."""
    options = harness.op_options("nms", __doc__, rounds=31)
    harness.run_cases("nms", options, cases(options.device), check)


if __name__ == "__main__":
    main()
