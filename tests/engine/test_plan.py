"""Steps, epochs and evaluations of a run."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from airank_fast.engine.plan import Plan
from airank_fast.recipes.schedule import polynomial_decay


def plan(n=1281167, batch=1632, epochs=40, every=4, offset=0):
    return Plan(n, batch, epochs, every, offset, world_size=8)


def test_imagenet_evaluates_every_four_epochs():
    epochs = [epoch for epoch, _ in plan().evaluations()]
    assert epochs == list(range(4, 41, 4))


@pytest.mark.parametrize(("offset", "first", "last"), [(1, 1, 40), (3, 3, 40)])
def test_offset_moves_the_evaluations_and_the_last_epoch_is_always_evaluated(offset, first, last):
    epochs = [epoch for epoch, _ in plan(offset=offset).evaluations()]
    assert epochs[0] == first
    assert epochs[-1] == last


@pytest.mark.parametrize(("n", "batch"), [(1438, 32), (1000, 1000), (97, 10), (1281167, 1632), (64, 64), (65, 64)])
def test_every_epoch_ends_once_and_never_early(n, batch):
    p = plan(n, batch, epochs=7, every=1)
    ends = {epoch: step for step in range(1, p.total_steps + 1) for epoch in p.epochs_ending_at(step)}
    assert sorted(ends) == list(range(1, 8))
    for epoch, step in ends.items():
        assert step * batch >= epoch * n > (step - 1) * batch
        assert step == math.ceil(epoch * n / batch)


def test_learning_rate_warms_up_linearly_and_decays_to_the_end_value():
    kwargs = {"base": 2.0, "end": 1e-4, "power": 2, "warmup_steps": 10, "decay_steps": 100}
    rates = [polynomial_decay(step, **kwargs) for step in range(115)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == pytest.approx(2.0)
    assert rates[60] == pytest.approx(1e-4 + (2 - 1e-4) * 0.25)
    assert rates[110:] == [1e-4] * 5
    assert all(a > b for a, b in pairwise(rates[10:110]))


def test_learning_rate_without_warm_up_starts_at_the_base():
    assert polynomial_decay(0, base=1.0, end=0.0, power=2, warmup_steps=0, decay_steps=5) == 1.0
