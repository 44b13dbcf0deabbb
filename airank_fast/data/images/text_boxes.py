"""From DB's probability maps to quadrilaterals around texts: components, their rectangles, and the shrinking undone."""

from __future__ import annotations

from typing import Any

import numpy as np

from airank_fast.data.images.quadrilaterals import areas, sides, surroundings
from airank_fast.errors import UserError

NARROWEST = 3  # pixels of a component's rectangle, and 2 more once it is enlarged; thinner ones are dropped
MOST = 1000  # components of a picture
_CORNERS = np.ones((3, 3), bool)  # pixels that touch at a corner are of one component


def text_boxes(
    probabilities: np.ndarray,
    size: tuple[int, int],
    *,
    binary_threshold: float = 0.3,
    box_threshold: float = 0.7,
    unclip_ratio: float = 1.5,
) -> np.ndarray:
    """Rectangles around the texts of a picture, float32 [n, 4, 2], in the pixels of its own size (height, width).

    probabilities: float32 [H, W], of a picture that was stretched to this size. A component of pixels above the
    binary_threshold has the smallest rectangle, turned as it may be, around it. It is a text where the rectangle's mean
    probability is at least box_threshold; each side is then moved outwards by area * unclip_ratio / perimeter. Corners
    beyond the picture are moved to its border.
    """
    ndimage, shapely = packages()
    numbered, number = ndimage.label(probabilities > binary_threshold, _CORNERS)
    windows = ndimage.find_objects(numbered, min(number, MOST))
    ends = [_row_ends(numbered, window, label) for label, window in enumerate(windows, 1)]
    if not ends:
        return np.empty((0, 4, 2), np.float32)
    owners = np.repeat(np.arange(len(ends)), [len(points) for points in ends])
    lines = shapely.linestrings(np.concatenate(ends), indices=owners)
    rectangles = shapely.get_coordinates(shapely.oriented_envelope(lines)).reshape(-1, 5, 2)[:, :4]
    rectangles = rectangles[sides(rectangles).min(1) >= NARROWEST]
    means = np.array([_mean(probabilities, rectangle) for rectangle in rectangles])
    rectangles = rectangles[means >= box_threshold]
    found = _enlarged(rectangles, areas(rectangles) * unclip_ratio / np.maximum(sides(rectangles).sum(1), 1e-6))
    found = found[sides(found).min(1) >= NARROWEST + 2]
    height, width = size
    scale = np.array([width / probabilities.shape[1], height / probabilities.shape[0]])
    return (found * scale).clip(0, (width, height)).astype(np.float32)


def _row_ends(numbered: np.ndarray, window: tuple[slice, slice], label: int) -> np.ndarray:
    """The corners of the first and the last pixel of each row of a component: int64 [4 * rows, 2]."""
    mask = numbered[window] == label
    first, last = mask.argmax(1), mask.shape[1] - mask[:, ::-1].argmax(1)
    rows, columns = (np.arange(len(mask)) + window[0].start, window[1].start)
    return np.concatenate([np.stack([columns + x, rows + y], 1) for x in (first, last) for y in (0, 1)])


def _mean(probabilities: np.ndarray, rectangle: np.ndarray) -> float:
    """Of the pixels in a rectangle."""
    window, inside, _ = surroundings(rectangle, probabilities.shape)
    return float(probabilities[window][inside].mean())


def _enlarged(rectangles: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Rectangles [n, 4, 2] whose sides are moved outwards by these distances [n]."""
    along = np.roll(rectangles, -1, 1) - rectangles
    along *= (distances / np.maximum(np.linalg.norm(along, axis=-1).T, 1e-6)).T[..., None]
    return rectangles - along + np.roll(along, 1, 1)


def packages() -> tuple[Any, Any]:
    """scipy.ndimage and shapely; UserError where one is missing."""
    try:
        import shapely
        from scipy import ndimage
    except ImportError as error:
        package = str(error.name).partition(".")[0]
        raise UserError(f"text detection: must have the package {package}, got none (pip install {package})") from None
    return ndimage, shapely
