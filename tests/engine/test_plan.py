"""Steps, epochs and evaluations of a run."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from airank_fast.engine.plan import Plan
from airank_fast.job import Schedule, Span
from airank_fast.recipes.schedule import decay_under_warmup, polynomial_decay


def plan(n=1281167, batch=1632, epochs=40, every=4, offset=0):
    schedule = Schedule(Span(epochs, "epochs"), Span(every, "epochs"), offset)
    return Plan(schedule, n, batch, world_size=8)


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


def test_decay_goes_on_under_the_warm_up():
    kwargs = {"base": 2.0, "end": 0.0, "power": 0.5, "warmup_steps": 25, "total_steps": 100}
    rates = [decay_under_warmup(step, **kwargs) for step in range(101)]
    assert rates[:25] == pytest.approx([2.0 * (step + 1) / 25 for step in range(25)])
    assert rates[25:] == pytest.approx([2.0 * (1 - step / 100) ** 0.5 for step in range(25, 101)])
    begun = [decay_under_warmup(step, **kwargs, start_warmup_step=-20) for step in range(6)]
    assert begun[:5] == pytest.approx(rates[20:25])
    assert begun[5] == pytest.approx(2.0 * 0.95**0.5)
    assert decay_under_warmup(0, **kwargs, start_warmup_step=-700) == 2.0


def in_steps(total: float, every: float, unit: str, offset: float = 0, n: int = 1000) -> Plan:
    return Plan(Schedule(Span(total, "steps"), Span(every, unit), offset), n, 32, world_size=1)


def test_a_run_planned_in_samples():
    planned = in_steps(100, 1000, "samples")
    assert planned.evaluations() == [(1, 32), (2, 63), (3, 94), (3, 100)]
    assert [step for step in range(1, 101) if planned.epochs_ending_at(step)] == [32, 63, 94]
    assert planned.block(64, 2) == {}


def test_evaluations_more_often_than_steps_come_once_a_step():
    assert in_steps(3, 10, "samples").evaluations() == [(0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize(
    ("planned", "evaluations"),
    [
        (in_steps(100, 30, "steps"), [(0, 30), (1, 60), (2, 90), (3, 100)]),
        (in_steps(100, 10, "steps"), [(k * 320 // 1000, 10 * k) for k in range(1, 11)]),  # three in an epoch
        (in_steps(100, 30, "steps", 5), [(0, 5), (1, 35), (2, 65), (3, 95), (3, 100)]),
        (in_steps(63, 0.25, "epochs"), [(0, 8), (0, 16), (0, 24), (1, 32), (1, 40), (1, 47), (1, 55), (2, 63)]),
        (Plan(Schedule(Span(2500, "samples"), Span(1, "epochs")), 1000, 32, 1), [(1, 32), (2, 63), (2, 79)]),
    ],
)
def test_evaluations_may_be_counted_in_steps_samples_or_parts_of_epochs(planned, evaluations):
    assert planned.evaluations() == evaluations
    assert planned.total_steps == evaluations[-1][1]


def test_a_block_is_called_by_its_epochs_where_evaluations_come_after_whole_ones():
    assert plan(100, 10, epochs=3, every=1).block(100, 3) == {"first_epoch": 2, "epoch_count": 2}
    assert in_steps(63, 0.25, "epochs").block(0, 0) == {}
    assert in_steps(63, 10, "steps").block(0, 0) == {}
