"""Training under the clock: blocks of steps, evaluations between them, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from airank_fast.engine import averaging
from airank_fast.engine.clock import Clock
from airank_fast.engine.journal import Journal
from airank_fast.engine.plan import Plan
from airank_fast.engine.state import State
from airank_fast.errors import UserError
from airank_fast.job import Batch, Networks


class Cadence(Protocol):
    """The options that training reads."""

    @property
    def checkpoint_every(self) -> int: ...
    @property
    def checkpoint_steps(self) -> int | None: ...


class Trainer:
    """One run on this rank, from the first touch of the data set on.

    Args:
        state: what is trained, and how far.
        options: how often checkpoints are written.
        journal: where events go.
        directory: where checkpoints go.
        between: called after each step and each batch of an evaluation; may raise to end the run.

    The constructor opens the data set; then ``plan`` holds the steps of the run and ``clock`` measures them.
    """

    def __init__(
        self,
        state: State,
        options: Cadence,
        journal: Journal,
        directory: Path,
        between: Callable[[], None] = lambda: None,
    ) -> None:
        self.state, self.options, self.journal = state, options, journal
        self.directory, self.between = directory, between
        self.job, self.world = state.job, state.world
        batch_size = self.job.recipe.batch_size
        data = self.job.open_data(self.world, state.device, state.dtype)
        self.plan = Plan(self.job.schedule(), data["train_samples"], batch_size, self.world.size)
        _require_same_data(data, journal)
        reported = self.job.reported(self.plan)
        journal.emit_once("data", **data, total_steps=self.plan.total_steps, reported=reported)
        names = [update.name for update in state.updates]
        self.clock = Clock(journal.emit, state.device, batch_size, names)

    def train(self) -> str:
        """Train to the target or to the end of the plan; returns the reason of the end, "target" or "epochs"."""
        progress = self.state.progress
        batches = self.job.train_batches(progress["step"])
        due = [e for e in self.plan.evaluations() if e[1] > progress["evaluated_step"]]
        for number, (epoch, stop) in enumerate(due, 1):
            self.train_block(batches, epoch, stop)
            self._evaluate(epoch)
            if progress["reached"] and self.job.recipe.stop_at_target:
                return "target"
            if number % self.options.checkpoint_every == 0 and stop < self.plan.total_steps:
                save(self.state, self.journal, self.directory)
        return "epochs"

    def train_block(self, batches: Iterator[Batch], epoch: int, stop: int) -> None:
        """Train up to step ``stop``, where ``epoch`` ends, and report the times."""
        state, clock = self.state, self.clock
        begin = state.progress["step"]
        if begin == stop:  # resumed between the block and its evaluation
            return
        block = self.plan.block(state.samples, epoch)
        self.journal.emit("block_start", **block, step=begin, samples=state.samples)
        for network in state.networks.values():
            network.train()
        for step in range(begin, stop):
            learning_rate = self.job.learning_rate(step, self.plan)
            parts = clock.next_batches(batches, self.job.recipe.gradient_accumulation_steps)
            clock.start()
            losses = state.step(parts, learning_rate)
            clock.stop(step + 1, losses, learning_rate, parts)
            self._step_done(step + 1)
        clock.finish_block()
        self.journal.emit("block_stop", step=state.progress["step"], samples=state.samples, **self._spent())

    def _spent(self) -> dict[str, Any]:
        """Times of every rank; with several ranks also the losses of the whole batch, as `steps` has rank 0's."""
        clock = self.clock
        losses, clock.losses = clock.losses, []
        sums = (clock.core_s, clock.wait_s, clock.h2d_s, clock.measure_s, clock.samples, clock.units)
        by_rank = self.world.gather([*sums, *(loss for of_step in losses for loss in of_step)])
        *times, samples, units = zip(*(values[: len(sums)] for values in by_rank), strict=True)
        names = ("core_s", "wait_s", "h2d_s", "measure_s")
        spent: dict[str, Any] = {n: [round(s, 6) for s in column] for n, column in zip(names, times, strict=True)}
        if units != samples:
            spent["units"] = [int(number) for number in units]
        if self.world.size > 1 and losses:
            means = [sum(of_rank) / len(of_rank) for of_rank in zip(*(v[len(sums) :] for v in by_rank), strict=True)]
            whole = [means[first : first + len(losses[0])] for first in range(0, len(means), len(losses[0]))]
            spent |= {"loss": [sum(of_step) for of_step in whole], **clock.by_name(whole)}
        return spent

    def _step_done(self, step: int) -> None:
        self.state.progress["step"] = step
        if self.state.heap is not None:
            self.state.heap.after_step()
        for epoch in self.plan.epochs_ending_at(step):
            self.journal.emit("epoch_stop", epoch=epoch, step=step, samples=self.state.samples)
        every = self.options.checkpoint_steps
        if every and step % every == 0:
            self.clock.finish_block()
            save(self.state, self.journal, self.directory)
        self.between()

    def _evaluate(self, epoch: int) -> None:
        """Evaluate, report the quality, and note whether it reaches the target."""
        progress, task = self.state.progress, self.job.task
        where = {"epoch": epoch, "step": progress["step"], "samples": self.state.samples}
        self.journal.emit("eval_start", **where)
        networks = averaging.averaged(self.state, self.directory) if averaging.number_of(self.job.recipe) > 1 else None
        quality, counts = evaluate(self.state, self.between, networks)
        progress["evaluated_step"] = progress["step"]
        if task.reached(quality, self.job.target):
            progress["reached"] = True
        accuracy = quality[task.headline.name]
        self.journal.emit("eval_stop", **where, **counts, accuracy=accuracy, quality=quality)


def save(state: State, journal: Journal, directory: Path, *, together: bool = True) -> None:
    """Write a checkpoint below ``directory``; a collective where ranks write it ``together``, see State.save."""
    begin = time.perf_counter()
    path = state.save(directory / "checkpoints", together=together)
    if path is not None:
        duration_s, step = round(time.perf_counter() - begin, 6), state.progress["step"]
        journal.emit("checkpoint", step=step, path=f"checkpoints/{path.name}", duration_s=duration_s)


def evaluate(
    state: State, between: Callable[[], None] = lambda: None, networks: Networks | None = None
) -> tuple[dict[str, float], Mapping[str, int]]:
    """({metric: value}, correct and counted where the meter has them) of the evaluation set, over all ranks.

    ``between`` is called after each batch. ``networks``: those to evaluate in place of the run's own.
    """
    state.average_buffers()
    for network in state.networks.values():
        network.eval()
    meter, state.first_evaluated = state.job.meter(), None
    with torch.inference_mode():
        for batch in state.job.eval_batches():
            with state.autocast():
                outputs = state.job.predict(networks or state.networks, batch)
            state.first_evaluated = state.first_evaluated or (outputs, batch)
            meter.update(outputs, batch)
            between()
    return meter.values(state.world), meter.counts


def _require_same_data(data: Mapping[str, Any], journal: Journal) -> None:
    before = next((event for event in journal.history if event["kind"] == "data"), data)
    for name in ("train_samples", "eval_samples"):
        if data[name] != before[name]:
            raise UserError(f"--resume: must have the data set of the run, {before[name]} {name}, got {data[name]}")
    ours, theirs = data.get("checksum"), before.get("checksum")
    if ours != theirs and theirs is not None:
        raise UserError(f"--resume: must have the data set of the run, of checksum {theirs}, got {ours}")
