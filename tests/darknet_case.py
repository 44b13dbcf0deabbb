"""A small YOLOv3, and what darknet computes with it: tests/cases/yolov3_darknet.npz.

Made with pjreddie/darknet, commit f6afaab, on a CPU: yolov3.cfg's layers with WIDTHS, BLOCKS and ANCHORS, for 32 x 64
pixels and 3 classes, `rand()`'s weights, statistics and picture. `save_weights` wrote the file `weights`, with 4,321
pictures seen. `logits` are the inputs of the yolo layers, `detections` those of `get_network_boxes` for a file of 50 x
200 pixels and `do_nms_sort` (threshold 0.4, IoU 0.45), as class, score, centre, width and height, relative to the file;
`deltas` are the yolo layers' for the objects `truth`, as centre, width, height and class, relative to the picture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from airank_fast.models.yolo_boxes import Grid, Truth
from airank_fast.models.yolov3 import YOLOv3
from airank_fast.recipes.darknet_weights import read_into

FILE = Path(__file__).with_name("cases") / "yolov3_darknet.npz"
WIDTHS, BLOCKS = (4, 4, 4, 4, 8, 8), (1, 1, 1, 2, 1)
ANCHORS = ((5, 6), (8, 12), (11, 7), (12, 18), (20, 14), (16, 30), (30, 24), (20, 50), (31, 60))
HEIGHT, WIDTH, NUM_CLASSES, SEEN = 64, 32, 3, 4321
GRID = Grid.of(HEIGHT, WIDTH, ANCHORS)


def case() -> dict[str, Tensor]:
    """The file's arrays; `logits` and `deltas` in the network's order, [1, cells, 8]."""
    with np.load(FILE) as file:
        found = {name: torch.from_numpy(file[name]) for name in file.files}
    return found | {name: _in_our_order(found[name]) for name in ("logits", "deltas")}


def _in_our_order(values: Tensor) -> Tensor:
    """From darknet's [anchor, output, row, column] of each level."""
    sizes = [(HEIGHT // stride, WIDTH // stride) for stride in (32, 16, 8)]
    outputs = 5 + NUM_CLASSES
    levels = values.split([3 * outputs * down * across for down, across in sizes])
    ordered = [
        level.view(3, outputs, *size).permute(2, 3, 0, 1).reshape(1, -1, outputs)
        for level, size in zip(levels, sizes, strict=True)
    ]
    return torch.cat(ordered, 1)


def truth(objects: Tensor) -> Truth:
    """The case's objects as those of one picture."""
    centre, size = objects[:, :2], objects[:, 2:4]
    boxes = torch.cat([centre - size / 2, centre + size / 2], 1) * torch.tensor([WIDTH, HEIGHT] * 2)
    num = len(objects)
    return Truth(
        boxes, objects[:, 4].long(), torch.zeros(num, dtype=torch.int64), torch.ones(num), torch.tensor([0, num])
    )


def network(folder: Path, *, fused: bool = True) -> YOLOv3:
    """The network with the file's weights, in evaluation."""
    path = folder / "tiny.weights"
    path.write_bytes(case()["weights"].numpy().tobytes())
    made = YOLOv3(NUM_CLASSES, widths=WIDTHS, blocks=BLOCKS, fused=fused)
    read_into(made, path)
    return made.eval()
