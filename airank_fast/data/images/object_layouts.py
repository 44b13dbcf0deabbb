"""Where pictures with boxes lie in the images of a batch: scaled with padding, or stretched, after random windows.

    layout = Scaled(shorter=800, longer=1333)        # Mask R-CNN
    layout = Stretched(size_of=lambda step: 416)     # YOLOv3
    placed = layout.place((480, 640), boxes, draws, step=0)
    placed.draw(picture, image); placed.boxes(boxes)

The draws of a picture are its row of `sampling.draws`; None: evaluation, without random windows and mirrors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from airank_fast.data.images.detection_batch import Window
from airank_fast.data.images.resize import resize_into
from airank_fast.data.sampling import Purpose, flip_draws, philox, spare_draws

_OVERLAPS = (None, 0.0, 0.1, 0.3, 0.5, 0.7, 0.9)  # of a random window with an object; None: the whole picture
_TRIALS = 50  # of a random window
_SMALLEST, _LONGEST = 0.3, 2.0  # sides of a random window relative to the picture's, and their ratio


@dataclass(frozen=True)
class Placed:
    """A window of a picture, and the window of an image over which it is drawn; mirrored: in `mirror` columns, or 0."""

    source: Window
    target: Window
    mirror: int = 0

    @property
    def window(self) -> Window:
        """Where the picture's window lies in the image, after mirroring."""
        target = self.target
        left = self.mirror - target.left - target.width if self.mirror else target.left
        return Window(target.top, left, target.height, target.width)

    def draw(self, picture: np.ndarray, image: np.ndarray) -> None:
        """Scale the window of a picture, uint8 [H, W, 3], antialiased, into an image, uint8 [h, w, 3]."""
        (top, left, height, width), (y, x, to_height, to_width) = self.source, self.window
        if min(height, width, to_height, to_width) > 0:
            window = np.array(picture[top : top + height, left : left + width])
            resize_into(image[y : y + to_height, x : x + to_width], window, mirrored=self.mirror > 0)

    def points(self, points: np.ndarray) -> np.ndarray:
        """Points (x, y) of the picture, [..., 2], in the image: float64."""
        source, target = self.source, self.target
        scale = target.width / max(1, source.width), target.height / max(1, source.height)
        moved = (points - [source.left, source.top]) * scale + [target.left, target.top]
        if self.mirror:
            moved[..., 0] = self.mirror - moved[..., 0]
        return moved

    def boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (x1, y1, x2, y2) of the picture, [n, 4], in the image, not cut: float64."""
        corners = self.points(boxes.reshape(-1, 2, 2))
        return np.concatenate([corners.min(1), corners.max(1)], 1)


class Layout(Protocol):
    """How pictures are placed in the images of a batch."""

    def place(self, size: tuple[int, int], boxes: np.ndarray, draws: np.ndarray | None, step: int) -> Placed:
        """The place of a picture of this size (height, width) with boxes float64 [n, 4], (x1, y1, x2, y2)."""

    def shape(self, placed: list[Placed], step: int) -> tuple[int, int]:
        """(height, width) of the images of a batch."""

    def recolour(self, image: np.ndarray, draws: np.ndarray) -> None:
        """Change the colours of a training image, uint8 [h, w, 3], in place."""


class Scaled(NamedTuple):
    """Pictures are scaled, their ratio kept, until the shorter side has `shorter` pixels, or the longer one `longer`.

    As torchvision's GeneralizedRCNNTransform. The images of a batch are as large as its largest picture, up to a
    `multiple`; pictures are at the top left. flip: half of those to train on are mirrored.
    """

    shorter: int
    longer: int
    multiple: int = 32
    flip: bool = True

    def place(self, size: tuple[int, int], boxes: np.ndarray, draws: np.ndarray | None, step: int) -> Placed:
        """See Layout."""
        scale = min(self.shorter / min(size), self.longer / max(size))
        height, width = (max(1, int(side * scale)) for side in size)
        mirrored = draws is not None and self.flip and bool(flip_draws(draws[None])[0])
        return Placed(Window(0, 0, *size), Window(0, 0, height, width), width if mirrored else 0)

    def shape(self, placed: list[Placed], step: int) -> tuple[int, int]:
        """See Layout."""
        height, width = (max(getattr(each.target, side) for each in placed) for side in ("height", "width"))
        return -(-height // self.multiple) * self.multiple, -(-width // self.multiple) * self.multiple

    def recolour(self, image: np.ndarray, draws: np.ndarray) -> None:
        """Colours stay."""


class Colours(NamedTuple):
    """Random changes of colours, each with probability one half: the defaults are GluonCV's.

    brightness: up to so many of 255 levels are added; contrast, saturation: a factor of 1 - c to 1 + c; hue: turned by
    up to so many degrees.
    """

    brightness: float = 32.0
    contrast: float = 0.5
    saturation: float = 0.5
    hue: float = 18.0


class Stretched(NamedTuple):
    """Pictures are stretched to square images of size_of(step) pixels, or scaled with padding around (letterbox).

    To train on, a random window of each is taken: jitter > 0: its sides are moved by up to so much of the picture's,
    either way, as in darknet. expand > 1: half of the pictures are put at random into one of up to so many times their
    sides; crop: then one of seven windows is taken, the whole one, or one of 0.3 to 1 of its sides that overlaps an
    object by at least 0, 0.1, 0.3, 0.5, 0.7 or 0.9, intersection / union, as in SSD. flip: half are mirrored.
    """

    size_of: Callable[[int], int]
    letterbox: bool = False
    flip: bool = True
    jitter: float = 0.0
    expand: float = 1.0
    crop: bool = False
    colours: Colours | None = None

    def place(self, size: tuple[int, int], boxes: np.ndarray, draws: np.ndarray | None, step: int) -> Placed:
        """See Layout."""
        side = self.size_of(step)
        whole = np.array([0.0, 0.0, size[1], size[0]])
        window = whole if draws is None else np.round(self._window(whole, boxes, draws))
        extent = np.maximum(window[2:] - window[:2], 1)
        scale = side / extent
        if self.letterbox:
            scale[:] = scale.min()
        start = (side - extent * scale) / 2  # of the window in the image
        low, high = np.maximum(window[:2], 0), np.minimum(window[:2] + extent, whole[2:])
        first, last = (np.round((corner - window[:2]) * scale + start).clip(0, side) for corner in (low, high))
        mirrored = draws is not None and self.flip and bool(flip_draws(draws[None])[0])
        return Placed(_between(low, high), _between(first, last), side if mirrored else 0)

    def shape(self, placed: list[Placed], step: int) -> tuple[int, int]:
        """See Layout."""
        return self.size_of(step), self.size_of(step)

    def recolour(self, image: np.ndarray, draws: np.ndarray) -> None:
        """See Colours: one matrix and one shift of the colours."""
        if self.colours is None:
            return
        matrix, shift = _colour_change(self.colours, _uniforms(draws, 1))
        image[:] = (image.astype(np.float32) @ matrix.T + shift).clip(0, 255).round()

    def _window(self, whole: np.ndarray, boxes: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """The window, (x1, y1, x2, y2), which may reach beyond the picture."""
        uniforms = _uniforms(draws, 0)
        if self.jitter:
            moved = np.array([2 * next(uniforms) - 1 for _ in range(4)])
            return whole + self.jitter * moved * np.tile(whole[2:], 2)
        window = whole
        if self.expand > 1 and next(uniforms) < 0.5:
            ratio = 1 + next(uniforms) * (self.expand - 1)
            start = -np.array([next(uniforms), next(uniforms)]) * (ratio - 1) * whole[2:]
            window = np.concatenate([start, start + ratio * whole[2:]])
        return _cropped(window, boxes, uniforms) if self.crop else window


def _uniforms(draws: np.ndarray, number: int) -> Iterator[float]:
    """Further uniforms in [0, 1) of a picture, without end, of one of several streams."""
    words = philox(int(spare_draws(draws[None])[0] * 2.0**53), Purpose.COLOURS, (0, number))
    while True:
        yield from ((words.random_raw(64) >> np.uint64(11)) * 2.0**-53).tolist()


def _cropped(whole: np.ndarray, boxes: np.ndarray, uniforms: Iterator[float]) -> np.ndarray:
    """A window of a window; see Stretched. It has the centre of an object, unless there is none."""
    overlap = _OVERLAPS[int(next(uniforms) * len(_OVERLAPS))]
    if overlap is None:
        return whole
    extent = whole[2:] - whole[:2]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    for _ in range(_TRIALS):
        scale = _SMALLEST + next(uniforms) * (1 - _SMALLEST)
        limit = min(_LONGEST, 1 / scale**2)
        ratio = limit ** (2 * next(uniforms) - 1)
        sides = extent * scale * np.array([ratio**0.5, ratio**-0.5])
        start = whole[:2] + np.array([next(uniforms), next(uniforms)]) * (extent - sides)
        window = np.concatenate([start, start + sides])
        if not len(boxes):
            return window
        has = ((centres >= window[:2]) & (centres < window[2:])).all(1)
        if has.any() and _overlaps(window, boxes).max() >= overlap:
            return window
    return whole


def _overlaps(window: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection / union of a window with boxes [n, 4]."""
    sides = np.minimum(window[2:], boxes[:, 2:]) - np.maximum(window[:2], boxes[:, :2])
    shared = sides.clip(0).prod(1)
    return shared / ((window[2:] - window[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - shared)


def _between(low: np.ndarray, high: np.ndarray) -> Window:
    """From corner to corner, (x, y), in whole pixels."""
    (left, top), (width, height) = low.astype(int).tolist(), np.maximum(high - low, 0).astype(int).tolist()
    return Window(top, left, height, width)


_GREY = np.array([0.299, 0.587, 0.114])  # of red, green and blue
_YIQ = np.array([_GREY, [0.596, -0.274, -0.321], [0.211, -0.523, 0.311]])


def _colour_change(colours: Colours, uniforms: Iterator[float]) -> tuple[np.ndarray, np.ndarray]:
    """(matrix float32 [3, 3], shift float32) of red, green and blue."""

    def change(most: float) -> float:
        return (2 * next(uniforms) - 1) * most if next(uniforms) < 0.5 else 0.0

    shift, contrast = change(colours.brightness), 1 + change(colours.contrast)
    saturation, angle = 1 + change(colours.saturation), np.radians(change(colours.hue))
    matrix = saturation * np.eye(3) + (1 - saturation) * np.tile(_GREY, (3, 1))
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    matrix = np.linalg.inv(_YIQ) @ turn @ _YIQ @ matrix
    return (contrast * matrix).astype(np.float32), np.float32(shift * contrast) * np.ones(3, np.float32)
