"""Quadrilaterals around text: areas, perimeters, and the distance of pixels from an outline.

Corners are (x, y) in pixels, with (0, 0) at the outer corner of the first pixel, whose centre is (0.5, 0.5).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Surroundings(NamedTuple):
    """The pixels around a quadrilateral.

    window: their rows and columns in the picture. inside: bool [h, w]. distance: of each pixel's centre from the
    outline, float32 [h, w].
    """

    window: tuple[slice, slice]
    inside: np.ndarray
    distance: np.ndarray


def areas(quads: np.ndarray) -> np.ndarray:
    """[n, 4, 2] -> [n], whatever the order of the corners around it; of one that crosses itself, a part of it."""
    x, y = quads[..., 0], quads[..., 1]
    return np.abs((x * np.roll(y, -1, -1) - y * np.roll(x, -1, -1)).sum(-1)) / 2


def sides(quads: np.ndarray) -> np.ndarray:
    """The lengths of the sides, [n, 4, 2] -> [n, 4]."""
    return np.linalg.norm(np.roll(quads, -1, -2) - quads, axis=-1)


def surroundings(quad: np.ndarray, shape: tuple[int, int], margin: float = 0.0) -> Surroundings:
    """The pixels of a picture [H, W] in the box around a quadrilateral [4, 2] that is wider by `margin` on each side.

    Where a pixel is within the margin of the outline is where the offset of the quadrilateral by it is: inwards with
    sharp corners, outwards with round ones.
    """
    low, high = np.floor(quad.min(0) - margin), np.ceil(quad.max(0) + margin)
    (left, top), (right, bottom) = (np.clip(each, 0, shape[::-1]).astype(int) for each in (low, high))
    x = np.arange(left, right, dtype=np.float32) + np.float32(0.5)
    y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5)
    inside = np.zeros((len(y), len(x)), bool)
    squared = np.full(inside.shape, np.inf, np.float32)
    for (x0, y0), (x1, y1) in zip(quad.astype(np.float32), np.roll(quad, -1, 0).astype(np.float32), strict=True):
        across, down = x1 - x0, y1 - y0
        length = max(across * across + down * down, np.float32(1e-12))
        along = (((x - x0) * across + (y - y0) * down) / length).clip(0, 1)
        np.minimum(squared, (x - x0 - along * across) ** 2 + (y - y0 - along * down) ** 2, out=squared)
        rows = np.flatnonzero((y0 > y[:, 0]) != (y1 > y[:, 0]))  # by the even-odd rule
        if len(rows):
            inside[rows] ^= x < x0 + (y[rows] - y0) * across / down
    return Surroundings((slice(top, bottom), slice(left, right)), inside, np.sqrt(squared))
