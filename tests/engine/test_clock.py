"""The clock: every step once, in order, with its own loss, without waiting for the device."""

from __future__ import annotations

import math

import pytest
import torch

from airank_fast.data.images import ImageBatch
from airank_fast.engine.clock import Clock, NanLoss

CPU = torch.device("cpu")


def batches():
    while True:
        yield ImageBatch(torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))


def run(clock, losses, first_step=1):
    source = batches()
    for step, loss in enumerate(losses, first_step):
        taken = clock.next_batches(source, 2)
        assert len(taken) == 2
        clock.start()
        clock.stop(step, torch.tensor([loss]), 0.1 * step, taken)


def test_every_step_is_reported_once_with_its_loss():
    events = []
    clock = Clock(lambda kind, **fields: events.append(fields), CPU, batch_size=4)
    run(clock, [3.0, 2.0, 1.0])
    clock.finish_block()
    run(clock, [0.5], first_step=4)
    clock.finish_block()
    assert [(e["first_step"], e["num_steps"], e["samples"]) for e in events] == [(1, 3, 12), (4, 1, 4)]
    assert [loss for e in events for loss in e["loss"]] == [3.0, 2.0, 1.0, 0.5]
    assert clock.losses == [[3.0], [2.0], [1.0], [0.5]]
    assert clock.core_s == pytest.approx(sum(s for e in events for s in e["core_s"]), abs=1e-5)
    assert all(len(e[name]) == e["num_steps"] for e in events for name in ("lr", "core_s", "wait_s", "h2d_s"))


def test_a_nan_is_named_by_its_step_and_reported():
    events = []
    clock = Clock(lambda kind, **fields: events.append(fields), CPU, batch_size=4)
    with pytest.raises(NanLoss) as stopped:
        run(clock, [1.0, math.nan, 1.0])
    assert stopped.value.step == 2
    assert "step 2" in str(stopped.value)
    assert math.isnan(events[-1]["loss"][-1])


def test_several_losses_are_reported_by_name_and_as_their_sum():
    events = []
    clock = Clock(lambda kind, **fields: events.append(fields), CPU, 4, ("generator", "discriminator"))
    source = batches()
    for step, losses in enumerate([[1.0, 0.5], [0.25, 2.0]], 1):
        taken = clock.next_batches(source, 1)
        clock.start()
        clock.stop(step, torch.tensor(losses), 0.1, taken)
    clock.finish_block()
    (event,) = events
    assert event["losses"] == {"generator": [1.0, 0.25], "discriminator": [0.5, 2.0]}
    assert event["loss"] == [1.5, 2.25]
    assert (clock.samples, clock.units) == (4, 4)
    clock.start()
    with pytest.raises(NanLoss, match=r"^loss of discriminator: must be a finite number, got nan at step 3$"):
        clock.stop(3, torch.tensor([0.0, math.nan]), 0.1, taken)


def test_a_disabled_clock_reports_nothing():
    events = []
    clock = Clock(lambda kind, **fields: events.append(fields), CPU, batch_size=4, enabled=False)
    run(clock, [math.nan])
    clock.finish_block()
    assert events == []
    assert clock.core_s == 0


@pytest.mark.gpu
def test_a_step_with_the_clock_on_never_waits_for_the_device():
    device = torch.device("cuda")
    clock = Clock(lambda kind, **fields: None, device, batch_size=4)
    source = batches()
    work = torch.randn(2048, 2048, device=device)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(1, 30):
            taken = clock.next_batches(source, 1)
            clock.start()
            losses = (work @ work).mean(0, keepdim=True).mean(1)
            clock.stop(step, losses, 0.1, taken)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    clock.finish_block()
    assert len(clock.losses) == 29
    assert clock.core_s > 0
