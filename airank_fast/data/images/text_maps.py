"""What DB learns of a picture: where the shrunk texts are, and the threshold near their outlines.

Liao et al., "Real-time Scene Text Detection with Differentiable Binarization", 2020, with the numbers of its published
implementation.
"""

from __future__ import annotations

import numpy as np

from airank_fast.data.images.quadrilaterals import areas, sides, surroundings

SHRINK_RATIO = 0.4
SMALLEST = 8  # pixels of a text's shorter side; smaller ones are ignored
NUM_MAPS = 4
TEXT, COUNTED, THRESHOLD, NEAR = range(NUM_MAPS)


def text_maps(quads: np.ndarray, ignored: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Maps of a picture [H, W] with the texts [n, 4, 2], of which `ignored`, bool [n], do not count: uint8 [4, H, W].

    TEXT: 1 inside a text that is shrunk by D = area * (1 - SHRINK_RATIO ** 2) / perimeter. COUNTED: 0 inside the texts
    that are ignored, too small, or too thin to be shrunk. THRESHOLD: 255 at an outline, from where it falls to 0 at the
    distance D on both sides. NEAR: 1 inside a text that is enlarged by D.
    """
    maps = np.zeros((NUM_MAPS, *shape), np.uint8)
    maps[COUNTED] = 1
    lengths = sides(quads)
    distances = areas(quads) * (1 - SHRINK_RATIO**2) / np.maximum(lengths.sum(1), 1e-6)
    heights = np.minimum(lengths[:, 0] + lengths[:, 2], lengths[:, 1] + lengths[:, 3]) / 2
    for quad, distance, is_ignored in zip(quads, distances, ignored | (heights < SMALLEST), strict=True):
        window, inside, away = surroundings(quad, shape, margin=float(distance))
        around = maps[(slice(None), *window)]
        shrunk = inside & (away >= distance)
        if is_ignored or not shrunk.any():
            around[COUNTED][inside] = 0
            continue
        around[TEXT] |= shrunk
        around[NEAR] |= inside | (away <= distance)
        levels = 255 * (1 - away / np.float32(distance)).clip(0, 1)
        np.maximum(around[THRESHOLD], levels.round().astype(np.uint8), out=around[THRESHOLD])
    return maps
