"""Which detections COCO's evaluation counts as right, wrong, or not at all; in csrc/host/masks.h where that is built.

The rule is that of pycocotools' COCOeval. In each picture and class the detections choose in the order of their scores:
each takes the object with which its intersection / union is largest, at least the threshold, and that is not taken. A
crowd can be taken more than once, and its union is the detection alone. An object that is a crowd, or whose area is
out of range, is ignored, and only taken where no other fits. A detection is ignored with the object that it takes, or
where it takes none and its own area is out of range.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

from airank_fast.data.host import host
from airank_fast.data.images.run_lengths import RunLengths, areas, decode

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RANGES = {"": (0, 1e10), "_small": (0, 32**2), "_medium": (32**2, 96**2), "_large": (96**2, 1e10)}  # of areas

Shapes: TypeAlias = "np.ndarray | RunLengths"
"""Boxes, float64 [n, 4], (x, y, width, height); or masks."""


class Groups(NamedTuple):
    """Rows by group, int64: those of group i are rows[offsets[i] : offsets[i + 1]]."""

    rows: np.ndarray
    offsets: np.ndarray


class Matches(NamedTuple):
    """Of each detection, in the order of its group, and each range of areas: uint16 [ranges, n], a bit a threshold."""

    matched: np.ndarray
    ignored: np.ndarray


def match(
    found: Shapes, truth: Shapes, detections: Groups, truths: Groups, truth_areas: np.ndarray, crowd: np.ndarray
) -> Matches:
    """The matches of a data set. Groups are of a class in a picture each, detections in them by falling score.

    truth_areas: float64 [m], as the annotations have them, of objects whose crowd flags are bool [m].
    """
    ranges = np.array(list(RANGES.values()), np.float64)
    if host is None:
        return _match(found, truth, detections, truths, truth_areas, crowd, ranges)
    rest = THRESHOLDS, ranges, *detections, *truths, truth_areas, crowd.astype(np.uint8)
    if isinstance(found, RunLengths) and isinstance(truth, RunLengths):
        runs = ((each.counts, each.offsets, np.ascontiguousarray(each.sizes[:, 0])) for each in (found, truth))
        return Matches(*host.match_masks(*runs, *rest))
    return Matches(*host.match_boxes(found, truth, *rest))


def _match(
    found: Shapes,
    truth: Shapes,
    detections: Groups,
    truths: Groups,
    truth_areas: np.ndarray,
    crowd: np.ndarray,
    ranges: np.ndarray,
) -> Matches:
    matches = Matches(*np.zeros((2, len(ranges), len(detections.rows)), np.uint16))
    found_areas = _areas(found)
    for group in range(len(detections.offsets) - 1):
        first, last = detections.offsets[group : group + 2]
        rows, others = detections.rows[first:last], truths.rows[slice(*truths.offsets[group : group + 2])]
        shared = _shared(found, rows, truth, others)
        own = found_areas[rows, None]
        either = np.where(crowd[others], own, own + _areas(truth)[others] - shared)
        overlaps = shared / np.where(shared > 0, either, 1)
        for number, (low, high) in enumerate(ranges):
            out = (truth_areas[others] < low) | (truth_areas[others] > high) | crowd[others]
            own_out = (own[:, 0] < low) | (own[:, 0] > high)
            for bit, threshold in enumerate(np.minimum(THRESHOLDS, 1 - 1e-10)):
                is_free = np.ones(len(others), bool)
                for row in range(len(rows)):
                    can = (is_free | crowd[others]) & (overlaps[row] >= threshold)
                    can = can & ~out if (can & ~out).any() else can
                    best = -1
                    if can.any():
                        best = int(np.flatnonzero(can & (overlaps[row] == overlaps[row][can].max()))[-1])
                        is_free[best] = False
                    matches.matched[number, first + row] |= (best >= 0) << bit
                    matches.ignored[number, first + row] |= int(out[best] if best >= 0 else own_out[row]) << bit
    return matches


def _areas(shapes: Shapes) -> np.ndarray:
    return areas(shapes).astype(np.float64) if isinstance(shapes, RunLengths) else shapes[:, 2] * shapes[:, 3]


def _shared(found: Shapes, rows: np.ndarray, truth: Shapes, others: np.ndarray) -> np.ndarray:
    """Intersections: float64 [rows, others]."""
    if isinstance(found, RunLengths) and isinstance(truth, RunLengths):
        if not len(rows) or not len(others):
            return np.zeros((len(rows), len(others)))
        masks = (np.stack([decode(each, row).ravel() for row in of]) for each, of in ((found, rows), (truth, others)))
        a, b = (each.astype(np.float64) for each in masks)
        return a @ b.T
    a, b = np.asarray(found)[rows, None], np.asarray(truth)[None, others]
    sides = np.minimum(a[..., 2:] + a[..., :2], b[..., 2:] + b[..., :2]) - np.maximum(a[..., :2], b[..., :2])
    return sides.clip(0).prod(-1)
