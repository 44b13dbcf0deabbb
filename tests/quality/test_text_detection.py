"""Detections against ICDAR 2015's protocol, in cases that are worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from airank_fast.engine.distributed import World
from airank_fast.errors import UserError
from airank_fast.quality.text_detection import TextDetection, match

pytest.importorskip("shapely")

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, 1, CPU)


def box(left, top, right, bottom):
    """The corners of a rectangle."""
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def counted(found, texts, ignored=()):
    """`match` of rectangles, of which the texts with these numbers are ignored."""
    flags = np.array([number in ignored for number in range(len(texts))], bool)
    quads = [np.array([box(*each) for each in boxes], float).reshape(-1, 4, 2) for boxes in (found, texts)]
    return match(*quads, flags)


TEXT = (0, 0, 100, 10)


@pytest.mark.parametrize(
    ("found", "texts", "ignored", "expected"),
    [
        # Intersection / union of a shift by 33 of 100: 67 / 133 = 0.504; by 34: 66 / 134 = 0.4925.
        ([(33, 0, 133, 10)], [TEXT], (), (1, 1, 1)),
        ([(34, 0, 134, 10)], [TEXT], (), (0, 1, 1)),
        # Half of the text, exactly 0.5: not above it.
        ([(0, 0, 50, 10)], [TEXT], (), (0, 1, 1)),
        # Two detections of one text: one matches, the other is wrong. Two texts, one detection.
        ([TEXT, TEXT], [TEXT], (), (1, 2, 1)),
        ([TEXT], [TEXT, TEXT], (), (1, 1, 2)),
        # A detection that an ignored text covers by 60 of 100 does not count; by 50 it does, and is wrong.
        ([(40, 0, 140, 10)], [TEXT, (500, 0, 600, 10)], (0,), (0, 0, 1)),
        ([(50, 0, 150, 10)], [TEXT, (500, 0, 600, 10)], (0,), (0, 1, 1)),
        # It does not count even where it matches another text, which then is missed.
        ([TEXT], [TEXT, (0, 0, 80, 10)], (1,), (0, 0, 1)),
        # An ignored text that nothing finds is not missed.
        ([], [TEXT], (0,), (0, 0, 0)),
        ([TEXT], [], (), (0, 1, 0)),
        ([], [], (), (0, 0, 0)),
        # The first text takes the first detection that fits, the second then the second, which fits both.
        ([(20, 0, 120, 10), (10, 0, 110, 10)], [TEXT, (30, 0, 130, 10)], (), (2, 2, 2)),
        # In turn, not the most matches: the first text takes 20-120, and 0-100 does not fit the second, 40-140.
        ([(20, 0, 120, 10), TEXT], [TEXT, (40, 0, 140, 10)], (), (1, 2, 2)),
    ],
)
def test_matches_of_a_picture(found, texts, ignored, expected):
    assert counted(found, texts, ignored) == expected


def test_turned_and_other_quadrilaterals():
    """A diamond in its square covers half of it: 0.5 is no match; a little more is. Bow ties are left out."""
    square = np.array([box(0, 0, 20, 20)], float)
    diamond = np.array([[[10, 0], [20, 10], [10, 20], [0, 10]]], float)
    none = np.zeros(1, bool)
    assert match(diamond, square, none) == (0, 1, 1)
    assert match((diamond - 10) * 1.01 + 10, square, none) == (1, 1, 1)
    bow_tie = np.array([[[0, 0], [20, 20], [20, 0], [0, 20]]], float)
    assert match(square, bow_tie, none) == (0, 1, 0)
    assert match(square[:, ::-1], square, none) == (1, 1, 1)


PICTURES = [
    ([TEXT, (500, 0, 600, 10)], [TEXT, (0, 50, 100, 60)], ()),  # 1 match, 2 detections, 2 texts
    ([TEXT], [TEXT, (0, 50, 100, 60), (0, 80, 100, 90)], (2,)),  # 1, 1, 2
    ([], [TEXT], ()),  # 0, 0, 1
    ([(500, 0, 600, 10)], [], ()),  # 0, 1, 0
]


def batch_of(part):
    """(outputs, batch) of the pictures with these numbers."""
    pictures = [PICTURES[number] for number in part]
    quads = [np.array([box(*each) for each in texts], float).reshape(-1, 4, 2) for _, texts, _ in pictures]
    outputs = [np.array([box(*each) for each in found], float).reshape(-1, 4, 2) for found, _, _ in pictures]
    ignored = [np.array([n in out for n in range(len(texts))], bool) for _, texts, out in pictures]
    return outputs, SimpleNamespace(truth=SimpleNamespace(quads=quads, ignored=ignored), images=torch.empty(len(part)))


def meter_of(parts):
    meter = TextDetection()
    for part in parts:
        meter.update(*batch_of(part))
    return meter


@pytest.mark.parametrize("parts", [[[0, 1, 2, 3]], [[3], [0, 2], [1]]])
def test_counts_are_summed_over_the_set(parts):
    """2 matches of 4 detections and of 5 texts, in any batches; the mean over pictures would be another number."""
    values = meter_of(parts).values(ALONE)
    assert values == {"h_mean": pytest.approx(4 / 9), "precision": 0.5, "recall": 0.4}


def test_counts_are_summed_over_ranks():
    """Of two ranks, one of which had no picture in another case."""
    for mine, others in (([[0, 1]], [[2], [3]]), ([], [[0, 1, 2, 3]])):
        theirs = torch.stack([TextDetection().amounts(*batch_of(part)) for part in others]).sum(0)
        ranks = SimpleNamespace(device=CPU, sum=lambda tensor, theirs=theirs: tensor + theirs)
        assert meter_of(mine).values(ranks) == {"h_mean": pytest.approx(4 / 9), "precision": 0.5, "recall": 0.4}


def test_no_detections_and_no_texts():
    assert meter_of([[2]]).values(ALONE) == {"h_mean": 0.0, "precision": 0.0, "recall": 0.0}
    with pytest.raises(UserError, match="evaluation set: must be one with a text that counts, got none"):
        meter_of([[3]]).values(ALONE)
