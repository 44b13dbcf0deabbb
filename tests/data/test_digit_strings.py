"""Scenes of digit strings: what is drawn is in the quadrilaterals, halves share no digit, scenes stay as they are."""

from __future__ import annotations

import numpy as np
import pytest

from airank_fast.data.images import digit_strings
from airank_fast.data.images.quadrilaterals import areas, sides, surroundings
from airank_fast.data.images.text_scenes import read_scenes

SHAPE = digit_strings.HEIGHT, digit_strings.WIDTH


@pytest.fixture(scope="module")
def scenes():
    return [digit_strings.scene(0, index, held_out=False) for index in range(60)]


def test_scenes_are_pure_functions_of_their_number(scenes):
    again = digit_strings.scene(0, 7, held_out=False)
    assert np.array_equal(again.picture, scenes[7].picture)
    assert not np.array_equal(digit_strings.scene(0, 7, held_out=True).picture, scenes[7].picture)
    assert not np.array_equal(digit_strings.scene(1, 7, held_out=False).picture, scenes[7].picture)
    assert [string.text for scene in scenes[:2] for string in scene.strings] == ["2515", "2316", "67", "###", "2168"]


@pytest.mark.parametrize("held_out", [False, True])
def test_scenes_of_a_half_are_of_its_digits(held_out, monkeypatch):
    asked, embedded = set(), digit_strings.embedded
    monkeypatch.setattr(digit_strings, "embedded", lambda half: asked.add(half) or embedded(half))
    for index in range(5):
        digit_strings.scene(0, index, held_out=held_out)
    assert asked == {held_out}


def test_strings_are_bright_in_their_quadrilaterals(scenes):
    """A third or so of a quadrilateral is ink; its corners are in the picture, the text reads along its first side."""
    texts = [string for scene in scenes for string in scene.strings if string.text != "###"]
    assert {len(string.text) for string in texts} == {2, 3, 4}
    assert set("".join(string.text for string in texts)) == set("0123456789")
    for scene in scenes:
        bright = scene.picture.max(2) > 115
        assert 1 <= len(scene.strings) <= 4
        for string in scene.strings:
            assert (string.quad >= -1).all()
            assert (string.quad <= np.array(SHAPE[::-1]) + 1).all()
            lengths, (across, down) = sides(string.quad), string.quad[1] - string.quad[0]
            assert abs(np.degrees(np.arctan2(down, across))) <= 20
            height = lengths[1]
            if string.text == "###":
                assert 4.5 <= height <= 7.5
                continue
            assert 11.5 <= height <= 20.5
            assert 0.5 * height * len(string.text) < lengths[0] < 1.1 * height * len(string.text)
            window, inside, _ = surroundings(string.quad, SHAPE)
            assert 0.1 < bright[window][inside].mean() < 0.8
            ink = (np.flatnonzero((bright[window] & inside).any(0))[[0, -1]] + 0.5).tolist()
            width = inside.shape[1]
            assert ink[0] < 0.25 * width
            assert ink[1] > 0.75 * width


def test_quadrilaterals_do_not_overlap(scenes):
    for scene in scenes:
        count = np.zeros(SHAPE, int)
        for string in scene.strings:
            window, inside, _ = surroundings(string.quad, SHAPE)
            count[window] += inside
        assert count.max(initial=0) <= 1
        assert count.sum() == pytest.approx(areas(np.array([s.quad for s in scene.strings])).sum(), rel=0.05)


def test_what_is_written_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(digit_strings, "NUM_TRAIN", 5)
    monkeypatch.setattr(digit_strings, "NUM_HELD_OUT", 3)
    root = digit_strings.materialise(tmp_path)
    assert digit_strings.materialise(tmp_path) == root
    for side, number in (("train", 5), ("val", 3)):
        scenes, _ = read_scenes(root, side)
        assert len(scenes) == number
        for index in range(number):
            scene = digit_strings.scene(0, index, held_out=side == "val")
            picture, quads, ignored = scenes.read(index)
            assert np.array_equal(picture, scene.picture)
            np.testing.assert_allclose(quads, [string.quad for string in scene.strings], atol=0.051)
            assert ignored.tolist() == [string.text == "###" for string in scene.strings]
