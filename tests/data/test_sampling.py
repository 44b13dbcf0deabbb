"""The stream of samples and the windows cut from pictures."""

import ast
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from airank_fast.data import sampling
from airank_fast.data.sampling import GroupedStream, TrainStream
from airank_fast.errors import UserError


def stream(num_samples=97, batch=8, rank=0, world_size=1, parts=1, seed=3):
    return TrainStream(
        num_samples,
        seed,
        batch_size_local=batch // world_size // parts,
        global_batch_size=batch,
        rank=rank,
        world_size=world_size,
    )


def take(stream, first_step, num):
    requests = list(islice(stream.requests(first_step), num))
    return np.concatenate([r.indices for r in requests]), np.concatenate([r.draws for r in requests])


def test_an_epoch_is_a_permutation_and_batches_straddle_epochs():
    indices, _ = take(stream(), 0, 3 * 97)
    for epoch in range(8):
        assert sorted(indices[epoch * 97 : (epoch + 1) * 97]) == list(range(97))
    assert not np.array_equal(indices[:97], indices[97:194])


def grouped(groups, batch=8, rank=0, world_size=1, parts=1):
    local = batch // world_size // parts
    return GroupedStream(groups, 3, batch_size_local=local, global_batch_size=batch, rank=rank, world_size=world_size)


