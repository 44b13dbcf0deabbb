"""A step of two updates: gradients of each learner, logs, checkpoints, ranks, resuming; targets of several metrics."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice

import pytest
import torch
from engine import toy
from ranks import on_two_ranks
from safetensors.torch import load_file
from torch.nn.functional import softplus

from airank_fast.engine.distributed import World
from airank_fast.engine.state import State
from airank_fast.errors import UserError
from airank_fast.optim import FusedSGD
from airank_fast.record.events import effective, read_events
from airank_fast.record.metrics import summarize
from airank_fast.rules.event_fields import troubles


def saved(directory) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint: weights, optimizers, job."""
    path = max((directory / "checkpoints").iterdir())
    state = torch.load(path / "state.pt", weights_only=True)
    found = {
        f"{n}.{k}": t for n in ("generator", "discriminator") for k, t in load_file(path / f"{n}.safetensors").items()
    }
    for name, optimizer in state["optimizers"].items():
        for number, values in optimizer["state"].items():
            found |= {f"{name}/{number}/{key}": value for key, value in values.items() if value is not None}
    for rank, mine in enumerate(state["ranks"]):
        found |= {f"pool of {rank}": mine["job"]["pool"], f"rng of {rank}": mine["rng"]}
    return found


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, tensor in one.items() if not torch.equal(tensor, other[name])] == []


def logged(directory, kind: str) -> list[dict]:
    return [event for event in effective(read_events(directory / "events.jsonl")) if event["kind"] == kind]


@pytest.mark.parametrize("parts", [1, 2])
def test_a_step_is_the_updates_one_after_the_other(parts):
    """Against plain torch: the generator's gradient through the discriminator, then the discriminator's alone."""
    job = toy.Job(replace(toy.Recipe(), gradient_accumulation_steps=parts))
    job.open_data(toy.ALONE, torch.device("cpu"), torch.float32)
    state, batches = State(job, toy.ALONE), job.train_batches(0)
    plain = {name: network.requires_grad_(True) for name, network in job.build().items()}
    for name, network in plain.items():
        network.load_state_dict(state.networks[name].state_dict())
    optimizers, pool = job.optimizers(plain), torch.zeros(0, 2)
    generator, discriminator = plain["generator"], plain["discriminator"]
    for _ in range(3):
        micro_batches = [next(batches) for _ in range(parts)]
        losses = state.step(micro_batches, learning_rate=0.05)
        fakes, expected = [generator(batch.noise) for batch in micro_batches], []
        gradients = []
        loss = sum(softplus(-discriminator(fake)).mean() / parts for fake in fakes)
        gradients.append(torch.autograd.grad(loss, list(generator.parameters())))
        expected.append(loss.item())
        update(optimizers[0], generator, gradients[0])
        loss = 0.0
        for batch, fake in zip(micro_batches, fakes, strict=True):
            shown = torch.cat([pool, fake.detach()])
            pool = shown[-job.num_pooled :]
            of_real, of_fake = softplus(-discriminator(batch.real)).mean(), softplus(discriminator(shown)).mean()
            loss = loss + (of_real + of_fake) / 2 / parts
        update(optimizers[1], discriminator, torch.autograd.grad(loss, list(discriminator.parameters())))
        expected.append(loss.item())
        assert losses.tolist() == pytest.approx(expected, rel=1e-6)
    for name, network in plain.items():
        torch.testing.assert_close(state.networks[name].state_dict(), network.state_dict(), rtol=1e-5, atol=1e-6)
    assert all(p.requires_grad and p.grad is None for net in state.networks.values() for p in net.parameters())


