"""From probability maps to quadrilaterals: components, thresholds, enlarging, and the picture's own size."""

from __future__ import annotations

import numpy as np
import pytest

from airank_fast.data.images.quadrilaterals import areas, sides, surroundings
from airank_fast.data.images.text_boxes import text_boxes
from airank_fast.data.images.text_maps import TEXT, text_maps

pytest.importorskip("shapely")
pytest.importorskip("scipy")


def painted(*rectangles, shape=(64, 96)):
    """A map with (top, left, bottom, right, probability) painted into it."""
    found = np.full(shape, 0.05, np.float32)
    for top, left, bottom, right, probability in rectangles:
        found[top:bottom, left:right] = probability
    return found


def boxes_of(quads):
    """(left, top, right, bottom) of each quadrilateral, sorted."""
    return sorted([*quad.min(0).tolist(), *quad.max(0).tolist()] for quad in quads)


def test_a_rectangle_is_enlarged_by_area_by_perimeter():
    """20 x 40 pixels: 800 * 1.5 / 120 = 10 on each side, in a picture of twice the height and three times the width."""
    found = text_boxes(painted((20, 30, 40, 70, 0.9)), (128, 288))
    assert found.dtype == np.float32
    assert boxes_of(found) == [pytest.approx([20 * 3, 10 * 2, 80 * 3, 50 * 2], abs=1e-3)]
    same = text_boxes(painted((20, 30, 40, 70, 0.9)), (64, 96), unclip_ratio=0.0)
    assert boxes_of(same) == [pytest.approx([30, 20, 70, 40], abs=1e-3)]


def test_corners_beyond_the_picture_are_moved_to_its_border():
    found = text_boxes(painted((2, 1, 22, 41, 0.9)), (64, 96))
    assert boxes_of(found) == [pytest.approx([0, 0, 51, 32], abs=1e-3)]


def test_thresholds():
    """0.25 is no text; 0.65 has a component, but is no text either; diagonal neighbours are of one component."""
    maps = painted((5, 5, 15, 25, 0.25), (5, 40, 15, 60, 0.65), (40, 10, 50, 20, 0.9), (50, 20, 60, 30, 0.9))
    assert len(text_boxes(maps, (64, 96))) == 0  # of the last two the rectangle is half empty
    (one,) = text_boxes(maps, (64, 96), box_threshold=0.45, unclip_ratio=0.0, binary_threshold=0.7)
    assert areas(one) == pytest.approx(20 * np.sqrt(2) * 10 * np.sqrt(2), rel=1e-3)
    assert len(text_boxes(maps, (64, 96), box_threshold=0.6)) == 1
    assert len(text_boxes(maps, (64, 96), binary_threshold=0.2, box_threshold=0.2)) == 3


def test_what_is_thinner_than_three_pixels_is_no_text():
    """One of three is 5.4 pixels wide once it is enlarged."""
    assert len(text_boxes(painted((10, 5, 12, 60, 0.9)), (64, 96))) == 0
    assert len(text_boxes(painted((10, 5, 13, 60, 0.9)), (64, 96))) == 1
    assert len(text_boxes(painted((10, 5, 13, 60, 0.9)), (64, 96), unclip_ratio=0.5)) == 0
    assert len(text_boxes(painted(), (64, 96))) == 0


@pytest.mark.parametrize("degrees", [-40, 0, 12, 75])
def test_a_shrunk_text_becomes_the_text_again(degrees):
    """What the network learns and what is made of it fit: the rectangle covers the text, turned as it is."""
    turn = np.deg2rad(degrees)
    quad = np.array([[-30, -10], [30, -10], [30, 10], [-30, 10]]) @ np.array(
        [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]
    ) + (50, 48)
    shrunk = text_maps(quad[None], np.zeros(1, bool), (96, 100))[TEXT]
    (found,) = text_boxes(shrunk * np.float32(0.95), (96, 100))
    masks = [np.zeros((96, 100), bool) for _ in range(2)]
    for mask, each in zip(masks, (quad, found), strict=True):
        window, inside, _ = surroundings(np.asarray(each, float), (96, 100))
        mask[window] = inside
    assert (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum() > 0.85
    assert np.sort(sides(found)) == pytest.approx(np.sort(sides(quad)), rel=0.15)
