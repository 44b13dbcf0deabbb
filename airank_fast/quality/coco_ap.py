"""COCO's average precision of boxes and masks, exact over all ranks.

The values are those of pycocotools' COCOeval, within 1e-9, for at most 100 detections of a class in a picture. bench/
coco_ap.py compares the time with pycocotools' and faster-coco-eval's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from airank_fast.data.images.coco import Coco
from airank_fast.data.images.run_lengths import RunLengths, concatenate
from airank_fast.errors import require
from airank_fast.quality.coco_match import RANGES, THRESHOLDS, Groups, Matches, Shapes, match
from airank_fast.quality.records import Column, Records

MOST = 100  # detections of a class in a picture that count, those of the highest scores
RECALLS = np.linspace(0, 1, 101)  # at which precision is taken
_AT = {"50": 0, "75": 5}  # of THRESHOLDS


class Detections(NamedTuple):
    """What is found in a picture, on the host. boxes: float32 [k, 4], (x1, y1, x2, y2) in pixels of the picture's file.

    scores: float32 [k]; labels: int64 [k], classes from 0 on; masks: of the picture's size (`paste_masks`), or None.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    masks: RunLengths | None = None


class Truth(NamedTuple):
    """The m objects of an evaluation set of num_pictures pictures, in the order of their file.

    pictures: int64 [m], numbers from 0 on; boxes: float64 [m, 4], (x, y, width, height); labels: int64 [m]; areas:
    float64 [m], as annotated; crowd: bool [m]; masks: or None, where only boxes are evaluated.
    """

    num_pictures: int
    pictures: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    masks: RunLengths | None = None


def truth_of(coco: Coco, *, masks: bool) -> Truth:
    """The objects of a data set, with their masks where they are evaluated, which each of them must have."""
    drawn = coco.masks() if masks else None
    return Truth(len(coco), coco.pictures, coco.boxes, coco.labels, coco.areas, coco.crowd, drawn)


class CocoAP(Records):
    """box_ap, box_ap50, box_ap75, box_ap_small, box_ap_medium, box_ap_large; and mask_ap ... where truth has masks.

    Outputs: of each picture its `Detections`; the batch has `ids`, the numbers of its pictures. A picture's detections
    on equal scores count in their order, and pictures in that of their numbers. The AP of a size that no object has is
    left out.
    """

    def __init__(self, truth: Truth) -> None:
        super().__init__()
        self._truth = truth

    def record(self, outputs: Sequence[Detections], batch: Any) -> tuple[torch.Tensor, dict[str, Column]]:
        """The pictures' numbers, and their detections."""
        return torch.tensor(batch.ids), {"pictures": torch.tensor(batch.ids), "found": list(outputs)}

    def compute(self, columns: dict[str, np.ndarray]) -> dict[str, float]:
        """UserError where pictures of the set were not evaluated, or no object counts."""
        truth, pictures, found = self._truth, columns["pictures"], list(columns["found"])
        require(
            len(pictures) == truth.num_pictures, "evaluation", f"of all {truth.num_pictures} pictures", len(pictures)
        )
        require((~truth.crowd).any(), "evaluation set", "one with an object that counts", "none")
        scores, labels = (np.concatenate([each[column] for each in found]) for column in (1, 2))
        corners = np.concatenate([each.boxes for each in found]).astype(np.float64)
        pictures = np.repeat(pictures, [len(each.scores) for each in found])
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
        values = _values("box", truth, truth.boxes, pictures, labels, scores, boxes)
        if truth.masks is not None:
            masks = [each.masks for each in found if each.masks is not None]
            assert len(masks) == len(found), "each detection must have a mask"
            values |= _values("mask", truth, truth.masks, pictures, labels, scores, concatenate(masks))
        return values


def _values(
    kind: str,
    truth: Truth,
    shapes: Shapes,
    pictures: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    found: Shapes,
) -> dict[str, float]:
    """The metrics of one kind of shapes, from detections [n] in the order of their pictures."""
    require(np.isfinite(scores).all(), "detections", "of finite scores", "others")
    keys = labels.astype(np.int64) * truth.num_pictures + pictures
    order = np.lexsort((-scores, keys))
    first = np.searchsorted(keys[order], keys[order])
    order = order[np.arange(len(order)) - first < MOST]
    truth_keys = truth.labels * truth.num_pictures + truth.pictures
    truth_order = np.argsort(truth_keys, kind="stable")
    groups = np.unique(np.concatenate([keys, truth_keys]))
    detections = Groups(order, _offsets(keys[order], groups))
    truths = Groups(truth_order, _offsets(truth_keys[truth_order], groups))
    matches = match(found, shapes, detections, truths, truth.areas, truth.crowd)

    precision: dict[str, list[np.ndarray]] = {name: [] for name in RANGES}
    by_score = np.lexsort((-scores[order], labels[order]))  # stable: pictures in their order
    for label in np.unique(truth.labels):
        its = truth.areas[(truth.labels == label) & ~truth.crowd]
        rows = by_score[slice(*np.searchsorted(labels[order][by_score], [label, label + 1]))]
        for number, (name, (low, high)) in enumerate(RANGES.items()):
            if num := int(((its >= low) & (its <= high)).sum()):
                precision[name].append(_precision(Matches(*(each[number, rows] for each in matches)), num))
    values = {}
    for name, curves in precision.items():
        if not curves:
            continue
        values[f"{kind}_ap{name}"] = float(np.mean(curves))
        if not name:
            values |= {f"{kind}_ap{at}": float(np.mean(curves, (0, 2))[number]) for at, number in _AT.items()}
    return values


def _offsets(keys: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return np.append(np.searchsorted(keys, groups), len(keys))


def _precision(matches: Matches, num_truths: int) -> np.ndarray:
    """Precision at RECALLS, float64 [thresholds, 101], of a class's detections by falling score."""
    matched, ignored = (each >> np.arange(len(THRESHOLDS))[:, None] & 1 == 1 for each in matches)
    right, wrong = ((each & ~ignored).cumsum(1).astype(np.float64) for each in (matched, ~matched))
    recall, precision = right / num_truths, right / (right + wrong + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    padded = np.pad(precision, ((0, 0), (0, 1)))  # 0 where the recall is not reached
    return np.stack([row[np.searchsorted(its, RECALLS)] for row, its in zip(padded, recall, strict=True)])
