"""Pictures of translations for a report."""

from __future__ import annotations

import numpy as np
import torch

from airank_fast.recipes.picture_examples import side_by_side


def test_pictures_are_side_by_side_and_small_ones_enlarged():
    levels = torch.randint(256, (2, 3, 40, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    grey = torch.full((2, 1, 40, 30), -1.0)
    examples = side_by_side([levels / 127.5 - 1, grey, grey + 2])
    assert [(example.picture.shape, example.picture.dtype) for example in examples] == [((120, 270, 3), np.uint8)] * 2
    first = examples[1].picture
    assert np.array_equal(first[1::3, 1:90:3], levels[1].permute(1, 2, 0).numpy())
    assert (first[:, 90:180] == 0).all()
    assert (first[:, 180:] == 255).all()


def test_large_pictures_stay_as_they_are():
    large = torch.zeros(1, 3, 200, 256)
    (example,) = side_by_side([large, large, large])
    assert example.picture.shape == (200, 768, 3)