def update(optimizer, network, gradients) -> None:
    for group in optimizer.param_groups:
        group["lr"].fill_(0.05)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_broken_run_resumes_bit_for_bit(tmp_path, precision):
    """Weights, both optimizers, the random state and the job's own state (its pool)."""
    recipe = toy.Recipe(precision=precision)
    assert toy.run(toy.Job(recipe, jitter=0.1), tmp_path / "whole") == 0
    with pytest.raises(RuntimeError, match="the data has ended"):
        toy.run(toy.Job(recipe, jitter=0.1, break_at=7), tmp_path / "broken")
    assert toy.run(toy.Job(recipe, jitter=0.1), tmp_path / "broken", resume=True) == 0
    assert_same(saved(tmp_path / "whole"), saved(tmp_path / "broken"))
    losses = [[loss for e in logged(tmp_path / name, "steps") for loss in e["loss"]] for name in ("whole", "broken")]
    assert losses[0] == losses[1]
    assert [event["quality"] for event in logged(tmp_path / "broken", "eval_stop")] == [
        event["quality"] for event in logged(tmp_path / "whole", "eval_stop")
    ]


class BadData(toy.Job):
    """The eighth batch cannot be read."""

    def train_batches(self, first_step):
        yield from islice(super().train_batches(first_step), 7 - first_step)
        raise UserError("data: must be a whole picture, got 8.png")


def test_bad_data_is_an_error_that_loses_no_step(tmp_path):
    """Resumed with the data mended, the run is the same bit for bit; checkpoints are due after steps 6 and 9."""
    assert toy.run(toy.Job(jitter=0.1), tmp_path / "whole") == 0
    with pytest.raises(UserError, match=r"got 8\.png"):
        toy.run(BadData(jitter=0.1), tmp_path / "broken")
    assert logged(tmp_path / "broken", "checkpoint")[-1]["step"] == 7
    (stop,) = logged(tmp_path / "broken", "run_stop")
    assert (stop["status"], stop["reason"]) == ("aborted", "bad_data")
    assert toy.run(toy.Job(jitter=0.1), tmp_path / "broken", resume=True) == 0
    assert logged(tmp_path / "broken", "resume")[-1]["step"] == 7
    assert_same(saved(tmp_path / "whole"), saved(tmp_path / "broken"))


class OtherData(toy.Job):
    def open_data(self, ranks, device, dtype):
        return super().open_data(ranks, device, dtype) | {"checksum": "other"}


def test_a_run_is_not_resumed_with_other_data_of_the_same_size(tmp_path):
    with pytest.raises(RuntimeError, match="the data has ended"):
        toy.run(toy.Job(break_at=7), tmp_path)
    with pytest.raises(UserError, match="--resume: must have the data set of the run, of checksum none, got other"):
        toy.run(OtherData(), tmp_path, resume=True)


def test_events_have_every_loss_and_every_metric(tmp_path):
    toy.run(toy.Job(), tmp_path)
    events = read_events(tmp_path / "events.jsonl")
    assert [trouble for event in events for trouble in troubles(event)] == []
    for event in logged(tmp_path, "steps"):
        assert event["losses"].keys() == {"generator", "discriminator"}
        assert event["loss"] == [sum(pair) for pair in zip(*event["losses"].values(), strict=True)]
    evaluations = logged(tmp_path, "eval_stop")
    assert [(e["epoch"], e["step"]) for e in evaluations] == [(2, 5), (5, 10), (6, 12)]
    for event in evaluations:
        assert event["quality"].keys() == {"distance", "fooled"}
        assert event["accuracy"] == event["quality"]["distance"]
        assert "correct" not in event
        assert "counted" not in event


def test_throughput_counts_units_where_a_sample_has_several(tmp_path):
    figures = []
    for worth in (1, 3):
        toy.run(toy.Job(worth=worth), tmp_path / str(worth))
        events = read_events(tmp_path / str(worth) / "events.jsonl")
        units = [event.get("units") for event in events if event["kind"] == "block_stop"]
        assert units == ([None] * 3 if worth == 1 else [[3 * 40], [3 * 80], [3 * 96]])
        steps = [event for event in events if event["kind"] == "steps"]
        units = [sum(event["units"]) if "units" in event else None for event in steps]
        assert units == [None if worth == 1 else 3 * event["samples"] for event in steps]
        summary = summarize(events)
        figures.append(summary["p_whole"] * summary["total_time"] / 96)
    assert figures == pytest.approx([1, 3])


class Measured:
    """A meter with a fixed result."""

    def __init__(self, **values: float) -> None:
        self._values, self.counts = values, {}

    def update(self, outputs, batch):
        pass

    def values(self, ranks):
        return self._values


