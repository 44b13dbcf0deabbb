"""A crop of a picture that is scaled, and perhaps mirrored: one description for the picture and what belongs to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

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
