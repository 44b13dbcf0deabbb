"""YOLOv3's boxes: darknet's gradients and detections, the loss by its definition, limits of detections."""

from __future__ import annotations

import math

import pytest
import torch
from darknet_case import ANCHORS, GRID, HEIGHT, NUM_CLASSES, WIDTH, case, truth
from torch import Tensor

from airank_fast.models.yolo_boxes import Grid, Truth, detect, yolo_loss


def test_the_gradient_is_darknets_delta():
    """With objects that share a prediction, and predictions near objects that they do not have to find."""
    expected = case()
    logits = expected["logits"].clone().requires_grad_()
    yolo_loss(logits, GRID, truth(expected["truth"])).backward()
    torch.testing.assert_close(-logits.grad, expected["deltas"], rtol=1e-4, atol=1e-5)
    without = expected["deltas"][..., 4] == 0
    assert 0 < without.sum() < without.numel() / 2
    shared = GRID.assign(truth(expected["truth"]).boxes)[0]
    assert len(shared.unique()) < len(shared)


def test_detections_are_darknets():
    """Of a letterboxed file of 50 x 200 pixels: relative to its 16 x 64 pixels in the image, at (8, 0)."""
    expected = case()
    (found,) = detect(expected["logits"], GRID, score_threshold=0.4, most=1000)
    centre, size = expected["detections"][:, 2:4], expected["detections"][:, 4:]
    corners = torch.cat([centre - size / 2, centre + size / 2], 1)
    best_first = expected["detections"][:, 1].argsort(descending=True)
    assert len(best_first) >= 10
    torch.testing.assert_close(found.scores, expected["detections"][best_first, 1])
    assert found.labels.tolist() == expected["detections"][best_first, 0].tolist()
    relative = (found.boxes - torch.tensor([8.0, 0, 8, 0])) / torch.tensor([16.0, 64, 16, 64])
    torch.testing.assert_close(relative, corners[best_first], rtol=1e-4, atol=1e-5)


def iou(one: list[float], other: list[float]) -> float:
    across, down = (min(one[k + 2], other[k + 2]) - max(one[k], other[k]) for k in (0, 1))
    shared = max(0, across) * max(0, down)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def cross_entropy(logit: float, goal: float) -> float:
    return max(logit, 0) - logit * goal + math.log1p(math.exp(-abs(logit)))


