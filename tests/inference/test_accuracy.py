"""The gate: what an engine's predictions are worth, by whole numbers, and what is shown where they are not enough."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from airank_fast import tasks
from airank_fast.inference.accuracy import Predictions, Reference, gate
from airank_fast.rules.inference_profiles import bounds

RESNET = tasks.find("resnet50")
MASK_RCNN = tasks.find("mask_rcnn")


def judged(correct, counted, reference):
    quality = {"top1": correct / counted}
    return gate(RESNET, quality, {"correct": correct, "counted": counted}, reference, 0.99)


@pytest.mark.parametrize(
    ("of_reference", "counted", "least"), [(352, 355, 349), (300, 355, 297), (100, 100, 99), (38_050, 50_000, 37_670)]
)
def test_a_share_of_the_same_weights_is_compared_by_counts(of_reference, counted, least):
    reference = Reference({}, {"top1": of_reference / counted}, {"correct": of_reference, "counted": counted})
    for correct, passes in ((least, True), (least - 1, False), (counted, True)):
        required, passed = judged(correct, counted, reference)
        assert passed is passes
        assert (Fraction(repr(required)) * counted <= correct) is passes, "as a reader of the event judges it"
        assert required == pytest.approx(0.99 * of_reference / counted, rel=1e-12)


@pytest.mark.parametrize(("correct", "passes"), [(37_848, True), (37_847, False)])
def test_published_weights_must_reach_the_number_of_the_profile(correct, passes):
    """0.99 x 76.46 % = 75.6954 %, which 37,847.7 of 50,000 are."""
    reference = Reference({}, {"top1": 0.9}, {"correct": 45_000, "counted": 50_000}, bounds("resnet50", "v6.1"))
    assert judged(correct, 50_000, reference)[1] is passes
    assert reference.event()["quality"] == {"top1": 0.7646}


@pytest.mark.parametrize(("values", "passes"), [((0.4, 0.36), True), ((0.4, 0.30), False), ((0.30, 0.36), False)])
def test_a_metric_without_counts_is_compared_by_value_and_every_metric_counts(values, passes):
    reference = Reference({}, {"box_ap": 0.4, "mask_ap": 0.36})
    quality = dict(zip(("box_ap", "mask_ap"), values, strict=True))
    required, passed = gate(MASK_RCNN, quality, {}, reference, 0.99)
    assert passed is passes
    assert required == pytest.approx(0.99 * 0.4)


def test_not_a_number_does_not_pass():
    reference = Reference({}, {"box_ap": 0.4, "mask_ap": 0.36})
    assert not gate(MASK_RCNN, {"box_ap": float("nan"), "mask_ap": 0.5}, {}, reference, 0.99)[1]


def test_predictions_are_read_as_they_were_written(tmp_path):
    output = np.arange(6, dtype=np.float32).reshape(3, 1, 2)
    arrays = {"index": [0, 1, 2], "response": np.float32([1, 0, 1, 5]), "offset": [0, 1, 3, 4]}
    np.savez(tmp_path / "p.npz", **arrays, output=output)
    found = Predictions.read(tmp_path / "p.npz", {"top1": 0.5}, {"correct": 1, "counted": 2})
    assert found.responses == {i: np.float32(v).tobytes() for i, v in ((0, [1]), (1, [0, 1]), (2, [5]))}
    assert torch.equal(found.outputs[2], torch.tensor([[4.0, 5.0]]))
    np.savez(tmp_path / "q.npz", **arrays)
    assert Predictions.read(tmp_path / "q.npz", {}, {}).outputs is None
