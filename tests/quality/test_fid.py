"""FID against clean-fid's own reduction (committed values, and the library where it is installed), and its sums."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from ranks import OneOfTwo

from airank_fast.engine.distributed import World
from airank_fast.errors import UserError
from airank_fast.quality.fid import (
    Fid,
    Inception,
    feature_sums,
    few_pictures,
    frechet_distance,
    moments,
    resized,
)

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, 1, CPU)


def features(number, num_features, seed):
    """Correlated, of another mean and spread for each seed."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((num_features, num_features)) / num_features**0.5
    return rng.standard_normal((number, num_features)) @ mixing + 0.3 * rng.standard_normal(num_features)


def distance(ours, theirs):
    every = (torch.from_numpy(each) for each in (ours, theirs))
    return frechet_distance(*(part for each in every for part in moments(feature_sums(each, torch.ones(len(each))))))


CASES = {  # (features, pictures of both kinds): clean-fid 0.1.35's frechet_distance(mean, cov, mean, cov)
    (16, 200, 300): 11.074166649682077,
    (64, 500, 400): 45.59314424249098,
    (48, 40, 30): 51.6535613475113,  # covariances have not full rank
}


@pytest.mark.parametrize("case", CASES)
def test_the_distance_is_clean_fids(case):
    num_features, *numbers = case
    sides = [features(number, num_features, seed) for seed, number in enumerate(numbers)]
    assert distance(*sides) == pytest.approx(CASES[case], rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_the_distance_is_that_of_the_library(case):
    fid = pytest.importorskip("cleanfid.fid", exc_type=ImportError)
    num_features, *numbers = case
    sides = [features(number, num_features, seed) for seed, number in enumerate(numbers)]
    (ours, theirs) = ((side.mean(0), np.cov(side, rowvar=False)) for side in sides)
    assert CASES[case] == pytest.approx(fid.frechet_distance(*ours, *theirs), rel=1e-6)


def test_the_distance_of_equal_pictures_is_zero():
    ours = features(50, 8, 0)
    assert distance(ours, ours) == pytest.approx(0, abs=1e-9)
    assert distance(ours, ours + 2) == pytest.approx(8 * 4)  # of means alone


def test_pictures_are_resized_as_clean_fid_does():
    """Pillow's bicubic filter, antialiased, on floating-point levels, and clipped."""
    rng = np.random.default_rng(0)
    for size in ((32, 48), (256, 256), (400, 350)):
        pixels = rng.integers(0, 256, (*size, 3), np.uint8)
        found = resized(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
        for channel in range(3):
            plane = Image.fromarray(pixels[:, :, channel].astype(np.float32))
            expected = np.asarray(plane.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
            assert np.abs(found[channel].numpy() - expected).max() < 0.01
    grey = resized(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert grey.shape == (2, 3, 299, 299)


class Layers(torch.nn.Module):
    """Stands for Inception's layers: means of 2 x 2 parts of each channel, as [N, 12, 1, 1]."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        assert pictures.shape[1:] == (3, 299, 299)
        assert pictures.abs().max() <= 1
        return torch.nn.functional.adaptive_avg_pool2d(pictures, 2).reshape(-1, 12, 1, 1)


class Network(torch.nn.Module):
    """With `layers`, as NVIDIA's file has them."""

    def __init__(self, layers: torch.nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.layers(pictures)


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "inception.pt"
    torch.jit.script(Network(Layers())).save(str(path))
    return Inception(path, CPU)


def batch_of(number, seed):
    """Made and true pictures, of which those in every third place are there a second time."""
    rng = torch.Generator().manual_seed(seed)
    made, b = (torch.rand(number, 3, 12, 12, generator=rng).mul(2).sub(1) for _ in range(2))
    b = b * 0.5
    return made, SimpleNamespace(b=b, counts=torch.ones(number, 2, dtype=torch.bool))


def parts_of(made, batch, size):
    for rows in torch.arange(len(made)).split(size):
        yield made[rows], SimpleNamespace(b=batch.b[rows], counts=batch.counts[rows])


def test_the_meter_is_the_distance_of_all_features_in_any_batches(inception):
    assert inception.num_features == 12
    made, batch = batch_of(14, 0)
    levels = [(each + 1).mul(127.5).round().to(torch.uint8) for each in (batch.b, made)]
    expected = distance(*(inception(each).numpy() for each in levels))
    assert expected > 0.01
    for size in (14, 5):
        meter = Fid(inception)
        for part in parts_of(made, batch, size):
            meter.update(*part)
        assert meter.values(ALONE)["fid"] == pytest.approx(expected, rel=1e-6)


def test_pictures_that_do_not_count_are_left_out(inception):
    made, batch = batch_of(12, 1)
    batch.counts[8:, 1] = False
    batch.b[8:] = 1.0
    meter = Fid(inception, made=lambda outputs: outputs[0])
    meter.update((made,), batch)
    fewer = Fid(inception)
    fewer.update(made[:8], SimpleNamespace(b=batch.b[:8], counts=batch.counts[:8]))
    fewer.update(made[8:], SimpleNamespace(b=batch.b[:4], counts=torch.tensor([[True, False]] * 4)))
    assert meter.values(ALONE)["fid"] == pytest.approx(fewer.values(ALONE)["fid"], rel=1e-6)


def test_the_sums_of_two_ranks_are_those_of_one(inception):
    made, batch = batch_of(10, 2)
    whole, half = Fid(inception), Fid(inception)
    whole.update(made, batch)
    mine, others = parts_of(made, batch, 5)
    half.update(*mine)
    together = half.values(OneOfTwo(half.amounts(*others)))
    assert together["fid"] == pytest.approx(whole.values(ALONE)["fid"], rel=1e-6)


def test_a_single_picture_has_no_distance(inception):
    made, batch = batch_of(1, 3)
    meter = Fid(inception)
    meter.update(made, batch)
    with pytest.raises(UserError, match="must be one with two pictures or more, for FID, got 1"):
        meter.values(ALONE)


def test_few_pictures_are_said():
    assert few_pictures(2048) is None
    assert few_pictures(500).startswith("data: FID is of 500 pictures; below 2048 ")


def test_files_that_are_no_inception(tmp_path):
    with pytest.raises(UserError, match=r"--inception .*x.pt: must be NVIDIA's .*, got no file"):
        Inception(tmp_path / "x.pt", CPU)
    for name, content in (("state.pth", {"a": torch.zeros(3)}), ("text.pt", None)):
        path = tmp_path / name
        torch.save(content, path) if content else path.write_text("hello")
        with pytest.raises(UserError, match=r"must be NVIDIA's inception-2015-12-05.pt, TorchScript, got ") as error:
            Inception(path, CPU)
        assert "\n" not in str(error.value)
    torch.jit.script(torch.nn.Linear(3, 3)).save(str(tmp_path / "other.pt"))
    with pytest.raises(UserError, match=r"TorchScript, got .*layers"):
        Inception(tmp_path / "other.pt", CPU)