EVALUATIONS = [(0.1, 0.2), (0.9, 0.8), (0.2, 0.7)]  # distance, of which less is better, and fooled


@pytest.mark.parametrize(
    ("target", "steps", "status"),
    [
        ({"distance": 0.2}, 5, 0),
        ({"fooled": 0.8}, 10, 0),
        ({"distance": 0.2, "fooled": 0.7}, 12, 0),  # one evaluation must have both
        ({"distance": 0.2, "fooled": 0.75}, 12, 1),
        ({"fooled": math.nan}, 12, 1),
        ({}, 12, 0),
    ],
)
def test_a_target_is_reached_when_one_evaluation_has_all_of_it(tmp_path, target, steps, status):
    job = toy.Job(target=target, meters=[Measured(distance=d, fooled=f) for d, f in EVALUATIONS])
    assert toy.run(job, tmp_path) == status
    (stop,) = logged(tmp_path, "run_stop")
    assert logged(tmp_path, "eval_stop")[-1]["step"] == steps
    assert stop["reason"] == ("target" if target and status == 0 else "epochs")


def in_ranks(rank: int, directory) -> None:
    world = World(rank, 2, rank, 2, torch.device("cpu"))
    toy.run(toy.Job(num_pooled=0), directory / "together", world=world)
    toy.run(toy.Job(jitter=0.1), directory / "whole", world=world)
    try:
        toy.run(toy.Job(jitter=0.1, break_at=7), directory / "broken", world=world)
    except RuntimeError:
        toy.run(toy.Job(jitter=0.1), directory / "broken", world=world, resume=True)


def test_two_ranks_train_as_one_and_resume_bit_for_bit(tmp_path):
    on_two_ranks(in_ranks, tmp_path)
    assert_same(saved(tmp_path / "whole"), saved(tmp_path / "broken"))
    state = saved(tmp_path / "whole")
    assert not torch.equal(state["rng of 0"], state["rng of 1"])
    assert not torch.equal(state["pool of 0"], state["pool of 1"])
    toy.run(toy.Job(num_pooled=0), tmp_path / "alone")
    together, alone = saved(tmp_path / "together"), saved(tmp_path / "alone")
    for name, tensor in alone.items():
        if not name.startswith(("rng", "pool")):
            torch.testing.assert_close(together[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    qualities = [logged(tmp_path / name, "eval_stop")[-1]["quality"] for name in ("together", "alone")]
    assert qualities[0] == pytest.approx(qualities[1], rel=1e-4)
    losses = [
        logged(tmp_path / name, kind)[-1]["losses"] for name, kind in (("together", "block_stop"), ("alone", "steps"))
    ]
    for name in ("generator", "discriminator"):
        assert losses[0][name][-2:] == pytest.approx(losses[1][name][-2:], rel=1e-4)


def test_another_set_of_optimizers_is_refused_by_name(tmp_path):
    toy.run(toy.Job(), tmp_path)

    class Renamed(toy.Job):
        def updates(self, networks, device):
            made = super().updates(networks, device)
            made[0].name = "artist"
            return made

    with pytest.raises(UserError, match="must be of the optimizers artist, discriminator, got"):
        toy.run(Renamed(), tmp_path, resume=True)


def test_a_group_has_a_factor_on_the_learning_rate():
    """Also where groups share the tensor of their rate, as the fused optimizers' do, and where it is a number."""

    def optimizers(networks):
        first, second = ([*networks[name].parameters()] for name in ("generator", "discriminator"))
        groups = [{"params": first[:2], "lr_factor": 10}, {"params": first[2:]}]
        other = [{"params": second[:1]}, {"params": second[1:], "lr_factor": 0.5}]
        return FusedSGD(groups, lr=torch.zeros(())), torch.optim.SGD(other, lr=0.0)

    state = State(toy.Job(optimizers=optimizers), toy.ALONE)
    state.step.set_learning_rate(0.25)
    rates = [[float(group["lr"]) for group in update.optimizer.param_groups] for update in state.updates]
    assert rates == [[2.5, 0.25], [0.25, 0.125]]
    assert isinstance(state.updates[0].optimizer.param_groups[0]["lr"], torch.Tensor)
