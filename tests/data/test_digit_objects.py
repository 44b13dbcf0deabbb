"""Scenes of digits: pure functions of seed and index, with masks, boxes and label images of what is drawn."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from airank_fast.data.images import digit_objects, digits
from airank_fast.data.images.digit_objects import SIDE, boxes, label_image, masks, scene


@pytest.fixture(scope="module")
def scenes():
    return [scene(0, index, held_out=False) for index in range(80)]


def test_a_scene_is_a_function_of_seed_index_and_half(scenes):
    again = scene(0, 7, held_out=False)
    assert np.array_equal(scenes[7].picture, again.picture)
    for other in (scene(1, 7, held_out=False), scene(0, 8, held_out=False), scene(0, 7, held_out=True)):
        assert not np.array_equal(again.picture, other.picture)
    assert [each.text for each in scenes[:4]] == ["527", "362", "404", "356"]


def test_no_digit_is_in_both_halves_and_labels_are_the_embedded_ones(scenes):
    _, labels = digits.load()
    is_held_out = digits.held_out(labels)
    for held_out, found in ((False, scenes), (True, [scene(0, index, held_out=True) for index in range(80)])):
        drawn = [digit for each in found for digit in each.digits]
        assert {bool(is_held_out[digit.source]) for digit in drawn} == {held_out}
        assert all(labels[digit.source] == digit.label for digit in drawn)
        assert {1, 2, 3, 4} <= {len(each.digits) for each in found} <= {1, 2, 3, 4, 5}
        assert {digit.label for digit in drawn} == set(range(10))


def test_masks_are_disjoint_and_bright(scenes):
    for each in scenes:
        found = masks(each)
        assert each.picture.shape == (SIDE, SIDE, 3)
        assert each.picture.dtype == np.uint8
        assert found.sum(0).max() == 1
        brightness = each.picture.max(2)
        assert brightness[found.any(0)].mean() > brightness[~found.any(0)].mean() + 40
        for digit, mask in zip(each.digits, found, strict=True):
            height, width = digit.ink.shape
            inside = np.zeros_like(mask)
            inside[digit.top : digit.top + height, digit.left : digit.left + width] = digit.ink >= 0.35
            assert not (mask & ~inside).any()
            assert mask.sum() > 0.5 * inside.sum()
        assert np.array_equal(found[-1], inside)  # nothing hides the last one


def test_boxes_are_those_of_the_masks(scenes):
    for each in scenes:
        for (left, top, right, bottom), mask in zip(boxes(each), masks(each), strict=True):
            assert mask[top:bottom, left:right].sum() == mask.sum()
            for edge in (mask[top], mask[bottom - 1], mask[:, left], mask[:, right - 1]):
                assert edge.any()
            assert 12 <= bottom - top <= 52


def test_a_label_image_has_the_digits_and_ignores_the_ground_beside_them(scenes):
    for each in scenes:
        labels, found = label_image(each), masks(each)
        for digit, mask in zip(each.digits, found, strict=True):
            assert (labels[mask] == 1 + digit.label).all()
        inked = found.any(0)
        shifted = [np.roll(np.pad(inked, 1), step, axis)[1:-1, 1:-1] for step in (1, -1) for axis in (0, 1)]
        assert np.array_equal(labels == 255, ~inked & np.any(shifted, 0))
        assert (labels[~inked & ~np.any(shifted, 0)] == 0).all()


def test_a_bar_is_turned_clockwise():
    bar = np.zeros((8, 8), np.uint8)
    bar[:, 3:5] = 255
    ink = digit_objects.turned(Image.fromarray(np.pad(bar, 1)), 32, 32, degrees=10)
    rows = ink.sum(1) > 1
    places = (ink * np.arange(ink.shape[1])).sum(1)[rows] / ink.sum(1)[rows]
    assert (places[4] - places[-5]) / (len(places) - 9) == pytest.approx(np.tan(np.radians(10)), abs=0.03)
    assert ink[ink.shape[0] // 2].sum() == pytest.approx(8 / np.cos(np.radians(10)), rel=0.1)


def test_scenes_are_written_once_with_their_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(digit_objects, "NUM_TRAIN", 4)
    monkeypatch.setattr(digit_objects, "NUM_HELD_OUT", 2)
    lists = digit_objects.materialise(tmp_path)
    for path, number, held_out in zip(lists, (4, 2), (False, True), strict=True):
        rows = [row.split("\t") for row in path.read_text().splitlines()]
        assert len(rows) == number
        for index, (picture, labels) in enumerate(rows):
            expected = scene(0, index, held_out=held_out)
            assert np.array_equal(np.asarray(Image.open(path.parent / picture)), expected.picture)
            assert np.array_equal(np.asarray(Image.open(path.parent / labels)), label_image(expected))
    before = lists[0].stat().st_mtime_ns
    assert digit_objects.materialise(tmp_path) == lists
    assert lists[0].stat().st_mtime_ns == before


def test_a_version_names_one_content():
    """Of another content under the name of an earlier one, an old cache would be read."""
    scenes = [scene(0, index, held_out=held_out) for held_out in (False, True) for index in range(8)]
    digits_of = [(each.text, [(digit.top, digit.left, digit.ink.shape) for digit in each.digits]) for each in scenes]
    content = repr((digit_objects.NUM_TRAIN, digit_objects.NUM_HELD_OUT, digits_of)).encode()
    assert (digit_objects._FOLDER, hashlib.sha256(content).hexdigest()[:8]) == ("digit-objects-v2", "e407dace")
