"""mIoU against its definition, scikit-learn's Jaccard index, and over any batches."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from airank_fast.engine.distributed import World
from airank_fast.errors import UserError
from airank_fast.quality.mean_iou import MeanIoU

ALONE = World(0, 1, 0, 1, torch.device("cpu"))


def pictures(classes: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions int64 [5, 9, 7] and labels uint8, in which class 4 is in neither and 255 ignored."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 3, 5], (5, 9, 7))
    guesses = np.where(rng.random(labels.shape) < 0.6, labels, rng.choice([0, 1, 2, 3], labels.shape))
    labels[rng.random(labels.shape) < 0.2] = 255
    return torch.from_numpy(guesses), torch.from_numpy(labels.astype(np.uint8))


def of_batches(parts) -> dict[str, float]:
    meter, (guesses, labels) = MeanIoU(6), pictures()
    for part in parts:
        meter.update(guesses[part], SimpleNamespace(labels=labels[part]))
    return meter.values(ALONE)


def expected() -> float:
    guesses, labels = pictures()
    counted = labels != 255
    from sklearn.metrics import jaccard_score

    return jaccard_score(labels[counted], guesses[counted], average="macro", labels=[0, 1, 2, 3, 5])


@pytest.mark.parametrize("parts", [[[0, 1, 2, 3, 4]], [[3], [0, 4], [1, 2]]])
def test_one_matrix_over_all_batches(parts):
    """A class of neither labels nor predictions is left out of the mean."""
    assert of_batches(parts) == {"mean_iou": pytest.approx(expected(), abs=1e-15)}


def test_the_matrix_has_labels_in_rows():
    meter, (guesses, labels) = MeanIoU(6), pictures()
    meter.update(guesses, SimpleNamespace(labels=labels))
    meter.values(ALONE)
    counted = labels != 255
    from sklearn.metrics import confusion_matrix

    assert np.array_equal(meter.matrix, confusion_matrix(labels[counted], guesses[counted], labels=range(6)))
    assert meter.counts == {}


def test_a_constant_has_the_share_of_its_class_by_the_number_of_classes():
    meter, (guesses, labels) = MeanIoU(6), pictures()
    meter.update(torch.zeros_like(guesses), SimpleNamespace(labels=labels))
    share = (labels == 0).sum() / (labels != 255).sum()
    assert meter.values(ALONE)["mean_iou"] == pytest.approx(share.item() / 5)


def test_an_evaluation_set_without_labels():
    meter, (guesses, labels) = MeanIoU(6), pictures()
    meter.update(guesses, SimpleNamespace(labels=torch.full_like(labels, 255)))
    with pytest.raises(UserError, match="evaluation set: must be one with a labelled pixel, got none"):
        meter.values(ALONE)