def by_definition(logits: list[list[float]], objects: list[tuple], smoothing: float) -> float:
    """The loss of one picture of WIDTH x HEIGHT pixels, prediction by prediction. objects: (box, label, weight)."""
    places = [
        (stride, column, row, ANCHORS[number])
        for stride, numbers in ((32, (6, 7, 8)), (16, (3, 4, 5)), (8, (0, 1, 2)))
        for row in range(HEIGHT // stride)
        for column in range(WIDTH // stride)
        for number in numbers
    ]
    owners: dict[int, list[int]] = {}
    for which, (box, _, _) in enumerate(objects):
        width, height = box[2] - box[0], box[3] - box[1]
        best = max(ANCHORS, key=lambda anchor: iou([0, 0, width, height], [0, 0, *anchor]))
        stride = (8, 16, 32)[ANCHORS.index(best) // 3]
        cell = min(int((box[0] + box[2]) / 2 / stride), WIDTH // stride - 1), int((box[1] + box[3]) / 2 / stride)
        owners.setdefault(places.index((stride, *cell, best)), []).append(which)
    total = 0.0
    for number, ((stride, column, row, anchor), found) in enumerate(zip(places, logits, strict=True)):
        x, y = (stride * (cell + 1 / (1 + math.exp(-logit))) for cell, logit in zip((column, row), found, strict=False))
        width, height = (side * math.exp(logit) for side, logit in zip(anchor, found[2:4], strict=True))
        if number not in owners:
            box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
            if max((iou(box, other) for other, _, _ in objects), default=0) <= 0.7:
                total += cross_entropy(found[4], 0)
            continue
        labels = {objects[which][1] for which in owners[number]}
        box, _, weight = objects[owners[number][-1]]
        size = box[2] - box[0], box[3] - box[1]
        goals = (box[0] + box[2]) / 2 / stride - column, (box[1] + box[3]) / 2 / stride - row
        place = sum(cross_entropy(logit, goal) for logit, goal in zip(found, goals, strict=False))
        shape = sum((logit - math.log(s / a)) ** 2 for logit, s, a in zip(found[2:4], size, anchor, strict=True)) / 2
        classes = sum(
            cross_entropy(found[5 + k], 1 - smoothing if k in labels else smoothing) for k in range(NUM_CLASSES)
        )
        scale = 2 - size[0] * size[1] / WIDTH / HEIGHT
        total += weight * (scale * (place + shape) + cross_entropy(found[4], 1) + classes)
    return total


PICTURES = [
    [([2, 3, 13, 20], 0, 1.0), ([2, 3, 14, 21], 2, 0.25), ([4, 30, 31, 63], 1, 0.75)],
    [],
    [([20, 40, 32, 56], 2, 0.5), ([28, 10, 36, 16], 0, 1.0)],  # the last one's centre is on the border
]


def packed(pictures: list[list[tuple]]) -> Truth:
    objects = [each for picture in pictures for each in picture]
    counts = torch.tensor([len(picture) for picture in pictures])
    boxes, labels, weights = zip(*objects, strict=True)
    numbers = torch.arange(len(pictures)).repeat_interleave(counts)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    return Truth(
        torch.tensor(boxes, dtype=torch.float32), torch.tensor(labels), numbers, torch.tensor(weights), offsets
    )


def logits_for(num: int) -> Tensor:
    return 1.5 * torch.randn(num, len(GRID.corner), 5 + NUM_CLASSES, generator=torch.Generator().manual_seed(3))


def test_the_loss_by_its_definition():
    """Pictures alone and together, one without objects; weights, label smoothing; 16 bits."""
    logits = logits_for(3)
    each = [by_definition(*both, 0.1) for both in zip(logits.tolist(), PICTURES, strict=True)]
    loss = yolo_loss(logits, GRID, packed(PICTURES), label_smoothing=0.1)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(sum(each) / 3, rel=1e-5)
    alone = yolo_loss(logits[2:], GRID, packed(PICTURES[2:]), label_smoothing=0.1)
    assert alone.item() == pytest.approx(each[2], rel=1e-5)
    assert yolo_loss(logits.bfloat16(), GRID, packed(PICTURES)).item() == pytest.approx(loss.item(), rel=0.05)


def test_no_objects_and_extreme_logits_have_finite_gradients():
    nothing = torch.empty(0, dtype=torch.int64)
    empty = Truth(torch.empty(0, 4), nothing, nothing, torch.empty(0), torch.zeros(2, dtype=torch.int64))
    for objects, logits in ((empty, logits_for(1)), (packed(PICTURES[:1]), torch.full_like(logits_for(1), 100.0))):
        logits.requires_grad_()
        loss = yolo_loss(logits, GRID, objects)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()
    assert yolo_loss(logits_for(1), GRID, empty).item() == pytest.approx(
        by_definition(logits_for(1)[0].tolist(), [], 0)
    )


def one_detection(cell: int, label: int, score: float, shift: float = 0.0) -> Tensor:
    """Logits [1, cells, 8] that find one object."""
    logits = torch.full((1, len(GRID.corner), 5 + NUM_CLASSES), -20.0)
    logits[..., :4] = 0
    logits[0, cell, 0] = shift
    logits[0, cell, 4] = 20
    logits[0, cell, 5 + label] = math.log(score / (1 - score))
    return logits


def test_limits_of_detections():
    """Of two pictures; boxes that overlap suppress one another in their own picture and class alone."""
    two_classes = one_detection(0, 1, 0.9).maximum(one_detection(0, 2, 0.3))
    same_class = one_detection(1, 1, 0.9).maximum(one_detection(2, 1, 0.8))
    other_place = one_detection(0, 1, 0.9).maximum(one_detection(3, 1, 0.8))
    found = detect(torch.cat([two_classes, one_detection(0, 1, 0.4), same_class, other_place]), GRID)
    assert [each.labels.tolist() for each in found] == [[1, 2], [1], [1], [1, 1]]
    torch.testing.assert_close(found[0].scores, torch.tensor([0.9, 0.3]))
    torch.testing.assert_close(found[1].boxes, torch.tensor([[1.0, 4.0, 31.0, 28.0]]))
    assert [len(each.labels) for each in detect(two_classes, GRID, score_threshold=0.3001)] == [1]
    assert [len(each.labels) for each in detect(two_classes, GRID, most=1)] == [1]
    assert [len(each.labels) for each in detect(two_classes, GRID, candidates=1)] == [1]
    assert [len(each.labels) for each in detect(same_class, GRID, nms_iou=0.99)] == [2]
    assert [len(each.labels) for each in detect(torch.full_like(two_classes, -20.0), GRID)] == [0]


def test_a_grid_of_another_size_has_its_own_places():
    """The predictions of the cells of stride 16 come behind those of 32, and before those of 8."""
    grid = Grid.of(64, 96)
    assert [len(each) for each in (grid.corner, grid.anchors)] == [3 * (6 + 24 + 96), 9]
    number = 3 * 6 + 3 * (2 * 6 + 5) + 1
    assert grid.corner[number].tolist() == [80, 32]
    assert (grid.stride[number].item(), grid.anchor[number].tolist()) == (16, [62, 45])
    box = torch.tensor([[85.0 - 31, 40.0 - 22, 85 + 31, 40 + 22]])
    assert grid.assign(box)[0].tolist() == [number]
