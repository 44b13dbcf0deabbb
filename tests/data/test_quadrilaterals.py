"""Quadrilaterals: areas and sides by hand, pixels inside and their distance from the outline against shapely."""

from __future__ import annotations

import numpy as np
import pytest

from airank_fast.data.images.quadrilaterals import areas, sides, surroundings

SQUARE = np.array([[10, 20], [40, 20], [40, 60], [10, 60]], float)
ARROW = np.array([[5, 5], [50, 30], [5, 55], [25, 30]], float)  # not convex
TURNED = np.array([[30.5, 4.25], [58, 31], [33, 55.5], [3.75, 29]])


def test_areas_and_sides():
    """Of a rectangle of 30 x 40 either way around, and of one with a triangle of 20 x 50 / 2 cut out."""
    quads = np.stack([SQUARE, SQUARE[::-1], ARROW])
    assert areas(quads).tolist() == [1200, 1200, 45 * 50 / 2 - 20 * 50 / 2]
    assert sides(quads)[:2].tolist() == [[30, 40, 30, 40], [30, 40, 30, 40]]


@pytest.mark.parametrize("quad", [SQUARE, SQUARE[::-1], ARROW, TURNED], ids=["square", "other way", "arrow", "turned"])
@pytest.mark.parametrize("margin", [0.0, 6.5])
def test_pixels_around_a_quadrilateral(quad, margin):
    shapely = pytest.importorskip("shapely")
    window, inside, distance = surroundings(quad, (57, 55), margin)
    y, x = (np.arange(side)[part] + 0.5 for side, part in zip((57, 55), window, strict=True))
    points = shapely.points(*np.meshgrid(x, y))
    polygon = shapely.polygons(quad)
    assert np.array_equal(inside, shapely.contains(polygon, points))
    np.testing.assert_allclose(distance, shapely.distance(polygon.exterior, points), atol=1e-4)
    low, high = np.floor(quad.min(0) - margin).clip(0), np.ceil(quad.max(0) + margin).clip(0, (55, 57))
    assert [(part.start, part.stop) for part in window] == [(low[1], high[1]), (low[0], high[0])]


def test_a_quadrilateral_outside_of_the_picture_has_no_pixels():
    window, inside, distance = surroundings(SQUARE + 100, (57, 55))
    assert inside.shape == distance.shape == (0, 0)
    assert np.zeros((57, 55))[window].shape == (0, 0)
