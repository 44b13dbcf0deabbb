"""Pictures of detections: boxes and masks are where they belong, in the classes' colours, on the right halves."""

from __future__ import annotations

import numpy as np
import torch

from airank_fast.data.images.detection_batch import DetectionBatch, Window
from airank_fast.data.images.run_lengths import encode
from airank_fast.quality.coco_ap import Detections
from airank_fast.recipes.detection_examples import SIDE, _colour, examples


def test_found_and_true_objects_are_drawn():
    """A picture of 40 x 20 in the lower half of an image; found at its left, true at its right."""
    mask = np.zeros((1, 20, 40), bool)
    mask[0, 5:15, 2:12] = True
    boxes = np.array([[2, 5, 12, 15], [20, 0, 40, 20]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.3], np.float32), np.array([1, 0]), encode(np.repeat(mask, 2, 0)))
    polygon = torch.tensor([[60.0, 50], [70, 50], [70, 70], [60, 70]])
    batch = DetectionBatch(
        images=torch.zeros(1, 3, 80, 80),
        boxes=torch.tensor([[60.0, 50, 70, 70], [0, 40, 80, 80]]),
        labels=torch.tensor([0, 1]),
        crowd=torch.tensor([False, True]),
        points=polygon,
        polygon_offsets=torch.tensor([0, 4]),
        object_offsets=torch.tensor([0, 1, 1]),
        positions=torch.tensor([0]),
        splits=(2,),
        windows=(Window(40, 0, 40, 80),),
        sizes=((20, 40),),
        ids=(0,),
    )
    (example,) = examples([found], batch, ["cat", "dog"], (0, 0, 0), (1, 1, 1))
    left, right = example.picture[:, :SIDE].astype(int), example.picture[:, SIDE:].astype(int)
    assert left.shape == right.shape == (SIDE // 2, SIDE, 3)
    dog, cat = np.array(_colour(1)), np.array(_colour(0))
    assert np.abs(left[80, 60] - 0.45 * dog).max() <= 1  # inside the mask, 8 pixels for one
    assert (left[80, 16] == dog).all()  # the left side of the box
    assert (left[2:, 130:] == 0).all()  # a detection of 0.3 is not shown
    assert np.abs(right[100, 260] - 0.45 * cat).max() <= 1  # 4 pixels for one
    assert (right[100, 240] == cat).all()
    assert (right[0, 100] == (170, 170, 170)).all()  # the crowd's box
    assert (right[100, 120] == 0).all()
