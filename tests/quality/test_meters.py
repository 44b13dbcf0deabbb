"""Meters are exact over all ranks: uneven ranks, batches of any size, ranks without a batch, duplicates."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from quality.scikit_learn import roc_auc_score
from ranks import on_two_ranks

from airank_fast.engine.distributed import World
from airank_fast.errors import UserError
from airank_fast.quality.accuracy import Accuracy
from airank_fast.quality.records import Records

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
NUM = 101


class RankingQuality(Records):
    """Area under the ROC curve, and the number of words of a column of objects."""

    def record(self, outputs, batch):
        return batch.samples, {"score": outputs, "label": batch.labels, "words": batch.words}

    def compute(self, columns):
        words = sum(len(words) for words in columns["words"])
        return {"auc": roc_auc_score(columns["label"], columns["score"]), "words": float(words)}


def samples(chosen) -> tuple[torch.Tensor, SimpleNamespace]:
    """(scores, batch) of the samples with these numbers, the same on every rank."""
    rng = np.random.default_rng(0)
    labels, noise = rng.integers(0, 2, NUM), rng.normal(size=NUM)
    scores = torch.tensor(labels + 1.5 * noise)[chosen]
    words = [["word"] * (number % 3) for number in chosen]
    batch = SimpleNamespace(samples=torch.tensor(chosen), labels=torch.tensor(labels)[chosen], words=words)
    return scores, batch


def guesses(labels: list[int], right: int) -> tuple[torch.Tensor, SimpleNamespace]:
    """(logits, batch) of labels of 0 ... 4, of which the first `right` are predicted."""
    guessed = torch.tensor(labels)
    guessed[right:] = (guessed[right:] + 1) % 5
    return torch.nn.functional.one_hot(guessed % 5, 5), SimpleNamespace(labels=torch.tensor(labels))


def test_accuracy_counts_labels_that_are_not_ignored():
    meter = Accuracy("top1")
    meter.update(*guesses([0, 1, 2, 3, 4], right=3))
    meter.update(*guesses([1, -100, -100], right=1))
    assert meter.values(ALONE) == meter.values(ALONE) == {"top1": 4 / 6}
    assert meter.counts == {"correct": 4, "counted": 6}


@pytest.mark.parametrize("meter", [Accuracy("top1"), RankingQuality()])
def test_an_empty_evaluation_set_is_refused(meter):
    with pytest.raises(UserError, match="evaluation set: must be one with a"):
        meter.values(ALONE)


@pytest.mark.parametrize("sizes", [[NUM], [1] * NUM, [50, 1, 50]])
def test_records_do_not_depend_on_batches(sizes):
    meter, order = RankingQuality(), iter(np.random.default_rng(1).permutation(NUM).tolist())
    for size in sizes:
        meter.update(*samples([next(order) for _ in range(size)]))
    scores, batch = samples(list(range(NUM)))
    assert meter.values(ALONE) == {"auc": roc_auc_score(batch.labels, scores), "words": 100.0}
    assert meter.counts == {}


def test_of_samples_that_come_twice_the_first_counts():
    meter = RankingQuality()
    meter.update(*samples(list(range(60))))
    again, batch = samples(list(range(50, NUM)))
    again[:10] = 1000.0  # of another pass over the same samples
    meter.update(again, batch)
    scores, batch = samples(list(range(NUM)))
    assert meter.values(ALONE)["auc"] == roc_auc_score(batch.labels, scores)


def test_scores_of_16_bits_are_compared_as_they_are():
    scores, batch = samples(list(range(NUM)))
    meter = RankingQuality()
    meter.update(scores.bfloat16(), batch)
    assert meter.values(ALONE)["auc"] == roc_auc_score(batch.labels, scores.bfloat16().double())


SHARES = {  # batches of each rank
    "uneven": ([[*range(70)], [*range(70, 95)]], [[*range(95, NUM)]]),
    "filled up": ([[*range(60)]], [[*range(60, NUM)], [*range(30)]]),
    "one rank idle": ([[*range(NUM)]], []),
}


def measure(rank: int) -> dict:
    results = {}
    world = World(rank, 2, rank, 2, torch.device("cpu"))
    for name, of_ranks in SHARES.items():
        meter, accuracy = RankingQuality(), Accuracy("top1")
        for chosen in of_ranks[rank]:
            meter.update(*samples(chosen))
            accuracy.update(*guesses([number % 5 for number in chosen], right=len(chosen) // 2))
        results[name] = meter.values(world), accuracy.values(world), accuracy.counts
    return results


def test_two_ranks_measure_what_one_does():
    scores, batch = samples(list(range(NUM)))
    expected = {"auc": roc_auc_score(batch.labels, scores), "words": 100.0}
    measured = on_two_ranks(measure)
    for name, of_ranks in SHARES.items():
        batches = [chosen for of_rank in of_ranks for chosen in of_rank]
        counts = {"correct": sum(len(b) // 2 for b in batches), "counted": sum(map(len, batches))}
        for results in measured:
            of_records, of_sums, counted = results[name]
            assert of_records == expected, name
            assert of_sums == {"top1": counts["correct"] / counts["counted"]}
            assert counted == counts