def test_global_batches_are_of_one_group_but_for_few():
    groups = np.arange(997) % 3 == 0
    indices, positions = take(grouped(groups), 0, 500)[0], np.arange(500 * 8)
    for epoch in range(4):
        assert sorted(indices[positions // 997 == epoch]) == list(range(997))
    mixed = sum(len(set(batch)) > 1 for batch in groups[indices].reshape(-1, 8))
    assert mixed <= 500 / GroupedStream.WINDOW + 4 * 2  # one a window, and about where an epoch ends
    wide = groups[indices].reshape(-1, 8).mean(1)
    assert len(set(np.diff(np.flatnonzero(wide > 0.5)))) > 2  # the groups do not take turns
    assert not np.array_equal(indices[:997], indices[997:1994])


def test_grouped_batches_are_the_same_for_any_number_of_ranks_and_from_any_step():
    groups = np.arange(97) % 4 > 1
    whole, draws = take(grouped(groups), 0, 40)
    shares = [take(grouped(groups, rank=rank, world_size=2), 20, 20)[0].reshape(20, 4) for rank in range(2)]
    assert np.array_equal(np.concatenate(shares, 1), whole.reshape(40, 8)[20:])
    assert np.array_equal(draws, take(stream(), 0, 40)[1])


def test_of_one_group_the_order_is_the_usual_one():
    assert np.array_equal(take(grouped(np.ones(97)), 0, 40)[0], take(stream(), 0, 40)[0])


@pytest.mark.parametrize("seed", [0, 1, 2**63, -5])
def test_seeds_are_different_and_repeatable(seed):
    order = sampling.permutation(1000, seed, 0)
    assert np.array_equal(order, sampling.permutation(1000, seed, 0))
    assert not np.array_equal(order, sampling.permutation(1000, seed + 1, 0))
    assert not np.array_equal(order, sampling.permutation(1000, seed, 1))


def test_the_order_is_pinned():
    """A checkpoint of an older version must resume into the same stream."""
    assert sampling.permutation(10, 1, 0).tolist() == [3, 5, 2, 9, 7, 0, 8, 6, 1, 4]
    assert sampling.draws(1, 5, 1)[0, :3].tolist() == [0.75022789103868, 0.887603881652493, 0.039091037825585984]


@pytest.mark.parametrize(("world_size", "parts"), [(2, 1), (4, 1), (1, 2), (2, 4)])
def test_ranks_and_accumulation_share_out_the_same_global_batches(world_size, parts):
    whole_indices, whole_draws = take(stream(), 2, 5)
    shares = [take(stream(rank=rank, world_size=world_size, parts=parts), 2, 5 * parts) for rank in range(world_size)]
    per_step = [np.split(indices, 5) for indices, _ in shares]
    assert np.array_equal(np.concatenate([np.concatenate(rows) for rows in zip(*per_step, strict=True)]), whole_indices)
    per_step = [np.split(draws, 5) for _, draws in shares]
    assert np.array_equal(np.concatenate([np.concatenate(rows) for rows in zip(*per_step, strict=True)]), whole_draws)


@pytest.mark.parametrize("step", [0, 1, 12, 13, 100])
def test_starting_at_a_step_continues_the_stream(step):
    indices, draws = take(stream(), 0, step + 3)
    later_indices, later_draws = take(stream(), step, 3)
    assert np.array_equal(indices[-24:], later_indices)
    assert np.array_equal(draws[-24:], later_draws)


def test_draws_are_uniform_and_not_repeated():
    u = sampling.draws(0, 0, 4000)
    assert len(np.unique(u)) == u.size
    assert u.min() >= 0
    assert u.max() < 1
    assert np.abs(u.mean(0) - 0.5).max() < 0.02
    assert np.abs(np.corrcoef(u.T) - np.eye(u.shape[1])).max() < 0.08


@pytest.mark.parametrize(
    ("num_samples", "batch", "local", "match"),
    [
        (7, 8, 4, "at most the 7 training samples"),
        (97, 8, 3, "multiple of 2 ranks x 3 samples, got 8"),
        (97, 0, 0, "multiple of"),
    ],
)
def test_impossible_batches_are_refused(num_samples, batch, local, match):
    with pytest.raises(UserError, match=match):
        TrainStream(num_samples, 0, batch_size_local=local, global_batch_size=batch, rank=0, world_size=2)


@pytest.mark.parametrize("num_samples", [0, 1, 5, 97])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_evaluation_covers_each_picture_once(num_samples, world_size, batch_size):
    seen = [
        i
        for rank in range(world_size)
        for batch in sampling.eval_batches(num_samples, batch_size, rank, world_size)
        for i in batch
    ]
    assert seen == list(range(num_samples))


SIZES = [(375, 500), (500, 375), (1, 1), (3, 600), (1200, 5), (224, 224), (2000, 3000), (30000, 20000)]


@pytest.mark.parametrize("size", SIZES)
def test_random_windows_lie_in_the_picture(size):
    u = sampling.draws(1, 0, 300)
    factors, offsets = sampling.crop_factors(u, 0.08), sampling.offset_draws(u)
    for i in range(len(u)):
        y, x, h, w = sampling.random_resized_window(*size, factors[i], offsets[i])
        assert h >= 1
        assert w >= 1
        assert 0 <= y <= y + h <= size[0]
        assert 0 <= x <= x + w <= size[1]


def test_random_windows_have_the_requested_areas_and_aspects():
    u = sampling.draws(2, 0, 4000)
    factors, offsets = sampling.crop_factors(u, 0.25), sampling.offset_draws(u)
    windows = np.array([sampling.random_resized_window(1000, 1000, factors[i], offsets[i]) for i in range(len(u))])
    area, ratio = windows[:, 2] * windows[:, 3] / 1e6, windows[:, 3] / windows[:, 2]
    assert area.min() > 0.24
    assert 0.74 < ratio.min() < 0.76
    assert 1.32 < ratio.max() < 1.35
    assert np.log(ratio).mean() == pytest.approx(0, abs=0.01)  # uniform in the logarithm
    square = np.abs(np.log(ratio)) < 0.05  # of these nearly all fit
    assert np.percentile(area[square], [25, 50, 75]) == pytest.approx([0.4375, 0.625, 0.8125], abs=0.04)


@pytest.mark.parametrize("size", [(3, 600), (1200, 5)])
def test_a_picture_too_long_gets_a_window_as_high_or_wide_as_itself(size):
    u = sampling.draws(1, 0, 50)
    factors, offsets = sampling.crop_factors(u, 0.9), sampling.offset_draws(u)
    for i in range(len(u)):
        shape = sampling.random_resized_window(*size, factors[i], offsets[i])[2:]
        assert min(shape) == min(size)
        assert 30 < max(shape) < 100


@pytest.mark.parametrize("size", SIZES)
def test_shifted_windows_stay_in_the_picture_and_reach_its_edges(size):
    offsets = np.concatenate([sampling.offset_draws(sampling.draws(1, 0, 500)), [[0, 0], [1 - 2**-22] * 2]])
    windows = np.array([sampling.square_window(*size, 40, 32, offset) for offset in offsets.astype(np.float32)])
    y, x, h, w = windows.T
    assert (h == w).all()
    assert y.min() == 0
    assert x.min() == 0
    assert (y + h).max() == size[0]
    assert (x + w).max() == size[1]


def test_digits_shift_by_up_to_four_pixels():
    offsets = sampling.offset_draws(sampling.draws(1, 0, 2000))
    windows = {sampling.square_window(40, 40, 40, 32, offset) for offset in offsets}
    assert windows == {(y, x, 32, 32) for y in range(9) for x in range(9)}


@pytest.mark.parametrize(("size", "expected"), [((375, 500), (23, 86, 328, 328)), ((256, 256), (16, 16, 224, 224))])
def test_the_evaluation_window_is_central(size, expected):
    assert sampling.square_window(*size, 256, 224, None) == expected


def test_every_purpose_of_philox_has_numbers_of_its_own():
    """The numbers must not change, as old seeds would give other runs. Only sampling.py has a key as a number."""
    purposes = {purpose.name: purpose.value for purpose in sampling.Purpose}
    of_images = {"ORDER": 0, "DRAWS": 1, "PICTURES": 2, "SCENES": 7, "COLOURS": 8, "MIXUP": 9, "SIZES": 10}
    of_images |= {"POOL": 11, "GROUPS": 13}
    assert purposes == of_images | {"SHARDS": 3, "MASKS": 4, "SHUFFLE": 5, "WORDS": 6, "STRATA": 12}
    words = {purpose: tuple(sampling.philox(7, purpose, (0, 0)).random_raw(4)) for purpose in sampling.Purpose}
    assert len(set(words.values())) == len(purposes)
    used = {}
    package = Path(sampling.__file__).parents[1]
    for path in set(package.rglob("*.py")) - set(package.glob("ops/*.py")):  # ops have the kernels' generator
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "philox":
                used.setdefault(ast.unparse(call.args[1]), []).append(path.name)
    assert set(used) == {f"Purpose.{name}" for name in purposes}, used
