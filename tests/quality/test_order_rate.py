"""Order rate, AUC and recall against their definitions and scikit-learn; the same over any batches and ranks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from quality.scikit_learn import roc_auc_score

from airank_fast.engine.distributed import World
from airank_fast.errors import UserError
from airank_fast.quality.order_rate import OrderRate, Retrieval, halves_in_order, of_scores

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
NUM = 60


def vectors(seed: int, num: int = NUM) -> torch.Tensor:
    """Vectors of length 1, of few different values, so that scores are equal often."""
    drawn = torch.randint(-1, 2, (num, 3), generator=torch.Generator().manual_seed(seed)).float()
    return torch.nn.functional.normalize(drawn + torch.tensor([0.5, 0.0, 0.0]), dim=1)


LABELS = torch.arange(NUM) % 3 % 2
QUERIES = torch.arange(NUM) * 7 % 11
OUTPUTS = vectors(1), vectors(2)


def measured(kind, chosen_of_batches, outputs=OUTPUTS):
    meter = kind()
    for chosen in chosen_of_batches:
        batch = SimpleNamespace(samples=torch.tensor(chosen), labels=LABELS[chosen], query=QUERIES[chosen])
        meter.update(tuple(each[chosen] for each in outputs), batch)
    return meter.values(ALONE)


WAYS = {
    "one batch": [list(range(NUM))],
    "single samples": [[number] for number in range(NUM)],
    "any order": [[*range(40, NUM)], [*range(3)], [*range(39, 2, -1)]],
    "some twice": [[*range(50)], [*range(30, NUM)]],
}


def share(pairs) -> float:
    """Of (score of the matching one, of the other): one by one."""
    return float(np.mean([1.0 if own > other else 0.5 if own == other else 0.0 for own, other in pairs]))


def test_pairs_are_counted_one_by_one():
    assert halves_in_order(np.array([0.5, 0.2]), np.array([0.1, 0.2, 0.9])) == 2 * 3 + 1
    assert halves_in_order(np.array([]), np.array([1.0])) == halves_in_order(np.array([1.0]), np.array([])) == 0


@pytest.mark.parametrize("way", WAYS)
def test_labelled_pairs(way):
    scores = (OUTPUTS[0] * OUTPUTS[1]).sum(1).numpy()
    labels, queries = LABELS.numpy(), QUERIES.numpy()
    pairs = [
        (scores[i], scores[j])
        for i in np.flatnonzero(labels == 1)
        for j in np.flatnonzero(labels == 0)
        if queries[i] == queries[j]
    ]
    assert any(own == other for own, other in pairs)
    values = measured(OrderRate, WAYS[way])
    assert values == {"order_rate": pytest.approx(share(pairs)), "auc": pytest.approx(roc_auc_score(labels, scores))}


@pytest.mark.parametrize("way", WAYS)
def test_retrieval(way):
    scores = OUTPUTS[0].numpy() @ OUTPUTS[1].numpy().T
    pairs = [(scores[i, i], scores[i, j]) for i in range(NUM) for j in range(NUM) if i != j]
    ranks = [1 + sum(scores[i, j] >= scores[i, i] for j in range(NUM) if j != i) for i in range(NUM)]
    values = measured(Retrieval, WAYS[way])
    assert values == measured(Retrieval, WAYS["one batch"])
    assert values["order_rate"] == pytest.approx(share(pairs))
    assert values["auc"] == pytest.approx(roc_auc_score(np.eye(NUM).ravel(), scores.ravel()))
    assert values["recall_at_10"] == pytest.approx(np.mean([rank <= 10 for rank in ranks]))


def test_perfect_and_constant_scores():
    assert of_scores(np.eye(20)) == {"order_rate": 1.0, "auc": 1.0, "recall_at_10": 1.0}
    assert of_scores(np.zeros((20, 20))) == {"order_rate": 0.5, "auc": 0.5, "recall_at_10": 0.0}


def test_a_set_that_cannot_be_ordered_is_refused():
    with pytest.raises(UserError, match="evaluation set: must be one with at least 2 queries, got 1"):
        measured(Retrieval, [[0]])
    with pytest.raises(UserError, match="evaluation set: must be one with a query whose documents match and do not"):
        measured(OrderRate, [[0, 1]])
    with pytest.raises(UserError, match="evaluation set: must be one with a sample, got none"):
        measured(OrderRate, [])
