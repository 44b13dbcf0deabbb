"""The area under the ROC curve is exact: ties, batches, the definition, scikit-learn's value."""

from __future__ import annotations

import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from quality.scikit_learn import roc_auc_score

from airank_fast.engine.distributed import World
from airank_fast.errors import UserError
from airank_fast.quality.auc import AUC, area

ALONE = World(0, 1, 0, 1, torch.device("cpu"))


def made_up(num: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """(scores, labels) with at most `levels` different scores."""
    rng = np.random.default_rng(num + levels)
    labels = rng.integers(0, 2, num)
    labels[:2] = 0, 1
    return np.floor(levels * rng.random(num) ** (2 - labels)).astype(np.float32), labels


@pytest.mark.parametrize("num", [2, 97, 301])
@pytest.mark.parametrize("levels", [1, 3, 20, 10_000])
def test_it_is_the_share_of_pairs_in_order_with_ties_at_half(num, levels):
    scores, labels = made_up(num, levels)
    high, low = scores[labels == 1, None].astype(int), scores[None, labels == 0].astype(int)
    twice = 2 * (high > low).sum() + (high == low).sum()
    assert area(scores, labels) == float(Fraction(int(twice), 2 * high.size * low.size))


@pytest.mark.parametrize("levels", [2, 100, 2**23])
def test_it_is_scikit_learns(levels):
    scores, labels = made_up(50_000, levels)
    assert abs(area(scores, labels) - roc_auc_score(labels, scores)) < 1e-12


@pytest.mark.parametrize(("scores", "value"), [([1, 2, 3, 4], 1.0), ([4, 3, 2, 1], 0.0), ([7, 7, 7, 7], 0.5)])
def test_the_ends_of_its_range(scores, value):
    assert area(np.array(scores), np.array([0, 0, 1, 1])) == value


def test_infinite_scores_have_an_order_and_nan_has_none():
    labels = np.array([0, 1, 0, 1])
    assert area(np.array([-np.inf, np.inf, 0.0, np.inf]), labels) == 1
    assert math.isnan(area(np.array([0.0, np.nan, 0.0, 1.0]), labels))


@pytest.mark.parametrize("label", [0, 1])
def test_a_set_of_one_label_is_refused(label):
    with pytest.raises(UserError, match=r"evaluation set: must be of both labels, got \d ones, \d zeros"):
        area(np.arange(3.0), np.full(3, label))


@pytest.mark.parametrize("size", [1, 64, 500])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_does_not_depend_on_batches(size, dtype):
    scores, labels = made_up(500, 60)
    meter, order = AUC("auc"), np.random.default_rng(0).permutation(500)
    for first in range(0, 500, size):
        chosen = order[first : first + size]
        batch = SimpleNamespace(samples=torch.from_numpy(chosen), labels=torch.from_numpy(labels[chosen]))
        meter.update(torch.from_numpy(scores[chosen]).to(dtype), batch)
    assert meter.values(ALONE) == {"auc": area(scores, labels)}  # 60 levels are exact in bfloat16
    assert meter.counts == {}
