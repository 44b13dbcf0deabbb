"""Batches for YOLOv3's loss: whose objects an image has, and mixup."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from airank_fast.data.images.detection_batch import DetectionBatch, Window
from airank_fast.data.images.yolo_batches import mixup_ratios, with_shares

SPLITS = (2, 0, 1)


def batch(splits=SPLITS, dtype=torch.float32) -> DetectionBatch:
    """Image i has the level i + 1; objects are numbered through, by their labels and boxes."""
    num, objects = len(splits), sum(splits)
    images = torch.arange(1.0, num + 1).view(-1, 1, 1, 1).expand(num, 3, 4, 4).to(dtype)
    boxes = torch.arange(objects, dtype=torch.float32)[:, None] + torch.tensor([0.0, 0, 2, 2])
    empty = torch.zeros(1, dtype=torch.int64)
    return DetectionBatch(
        images=images.contiguous(memory_format=torch.channels_last),
        boxes=boxes,
        labels=torch.arange(objects),
        crowd=torch.zeros(objects, dtype=torch.bool),
        points=torch.empty(0, 2),
        polygon_offsets=empty,
        object_offsets=empty.expand(objects + 1),
        positions=torch.arange(num),
        splits=splits,
        windows=(Window(0, 0, 4, 4),) * num,
        sizes=((4, 4),) * num,
        ids=tuple(range(num)),
    )


def columns(*tensors: Tensor) -> list[list[float]]:
    return [tensor.tolist() for tensor in tensors]


def test_objects_have_the_number_of_their_image():
    found = with_shares(batch())
    assert columns(found.labels, found.pictures, found.weights) == [[0, 1, 2], [0, 0, 2], [1, 1, 1]]
    assert found.offsets.tolist() == [0, 2, 2, 3]
    assert torch.equal(found.boxes, batch().boxes)
    assert torch.equal(found.images, batch().images)
    assert found.num_samples == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neighbours_are_mixed(dtype):
    """The last one of an odd number stays as it is."""
    found = with_shares(batch(dtype=dtype), np.array([0.25, 0.5, 0.125], np.float32))
    assert found.images[:, 0, 0, 0].tolist() == [0.25 * 1 + 0.75 * 2, 0.5 * 2 + 0.5 * 1, 3]
    assert found.images.is_contiguous(memory_format=torch.channels_last)
    assert columns(found.labels, found.pictures) == [[0, 1, 0, 1, 2], [0, 0, 1, 1, 2]]
    assert found.weights.tolist() == [0.25, 0.25, 0.5, 0.5, 1]
    assert found.offsets.tolist() == [0, 2, 4, 5]
    assert found.images.dtype == dtype


def test_own_objects_come_first():
    found = with_shares(batch((1, 2)), np.array([0.25, 0.5], np.float32))
    assert columns(found.labels, found.weights) == [[0, 1, 2, 1, 2, 0], [0.25, 0.75, 0.75, 0.5, 0.5, 0.5]]


def test_a_batch_without_objects():
    found = with_shares(batch((0, 0)), np.array([0.25, 0.5], np.float32))
    assert columns(found.labels, found.weights, found.offsets) == [[], [], [0, 0, 0]]


def test_ratios_are_of_their_position_and_distribution():
    """Beta(1.5, 1.5) has a mean of 1/2, a variance of 1/16, and a kurtosis of 2."""
    ratios = mixup_ratios(1, 0, 20_000)
    assert ratios.dtype == np.float32
    assert np.array_equal(mixup_ratios(1, 700, 50), ratios[700:750])
    assert not np.array_equal(mixup_ratios(2, 700, 50), ratios[700:750])
    assert ratios.mean() == pytest.approx(0.5, abs=0.01)
    assert ratios.var() == pytest.approx(1 / 16, rel=0.03)
    assert ((ratios - 0.5) ** 4).mean() * 16**2 == pytest.approx(2, rel=0.05)
