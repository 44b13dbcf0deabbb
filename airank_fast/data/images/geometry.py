"""Crops of a picture that is scaled, turned or mirrored: one description for the picture and what belongs to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from airank_fast.data.images.resize import resize_into


@dataclass(frozen=True)
class ScaledCrop:
    """A window of a picture and the size that it is scaled to.

    top, left, height, width: of the window, in the picture's pixels. to_height, to_width: its size in the crop, whose
    top left corner it fills; the rest is padding. mirrored: left to right.
    """

    top: int
    left: int
    height: int
    width: int
    to_height: int
    to_width: int
    mirrored: bool = False

    @property
    def bottom(self) -> int:
        """The row of the picture behind the window's last."""
        return self.top + self.height

    def draw(self, picture: np.ndarray, out: np.ndarray) -> None:
        """Scale the window of a picture, uint8 [H, W, c], antialiased, into a crop, uint8 [h, w, c]."""
        window = np.array(picture[self.top : self.bottom, self.left : self.left + self.width])
        resize_into(out[: self.to_height, : self.to_width], window, self.mirrored)

    def draw_nearest(self, labels: np.ndarray, out: np.ndarray) -> None:
        """Scale the window of a label image [H, W] into a crop [h, w], each pixel by the nearest one."""
        rows = self.top + _nearest(self.height, self.to_height)
        columns = self.left + _nearest(self.width, self.to_width)
        out[: self.to_height, : self.to_width] = labels[rows[:, None], columns[:: -1 if self.mirrored else 1]]


def scaled_crop(
    size: tuple[int, int], crop: tuple[int, int], scale: float, offset: np.ndarray, mirrored: bool
) -> ScaledCrop:
    """The crop (height, width) of a picture of this size (height, width) that is scaled by `scale`.

    offset: (y, x) in [0, 1), the place in the range that it can move in. A side that stays smaller than the crop's is
    taken whole.
    """
    window, to = [], []
    for side, wanted in zip(size, crop, strict=True):
        span = min(side, max(1, round(wanted / scale)))
        window.append(span)
        to.append(wanted if span < side else min(wanted, max(1, round(side * scale))))
    top, left = (int(o * (side - span + 1)) for o, side, span in zip(offset, size, window, strict=True))
    return ScaledCrop(top, left, window[0], window[1], to[0], to[1], mirrored)


def _nearest(span: int, to: int) -> np.ndarray:
    """For each of `to` pixels that of `span` pixels whose middle is nearest: int64 [to]."""
    return (2 * np.arange(to) + 1) * span // (2 * to)


@dataclass(frozen=True, eq=False)
class TurnedCrop:
    """A crop of a picture that is scaled, turned, and perhaps mirrored: (x, y) goes to matrix @ (x, y) + shift.

    matrix: float64 [2, 2]; shift: float64 [2]; scale: of the matrix, without its rotation.
    """

    matrix: np.ndarray
    shift: np.ndarray
    scale: float

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points of the picture, (x, y) in [..., 2], in the crop."""
        return points @ self.matrix.T + self.shift

    def moved(self, shift: np.ndarray) -> TurnedCrop:
        """The crop whose first pixel is at `shift`, (x, y), of this one."""
        return TurnedCrop(self.matrix, self.shift - shift, self.scale)

    def draw(self, picture: np.ndarray, out: np.ndarray) -> None:
        """Draw a picture, uint8 [H, W, 3], into the crop, uint8 [h, w, 3], which stays as it is beside the picture.

        The part that shows is scaled with antialiasing, then turned by bilinear interpolation.
        """
        inverse = np.linalg.inv(self.matrix)
        height, width = out.shape[:2]
        corners = (np.array([[0, 0], [width, 0], [width, height], [0, height]]) - self.shift) @ inverse.T
        limits = picture.shape[1::-1]
        low = np.clip(np.floor(corners.min(0)) - 2, 0, limits).astype(int)
        high = np.clip(np.ceil(corners.max(0)) + 2, 0, limits).astype(int)
        if (high <= low).any():
            return
        window = np.array(picture[low[1] : high[1], low[0] : high[0]])
        to = np.maximum(1, np.round((high - low) * self.scale)).astype(int)
        scaled = np.empty((to[1], to[0], 3), np.uint8)
        resize_into(scaled, window, mirrored=False)
        ratio = to / (high - low)
        turn, start = ratio[:, None] * inverse, ratio * (-self.shift @ inverse.T - low)
        rows = np.concatenate([turn, start[:, None]], 1).ravel().tolist()
        image = Image.fromarray(scaled)
        drawn = image.transform((width, height), Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR)
        shown = Image.new("L", image.size, 255).transform((width, height), Image.Transform.AFFINE, rows)
        np.copyto(out, np.asarray(drawn), where=np.asarray(shown)[:, :, None] > 0)


def turned_crop(size: tuple[int, int], scale: float, degrees: float, mirrored: bool) -> TurnedCrop:
    """A picture of this size (height, width), mirrored or not, scaled and turned clockwise, its centre at (0, 0)."""
    radians = math.radians(degrees)
    cos, sin = scale * math.cos(radians), scale * math.sin(radians)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    return TurnedCrop(matrix, -matrix @ np.array(size[::-1]) / 2, scale)
