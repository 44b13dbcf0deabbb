"""Batches of two domains: windows of pairs, random partners, and an evaluation in which each picture counts once."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from data.domain_files import PAIRS, UNPAIRED, picture, write_folders, write_joined

from airank_fast.data.images.domain_reader import DomainReader, View, levels, noise, prefetch, thumbnails
from airank_fast.data.images.domains import read_pairs, read_unpaired
from airank_fast.data.images.place import Place
from airank_fast.data.sampling import TrainStream
from airank_fast.errors import UserError

CPU = torch.device("cpu")
VIEW = View(load_size=18, crop_size=16, flip=True)


def reader(train, val, *, rank=0, world_size=1, batch=4, view=VIEW, seed=7, eval_batch=2):
    each = batch // world_size
    stream = TrainStream(
        len(train), seed, batch_size_local=each, global_batch_size=batch, rank=rank, world_size=world_size
    )
    return DomainReader(train, val, stream, Place(eval_batch, rank, world_size, CPU, 0), view)


def batches(of_reader, number, first=0):
    return list(islice(prefetch(of_reader.train(first), CPU, torch.float32), number))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    root = write_joined(tmp_path_factory.mktemp("pairs"))
    return [read_pairs(root, side).domains for side in ("train", "val")]


@pytest.fixture(scope="module")
def unpaired(tmp_path_factory):
    """3 pictures of A and 5 of B to train on, 4 and 2 to evaluate on."""
    root = write_folders(tmp_path_factory.mktemp("unpaired"), UNPAIRED, negative=False)
    return [read_unpaired(root, side).domains for side in ("train", "val")]


@pytest.mark.parametrize("sets", ["pairs", "unpaired"])
def test_batches_are_functions_of_seed_and_step_on_any_number_of_ranks(sets, request):
    domains = request.getfixturevalue(sets)
    alone = batches(reader(*domains), 3)
    (later,) = batches(reader(*domains), 1, first=2)
    ranks = [batches(reader(*domains, rank=rank, world_size=2), 3) for rank in range(2)]
    (another,) = batches(reader(*domains, seed=8), 1)
    for name in ("a", "b", "ids", "counts"):
        assert torch.equal(getattr(alone[2], name), getattr(later, name))
        for whole, *parts in zip(alone, *ranks, strict=True):
            assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
    assert not torch.equal(alone[0].a, another.a)
    assert alone[0].a.shape == alone[0].b.shape == (4, 3, 16, 16)
    assert alone[0].a.is_contiguous(memory_format=torch.channels_last)
    assert alone[0].num_samples == 4


def test_both_halves_of_a_pair_have_one_window_and_are_mirrored_together(pairs):
    """B is the negative of A."""
    for batch in batches(reader(*pairs), 4):
        assert (batch.a + batch.b).abs().max() < 1.01 / 127.5  # rounded both ways
    seen = torch.cat([levels(batch.a) for batch in batches(reader(*pairs), 8)])
    assert len(torch.unique(seen, dim=0)) > 8  # of 4 pictures


def test_a_whole_picture_is_one_of_its_window_and_its_mirror_image(pairs):
    view = View(load_size=24, crop_size=24, flip=True)
    mirrored = 0
    for batch in batches(reader(*pairs, view=view), 4):
        for one, number in zip(levels(batch.a), batch.ids.tolist(), strict=True):
            plain = thumbnails(pairs[0].a, 24, 4)[number]
            is_mirrored = not torch.equal(one, levels(plain))
            assert not is_mirrored or torch.equal(one, levels(plain.flip(2)))
            mirrored += is_mirrored
    assert 0 < mirrored < 16


def number_of(pictures, domain):
    """Which of the domain's pictures these are."""
    known = thumbnails(domain, 24, 10)
    return [int((known - one).abs().mean((1, 2, 3)).argmin()) for one in pictures]


def test_an_epoch_of_unpaired_pictures_is_the_larger_domain(unpaired):
    """A, the smaller domain, comes in the epoch's order, again from its beginning; B is drawn."""
    train, val = unpaired
    view = View(load_size=24, crop_size=24, flip=False)
    epoch = batches(reader(train, val, batch=5, view=view), 6)
    drawn = []
    for batch in epoch:
        assert sorted(batch.ids.tolist()) == [0, 1, 2, 3, 4]
        assert number_of(batch.a, train.a) == [number % 3 for number in batch.ids.tolist()]
        drawn += [(a, b) for a, b in zip(batch.ids.tolist(), number_of(batch.b, train.b), strict=True)]
    assert {b for _, b in drawn} == {0, 1, 2, 3, 4}
    assert len(set(drawn)) > 12  # of 25 combinations, in 30 draws: partners change


def test_the_two_domains_have_windows_of_their_own(unpaired):
    train, val = unpaired
    same = type(train)(train.root, train.a, train.a, paired=False)
    got = batches(reader(same, val, batch=3), 8)
    alike = [torch.equal(a, b) for batch in got for a, b in zip(batch.a, batch.b, strict=True)]
    assert not all(alike)


@pytest.mark.parametrize("world_size", [1, 2])
def test_each_picture_counts_once_in_an_evaluation(unpaired, world_size):
    train, val = unpaired
    counted = {"a": [], "b": []}
    for rank in range(world_size):
        of_rank = reader(train, val, rank=rank, world_size=world_size, batch=4, view=View(24, 24, True))
        for batch in prefetch(of_rank.evaluate(), CPU, torch.float32):
            for place, name in enumerate("ab"):
                its = batch.counts[:, place]
                counted[name] += number_of(getattr(batch, name)[its], getattr(val, name))
    assert {name: sorted(numbers) for name, numbers in counted.items()} == {"a": [0, 1, 2, 3], "b": [0, 1]}


def test_pictures_are_evaluated_whole(pairs):
    (batch,) = prefetch(reader(*pairs, view=View(32, 32, True), eval_batch=2).evaluate(), CPU, torch.float32)
    assert batch.a.shape == (2, 3, 32, 32)
    small = torch.nn.functional.interpolate(batch.a, (6, 8), mode="area")  # the blocks of `picture`
    expected = torch.from_numpy(np.stack([picture(n)[::4, ::4] for n in range(2)])).permute(0, 3, 1, 2) / 127.5 - 1
    assert (small - expected).abs().mean() < 0.08


def test_levels_are_those_that_are_saved():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(levels(every / 127.5 - 1), every)
    assert levels(torch.tensor([-1.5, 1.5, float("nan")]))[:2].tolist() == [0, 255]


def test_noise_has_the_shape_of_a_batch(pairs):
    (batch,) = batches(reader(*pairs), 1)
    made = noise(4, (3, 3), 16, CPU, torch.float32)
    for name, tensor in batch.tensors().items():
        assert (getattr(made, name).shape, getattr(made, name).dtype) == (tensor.shape, tensor.dtype)


def test_a_picture_that_breaks_off_stops_the_run_by_name(tmp_path):
    root = write_folders(tmp_path, PAIRS)
    path = root / "trainB" / "1.png"
    path.write_bytes(path.read_bytes()[:-40])
    train, val = (read_pairs(root, side).domains for side in ("train", "val"))
    with pytest.raises(UserError, match=f"data: must be a whole JPEG or PNG picture, got {path} "):
        batches(reader(train, val), 1)
    with pytest.raises(UserError, match=f"got {path} "):
        thumbnails(train.b, 8, 4)
