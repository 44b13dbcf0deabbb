"""Exact match and edit distance of recognised lines, against the definitions; the same over any batches and ranks."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch

from airank_fast.engine.distributed import World
from airank_fast.errors import UserError
from airank_fast.quality.text_match import TextMatch, edit_distance

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
PATHS = torch.tensor([[1, 0, 2, 0], [0, 0, 0, 0], [3, 3, 1, 2], [1, 2, 3, 0]])
TEXTS = [(1, 2), (2,), (3, 3, 2), (1, 2, 3, 3, 3, 3)]  # the last one has more characters than steps


def by_definition(a, b) -> int:
    """Levenshtein's recurrence, a row at a time."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        above, row = row, [i]
        for j, right in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (left != right)))
    return row[-1]


def test_edit_distance():
    rng = random.Random(0)
    for _ in range(400):
        a, b = (tuple(rng.choices(range(1, 4), k=rng.randrange(9))) for _ in range(2))
        assert edit_distance(a, b) == by_definition(a, b)
    assert edit_distance("kitten" * 20, "sitting" * 20) == by_definition("kitten" * 20, "sitting" * 20)


@pytest.mark.parametrize("parts", [[[0, 1, 2, 3]], [[3], [0, 2], [1]], [[0, 1], [1, 2, 3]]])
def test_every_line_counts_once_also_one_that_is_too_long(parts):
    meter = TextMatch()
    for numbers in parts:
        targets = SimpleNamespace(each=lambda numbers=numbers: [TEXTS[number] for number in numbers])
        meter.update(PATHS[numbers], SimpleNamespace(samples=torch.tensor(numbers), targets=targets))
    distances = [0, 1 / 1, 1 / 4, 3 / 6]
    assert meter.values(ALONE) == {"exact_match": 0.25, "one_minus_ned": pytest.approx(1 - sum(distances) / 4)}
    assert meter.counts == {"correct": 1, "counted": 4}


def test_an_empty_evaluation_set():
    with pytest.raises(UserError, match="evaluation set: must be one with a sample, got none"):
        TextMatch().values(ALONE)
