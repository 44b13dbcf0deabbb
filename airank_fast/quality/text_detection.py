"""Detected texts by the protocol of ICDAR 2015: matches of quadrilaterals, and quadrilaterals that do not count."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from airank_fast.errors import UserError, require
from airank_fast.quality.sums import Sums

OVERLAP = 0.5  # of areas, intersection / union; a match has more
COVERED = 0.5  # of a detection, by a text that is ignored; a detection of more does not count


class TextDetection(Sums):
    """h_mean, precision and recall over the set and all ranks, in integers, as ICDAR 2015's script for task 4.1.

    Outputs: of each picture its detections, [n, 4, 2]. The batch has `truth` with `quads`, of each picture [m, 4, 2],
    and `ignored`, bool [m]. precision is matches / detections, recall matches / texts, h_mean their harmonic mean; a
    mean over pictures is another number. Texts that are ignored do not count, nor do detections that they cover by
    more than half.
    """

    def __init__(self) -> None:
        super().__init__(3)

    def amounts(self, outputs: Any, batch: Any) -> Tensor:
        """Matches, detections and texts that count, int64 [3], of a batch."""
        truth = batch.truth
        found = [match(*picture) for picture in zip(outputs, truth.quads, truth.ignored, strict=True)]
        return torch.tensor(found, dtype=torch.int64, device=batch.images.device).sum(0)

    def compute(self, total: Tensor) -> dict[str, float]:
        """UserError where no text counts."""
        matches, detections, texts = total.tolist()
        require(texts, "evaluation set", "one with a text that counts", "none")
        precision, recall = matches / max(1, detections), matches / texts
        h_mean = 2 * matches / (detections + texts)
        return {"h_mean": h_mean, "precision": precision, "recall": recall}


def match(detections: np.ndarray, quads: np.ndarray, ignored: np.ndarray) -> tuple[int, int, int]:
    """(matches, detections that count, texts that count) of a picture; see `TextDetection`.

    detections: [n, 4, 2]; quads: [m, 4, 2]; ignored: bool [m]. Each text in turn takes the first detection that is not
    taken and overlaps it enough, as the published script does. Quadrilaterals that cross themselves are left out.
    """
    shapely = _shapely()
    found, texts = (shapely.polygons(np.asarray(each, np.float64).reshape(-1, 4, 2)) for each in (detections, quads))
    ignored = np.asarray(ignored, bool)[shapely.is_valid(texts)]
    found, texts = (each[shapely.is_valid(each)] for each in (found, texts))
    shared = shapely.area(shapely.intersection(texts[:, None], found[None]))
    areas = shapely.area(found)
    counts = ~(shared[ignored] > COVERED * areas).any(0)
    overlap = shared / np.maximum(shapely.area(texts)[:, None] + areas - shared, 1e-9)
    is_free, matches = counts.copy(), 0
    for row in overlap[~ignored]:
        fits = np.flatnonzero((row > OVERLAP) & is_free)
        if len(fits):
            is_free[fits[0]] = False
            matches += 1
    return matches, int(counts.sum()), int((~ignored).sum())


def _shapely() -> Any:
    try:
        import shapely
    except ImportError:
        raise UserError("text detection: must have the package shapely, got none (pip install shapely)") from None
    return shapely
