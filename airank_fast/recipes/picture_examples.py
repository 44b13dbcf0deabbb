"""Pictures of translations for a run's report: pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from airank_fast.data.images.domain_reader import levels
from airank_fast.job import Example

SIDE = 128  # pixels to which a smaller picture is enlarged, a whole number of times


def side_by_side(columns: Sequence[Tensor]) -> list[Example]:
    """Picture i of each column beside those of the other columns: of a column [N, 1 or 3, H, W] of -1 ... 1."""
    of_columns = []
    for pictures in columns:
        pixels = levels(pictures.detach()).cpu().permute(0, 2, 3, 1).numpy()
        of_columns.append(np.repeat(pixels, 3, 3) if pixels.shape[3] == 1 else pixels)
    return [Example(np.hstack([_enlarged(picture) for picture in row])) for row in zip(*of_columns, strict=True)]


def _enlarged(picture: np.ndarray) -> np.ndarray:
    times = max(1, SIDE // max(picture.shape[:2]))
    size = picture.shape[1] * times, picture.shape[0] * times
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST))
