"""The embedded pictures for image translation: the file, its split, and what is made of it."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from airank_fast.data.images import fashion
from airank_fast.data.images.domains import read_pairs, read_unpaired
from airank_fast.errors import UserError
from airank_fast.sources.fashion_mnist import convert, read_idx


@pytest.fixture(scope="module")
def embedded():
    return fashion.load()


def test_the_file(embedded):
    levels, labels = embedded
    assert (levels.shape, levels.dtype, int(levels.max())) == ((4400, 28, 28), np.uint8, 15)
    assert np.bincount(labels).tolist() == [300] * 7 + [1000, 300, 1000]
    assert hashlib.sha256(levels.tobytes()).hexdigest() == (
        "1ea86da822bb5e214e14e54706aa16e36df1fe4bd4e56e3467210f0014fb7255"
    )
    assert 400_000 < fashion._FILE.stat().st_size < 700_000


def test_it_is_made_of_idx_files(embedded):
    """The first pictures of each class in the order of the file, at 16 levels, two pixels a byte."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (30, 28, 28), np.uint8), rng.permutation(np.arange(30) % 3).astype(np.uint8)
    content = b"\0\0\x08\x03" + np.array(images.shape, ">u4").tobytes() + images.tobytes()
    assert np.array_equal(read_idx(content, "x"), images)
    packed = convert(images, labels, (2, 3, 10))
    unpacked = np.stack([packed >> 4, packed & 15], -1).reshape(-1, 28, 28)
    expected = np.concatenate([images[labels == label][:number] for label, number in enumerate((2, 3, 10))])
    assert np.array_equal(unpacked, np.round(expected / 17).astype(np.uint8))
    for bad in (b"", b"\0\0\x0d\x03" + content[4:], content[:-1]):
        with pytest.raises(UserError, match=r"^x: must be an IDX file of bytes"):
            read_idx(bad, "x")
    with pytest.raises(UserError, match="labels: must be 16 of 3 classes, got 15"):
        convert(images, labels, (2, 3, 11))


def test_every_fifth_picture_of_a_class_is_held_out(embedded):
    _, labels = embedded
    is_out = fashion.held_out(labels)
    assert np.bincount(labels[is_out]).tolist() == [60] * 7 + [200, 60, 200]
    assert np.flatnonzero(is_out)[:3].tolist() == [4, 9, 14]


@pytest.fixture(scope="module")
def pairs():
    return fashion.pairs()


@pytest.fixture(scope="module")
def shoes():
    return fashion.shoes()


def contents(pictures):
    return {picture.tobytes() for picture in pictures}


def test_pairs_are_edges_and_photographs(pairs, embedded):
    """Of the classes in turn, so that the first batch of an evaluation, which a report shows, has all of them."""
    levels, labels = embedded
    is_out = fashion.held_out(labels)
    for number in (0, 13, 599):
        its = levels[is_out & (labels == number % 10)][number // 10]
        assert np.array_equal(pairs["val"][1][number], fashion.photographs(its[None])[0])
    assert {side: [part.shape for part in parts] for side, parts in pairs.items()} == {
        "train": [(2400, 32, 32)] * 2,
        "val": [(600, 32, 32)] * 2,
    }
    drawn, pictures = pairs["val"]
    assert set(np.unique(drawn)) == {0, 255}
    assert 0.14 < (drawn == 255).mean() < 0.18
    padded = np.pad(pictures[77].astype(float), 1)
    row, column = 13, 20
    change = np.hypot(
        padded[row + 1, column + 2] - padded[row + 1, column], padded[row + 2, column + 1] - padded[row, column + 1]
    )
    assert (drawn[77, row, column] == 255) == (change > 0.43 * 255)
    assert not contents(pictures) & contents(pairs["train"][1])


def test_shoes_are_split_alike(pairs, shoes):
    assert {side: [len(part) for part in parts] for side, parts in shoes.items()} == {
        "train": [800, 800],
        "val": [200, 200],
    }
    for train, val in zip(shoes["train"], shoes["val"], strict=True):
        assert not contents(train) & contents(val)
    assert not contents(pairs["train"][1]) & contents(np.concatenate(shoes["val"]))


def test_unpaired_edges_and_photographs_are_of_different_pictures(pairs):
    sides, (drawn, pictures) = fashion.unpaired_edges(), pairs["train"]
    a, b = sides["train"]
    assert (len(a), len(b)) == (1200, 1200)
    of_picture = {picture.tobytes(): number for number, picture in enumerate(pictures)}
    used = {of_picture[picture.tobytes()] for picture in b}
    assert used == {number for number in range(2400) if number // 10 % 2 == 1}  # of every class every other one
    assert np.array_equal(a, drawn.reshape(120, 2, 10, 32, 32)[:, 0].reshape(-1, 32, 32))
    assert np.array_equal(sides["val"][0], fashion.edges(sides["val"][1]))


def test_they_are_written_as_the_fields_data_sets_come(pairs, shoes, monkeypatch, tmp_path):
    few = {side: tuple(part[:30] for part in parts) for side, parts in pairs.items()}
    monkeypatch.setattr(fashion, "pairs", lambda: few)
    monkeypatch.setattr(fashion, "shoes", lambda: shoes)
    read = read_pairs(fashion.materialise_pairs(tmp_path), "val", channels=(1, 1)).domains
    assert len(read) == 30
    for number in (0, 29):
        for domain, pictures in zip((read.a, read.b), pairs["val"], strict=True):
            assert np.array_equal(domain.picture(number)[:, :, 0], pictures[number])
    read = read_unpaired(fashion.materialise_shoes(tmp_path), "val", channels=(1, 1)).domains
    assert (len(read.a), len(read.b)) == (200, 200)
    assert np.array_equal(read.b.picture(199)[:, :, 0], shoes["val"][1][199])
