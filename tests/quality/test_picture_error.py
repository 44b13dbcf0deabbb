"""The mean absolute error of made pictures: its definition, over any batches and ranks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ranks import OneOfTwo

from airank_fast.data.images import fashion
from airank_fast.engine.distributed import World
from airank_fast.errors import UserError
from airank_fast.quality.picture_error import PictureError
from airank_fast.quality.several import Several
from airank_fast.recipes.pix2pix_options import RECIPES
from airank_fast.tasks.pix2pix import TASK

ALONE = World(0, 1, 0, 1, torch.device("cpu"))


def pictures(seed, number=6, channels=3):
    """Grey levels, uint8 [N, C, 5, 4]."""
    return torch.randint(
        256, (number, channels, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def scaled(levels):
    return levels / 127.5 - 1


def error_of(made, true, parts, world=ALONE):
    meter = PictureError()
    for part in parts:
        meter.update(scaled(made[part]), SimpleNamespace(b=scaled(true[part])))
    return meter.values(world)["l1"]


@pytest.mark.parametrize("parts", [[slice(0, 6)], [slice(2, 6), slice(0, 1), slice(1, 2)]])
def test_it_is_the_mean_over_all_pixels_of_any_batches(parts):
    made, true = pictures(0), pictures(1)
    expected = (made.double() - true.double()).abs().mean().item() / 255
    assert error_of(made, true, parts) == pytest.approx(expected, abs=1e-15)


def test_black_for_white_is_one_and_equal_pictures_have_none():
    white, black = torch.full((2, 1, 5, 4), 255, dtype=torch.uint8), torch.zeros(2, 1, 5, 4, dtype=torch.uint8)
    assert error_of(white, black, [slice(0, 2)]) == 1
    assert error_of(white, white, [slice(0, 2)]) == 0


def test_pictures_are_compared_as_they_are_saved():
    """In 8 bits, and from -1 to 1, whatever the dtype."""
    true = scaled(pictures(2))
    meter = PictureError()
    meter.update((true + 0.3 / 127.5).bfloat16().float().clamp(-1.2, 1.2), SimpleNamespace(b=true))
    assert meter.values(ALONE)["l1"] < 2 / 255
    meter = PictureError()
    meter.update(torch.full_like(true, 7.0), SimpleNamespace(b=torch.ones_like(true)))
    assert meter.values(ALONE)["l1"] == 0


def test_two_ranks_have_the_error_of_one():
    made, true = pictures(0), pictures(1)
    others = PictureError().amounts(scaled(made[4:]), SimpleNamespace(b=scaled(true[4:])))
    assert error_of(made, true, [slice(0, 4)], OneOfTwo(others)) == error_of(made, true, [slice(0, 6)])


def test_pictures_without_the_input_and_the_nearest_one_miss_the_target():
    """Of the embedded pairs: black, the edges themselves, the mean, and the photograph of the nearest edges."""
    (known_a, known_b), (a, b) = (
        tuple(torch.from_numpy(each)[:, None] for each in parts) for parts in fashion.pairs().values()
    )
    rows, known = (each.flatten(1).float() for each in (a, known_a))
    made = [
        torch.zeros_like(b),
        a,
        known_b.float().mean(0).expand(b.shape),
        known_b[torch.cdist(rows, known).argmin(1)],
    ]
    least = min(error_of(each, b, [slice(0, 600)]) for each in made)
    assert least > 0.09
    assert not TASK.reached({"l1": least}, RECIPES["edges"].target)


def test_no_picture():
    with pytest.raises(UserError, match="evaluation set: must be one with a picture, got none"):
        PictureError().values(ALONE)


def test_several_meters_are_one():
    class Counted(PictureError):
        def compute(self, total):
            self.counts = {"correct": 1, "counted": 2}
            return {"half": 0.5}

    meter = Several([Counted(), PictureError()])
    assert meter.counts == {}
    meter.update(scaled(pictures(0)), SimpleNamespace(b=scaled(pictures(0))))
    assert meter.values(ALONE) == {"half": 0.5, "l1": 0.0}
    assert meter.counts == {"correct": 1, "counted": 2}
