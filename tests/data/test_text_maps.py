"""DB's maps of a picture: shrunk texts, thresholds near outlines, and what does not count."""

from __future__ import annotations

import numpy as np
import pytest

from airank_fast.data.images.quadrilaterals import areas, sides
from airank_fast.data.images.text_maps import COUNTED, NEAR, TEXT, THRESHOLD, text_maps

SQUARE = np.array([[20, 10], [60, 10], [60, 50], [20, 50]], float)
DISTANCE = 40 * 40 * (1 - 0.4**2) / 160  # 8.4
NONE = np.zeros(1, bool)


def test_a_square_by_hand():
    """Pixel centres 20.5 ... 59.5 are in it; those from 28.5 to 51.5 are 8.4 or more from its sides."""
    maps = text_maps(SQUARE[None], NONE, (64, 80))
    expected = np.zeros((64, 80), bool)
    expected[19:41, 29:51] = True  # 28.5 is only 8.5 from the side at 20
    expected[18:42, 28:52] = True
    assert np.array_equal(maps[TEXT] == 1, expected)
    assert (maps[COUNTED] == 1).all()
    row = maps[THRESHOLD, 30]
    assert row[19] == row[20] == round(255 * (1 - 0.5 / DISTANCE))
    assert row[12] == row[27] == round(255 * (1 - 7.5 / DISTANCE))
    assert not row[:12].any()
    assert not row[28:52].any()
    assert maps[NEAR, 30].nonzero()[0].tolist() == list(range(12, 68))
    assert maps[NEAR, 10 - 7, 20 - 7] == 0  # its corners are round


@pytest.mark.parametrize("degrees", [0, 17, 80])
def test_the_shrunk_text_is_the_offset_polygon(degrees):
    shapely = pytest.importorskip("shapely")
    turn = np.deg2rad(degrees)
    quad = np.array([[-25, -9], [25, -9], [25, 9], [-25, 12]]) @ np.array(
        [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    ) + (35.2, 33.7)
    distance = areas(quad) * (1 - 0.4**2) / sides(quad).sum()
    maps = text_maps(quad[None], NONE, (70, 72))
    x, y = np.meshgrid(np.arange(72) + 0.5, np.arange(70) + 0.5)
    for index, offset in ((TEXT, -distance), (NEAR, distance)):
        polygon = shapely.buffer(shapely.polygons(quad), offset, quad_segs=200)
        assert np.mean(maps[index].astype(bool) != shapely.contains_xy(polygon, x, y)) < 0.001
        assert maps[index].any()


def test_ignored_and_small_texts_count_nowhere_and_have_no_threshold():
    """A text of 7 pixels' height and one of ### take their pixels out of the loss; the third stays whole."""
    small = np.array([[2, 52], [40, 52], [40, 59], [2, 59]], float)
    ignored = np.array([[62, 2], [78, 2], [78, 14], [62, 14]], float)
    maps = text_maps(np.stack([small, ignored, SQUARE]), np.array([False, True, False]), (64, 80))
    alone = text_maps(SQUARE[None], NONE, (64, 80))
    out = np.zeros((64, 80), bool)
    out[52:59, 2:40] = out[2:14, 62:78] = True
    assert np.array_equal(maps[COUNTED] == 0, out)
    for index in (TEXT, THRESHOLD, NEAR):
        assert np.array_equal(maps[index], alone[index])


def test_a_picture_without_texts():
    maps = text_maps(np.empty((0, 4, 2)), np.empty(0, bool), (32, 32))
    assert not maps[[TEXT, THRESHOLD, NEAR]].any()
    assert maps[COUNTED].all()


def test_two_texts_that_are_near_have_the_higher_threshold():
    beside = SQUARE + np.array([45, 0])
    both = text_maps(np.stack([SQUARE, beside]), np.zeros(2, bool), (64, 120))
    each = [text_maps(quad[None], NONE, (64, 120)) for quad in (SQUARE, beside)]
    assert np.array_equal(both[THRESHOLD], np.maximum(each[0][THRESHOLD], each[1][THRESHOLD]))
