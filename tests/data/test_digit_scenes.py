"""Lines and clips of digits: pure functions of seed and index, of digits of one half, which are where they say."""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from airank_fast.data.images import digit_scenes, digits
from airank_fast.data.images.digit_scenes import CLIP_SIZE, LINE_HEIGHT, LINE_WIDTH, MOTIONS, clip, line, motion


def test_a_scene_is_a_function_of_seed_index_and_half():
    first, again = line(0, 7, held_out=False), line(0, 7, held_out=False)
    assert np.array_equal(first.picture, again.picture)
    assert first.text == again.text
    for other in (line(1, 7, held_out=False), line(0, 8, held_out=False), line(0, 7, held_out=True)):
        assert not np.array_equal(first.picture, other.picture)


def test_the_first_texts_are_the_same_everywhere():
    assert [line(0, index, held_out=False).text for index in range(4)] == ["34", "45", "0974", "058"]


def test_no_digit_is_in_both_halves_and_labels_are_the_embedded_ones():
    _, labels = digits.load()
    is_held_out = digits.held_out(labels)
    for held_out in (False, True):
        scenes = [line(0, index, held_out=held_out) for index in range(60)]
        drawn = [digit for scene in scenes for digit in scene.digits]
        assert {bool(is_held_out[digit.source]) for digit in drawn} == {held_out}
        assert all(labels[digit.source] == digit.label for digit in drawn)
        assert {len(scene.text) for scene in scenes} == {2, 3, 4}
        assert {*"".join(scene.text for scene in scenes)} == {*"0123456789"}


def test_digits_are_bright_where_their_ink_is_and_inside_the_picture():
    for index in range(40):
        scene = line(0, index, held_out=False)
        assert scene.picture.shape == (LINE_HEIGHT, LINE_WIDTH)
        assert scene.picture.dtype == np.uint8
        canvas = np.zeros((LINE_HEIGHT + 20, LINE_WIDTH + 20), np.float32)  # a border of 10 for what overhangs
        for digit in scene.digits:
            top, left = digit.top + 10, digit.left + 10
            window = canvas[top : top + digit.ink.shape[0], left : left + digit.ink.shape[1]]
            np.maximum(window, digit.ink, out=window)
        inside = canvas[10:-10, 10:-10]
        assert inside.sum() > 0.97 * canvas.sum()
        assert scene.picture[inside > 0.9].mean() > scene.picture[inside < 0.05].mean() + 60
        middles = [digit.left + digit.ink.shape[1] / 2 for digit in scene.digits]
        assert middles == sorted(middles)


@pytest.mark.parametrize("shear", [-0.2, 0.0, 0.2])
def test_a_positive_shear_leans_to_the_right(shear):
    bar = np.zeros((8, 8), np.uint8)
    bar[:, 3:5] = 255
    ink = digit_scenes._drawn(digit_scenes._bordered(bar), 24, 16, shear=shear)
    places = (ink * np.arange(ink.shape[1])).sum(1)[2:-2] / ink.sum(1)[2:-2]
    assert places[0] - places[-1] == pytest.approx(shear * (len(places) - 1), abs=0.3)
    assert ink[ink.shape[0] // 2].max() > 0.95


def test_lines_are_written_once_with_their_texts(tmp_path, monkeypatch):
    monkeypatch.setattr(digit_scenes, "NUM_TRAIN", 5)
    monkeypatch.setattr(digit_scenes, "NUM_HELD_OUT", 2)
    lists = digit_scenes.materialise(tmp_path)
    for path, number, held_out in zip(lists, (5, 2), (False, True), strict=True):
        rows = [row.split("\t") for row in path.read_text().splitlines()]
        assert len(rows) == number
        for index, (name, text) in enumerate(rows):
            scene = line(0, index, held_out=held_out)
            assert np.array_equal(np.asarray(Image.open(path.parent / name)), scene.picture)
            assert text == scene.text
    before = lists[0].stat().st_mtime_ns
    assert digit_scenes.materialise(tmp_path) == lists
    assert lists[0].stat().st_mtime_ns == before


def test_a_version_names_one_content():
    """Of another content under the name of an earlier one, an old cache would be read."""
    scenes = [line(0, index, held_out=held_out) for held_out in (False, True) for index in range(8)]
    digits_of = [(each.text, [(digit.top, digit.left, digit.ink.shape) for digit in each.digits]) for each in scenes]
    content = repr((digit_scenes.NUM_TRAIN, digit_scenes.NUM_HELD_OUT, digits_of)).encode()
    assert (digit_scenes._FOLDER, hashlib.sha256(content).hexdigest()[:8]) == ("digit-lines-v2", "f54586c1")


def test_a_clip_is_a_function_of_seed_index_and_half():
    first = clip(0, 6, held_out=False)
    assert (first.frames.shape, first.frames.dtype) == ((8, CLIP_SIZE, CLIP_SIZE), np.uint8)
    assert np.array_equal(first.frames, clip(0, 6, held_out=False).frames)
    for other in (clip(1, 6, held_out=False), clip(0, 14, held_out=False), clip(0, 6, held_out=True)):
        assert other.label == first.label
        assert not np.array_equal(first.frames, other.frames)


def test_two_clips_have_the_same_frames_in_opposite_order_and_opposite_motions():
    for index in range(0, 32, 2):
        one, other = (clip(0, number, held_out=True) for number in (index, index + 1))
        assert np.array_equal(one.frames, other.frames[::-1])
        assert {one.label // 2} == {other.label // 2} == {index // 2 % 4}
    assert sorted(clip(0, index, held_out=False).label for index in range(16)) == sorted(2 * [*range(8)])
    assert [motion(index) for index in range(9)] == [*range(8), 0]


def ink(frame: np.ndarray) -> np.ndarray:
    """The digit above its ground and the noise."""
    bright = frame.astype(np.float64) - np.median(frame)
    return np.where(bright > 40, bright, 0)


def moments(frame: np.ndarray) -> tuple[float, float, float, float]:
    """(x, y, spread, angle of the longer axis in degrees, clockwise from the right) of the ink."""
    weights = ink(frame) / ink(frame).sum()
    y, x = np.mgrid[: frame.shape[0], : frame.shape[1]]
    middle_x, middle_y = (weights * x).sum(), (weights * y).sum()
    dx, dy = x - middle_x, y - middle_y
    xx, yy, xy = ((weights * each).sum() for each in (dx * dx, dy * dy, dx * dy))
    return middle_x, middle_y, np.sqrt(xx + yy), np.degrees(np.arctan2(2 * xy, xx - yy)) / 2


@pytest.mark.parametrize("number", range(8))
def test_digits_move_as_their_label_says(number):
    """From the first to the last frame, over 24 clips of the motion."""
    changes = []
    for index in range(number, number + 8 * 24, 8):
        frames = clip(0, index, held_out=False).frames
        first, last = moments(frames[0]), moments(frames[-1])
        angles = [moments(frame)[3] for frame in frames]
        turned = sum((after - before + 90) % 180 - 90 for before, after in pairwise(angles))
        changes.append((last[0] - first[0], last[1] - first[1], last[2] / first[2], turned))
    right, down, grown, turned = np.median(changes, axis=0)
    sign = 1 if number % 2 == 0 else -1
    expected = {"right": right, "down": down, "clockwise": turned / 7, "growing": 12 * np.log(grown)}
    for name, change in expected.items():
        if MOTIONS[number - number % 2] == name:
            assert 5 < sign * change < 12
        else:
            assert abs(change) < 1.5
