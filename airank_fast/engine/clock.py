"""Measures where the time of a training step goes, without waiting for the device.

On the CPU the monotonic clock times a step. On CUDA two events on the compute stream do, the first of them behind the
arrival of the batch. They and the loss are read once the device has passed the second event. Times and losses become
`steps` events every 2 seconds and at the end of each block.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from airank_fast.job import Batch

REPORT_EVERY_S = 2.0


class NanLoss(Exception):
    """The loss of ``step`` (1-based) is not a number. name: of the loss, where a step has several."""

    def __init__(self, step: int, name: str = "") -> None:
        what = f"loss of {name}" if name else "loss"
        super().__init__(f"{what}: must be a finite number, got nan at step {step}")
        self.step = step


class Stopwatch:
    """A span on the CPU, by the monotonic clock."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def stop(self, losses: Tensor) -> None:
        self._seconds = time.perf_counter() - self._start
        self._losses = losses

    def done(self) -> bool:
        return True

    def read(self) -> tuple[float, list[float]]:
        """(seconds, losses)"""
        return self._seconds, self._losses.tolist()


class DeviceStopwatch:
    """A span on the current CUDA stream, by two events; the losses travel to pinned memory behind the second."""

    def __init__(self) -> None:
        self._start = torch.cuda.Event(enable_timing=True)
        self._stop = torch.cuda.Event(enable_timing=True)
        self._copied = torch.cuda.Event()
        self._start.record()

    def stop(self, losses: Tensor) -> None:
        self._stop.record()
        self._losses = torch.empty(losses.shape, dtype=losses.dtype, pin_memory=True).copy_(losses, non_blocking=True)
        self._copied.record()

    def done(self) -> bool:
        return self._copied.query()

    def read(self) -> tuple[float, list[float]]:
        """(seconds, losses); waits for the device unless ``done``."""
        self._copied.synchronize()
        return self._start.elapsed_time(self._stop) / 1e3, self._losses.tolist()


class Clock:
    """Collects the times of the steps and reports them.

    Args:
        emit: called as ``emit("steps", first_step=..., num_steps=..., samples=..., loss=[...], ...)``.
        device: where the steps run.
        batch_size: samples in one step, over all ranks.
        names: of the losses, where a step has several; its loss is their sum.
        enabled: False measures and reports nothing (to measure what measuring costs).

    ``losses`` holds the losses of every step until the caller empties it. This rank's sums since the clock was made:
    ``core_s, wait_s, h2d_s, measure_s`` in seconds; ``samples`` and ``units`` (what throughput counts).
    """

    def __init__(
        self,
        emit: Callable,
        device: torch.device,
        batch_size: int,
        names: Sequence[str] = ("loss",),
        *,
        enabled: bool = True,
    ) -> None:
        self._emit = emit
        self._device = device
        self._batch_size = batch_size
        self._names = names
        self._enabled = enabled
        self._running: deque = deque()
        self._unreported: list[tuple] = []
        self._last_report = time.perf_counter()
        self.losses: list[list[float]] = []
        self.core_s = self.wait_s = self.h2d_s = self.measure_s = 0.0
        self.samples = self.units = 0

    def next_batches(self, batches: Iterator[Batch], number: int) -> list[Batch]:
        """The next ``number`` micro-batches; the time until they are there is measured."""
        start = time.perf_counter()
        taken = [next(batches) for _ in range(number)]
        self._waited = time.perf_counter() - start
        return taken

    def start(self) -> None:
        """The batches are on the device (or ordered before what the compute stream does next)."""
        if self._enabled:
            self._stopwatch = DeviceStopwatch() if self._device.type == "cuda" else Stopwatch()

    def stop(self, step: int, losses: Tensor, learning_rate: float, batches: list[Batch]) -> None:
        """The optimizers of 1-based ``step`` are done (or ordered). Raises NanLoss for this step or an earlier one.

        losses: float [names], on the device.
        """
        if not self._enabled:
            return
        self._stopwatch.stop(losses)
        begin = time.perf_counter()
        self._running.append((step, self._stopwatch, learning_rate, self._waited, batches))
        self._collect(wait=False)
        if begin - self._last_report > REPORT_EVERY_S:
            self._report()
        self.measure_s += time.perf_counter() - begin

    def finish_block(self) -> None:
        """Wait for the device and report every step up to here."""
        self._collect(wait=True)
        self._report()

    def flush(self) -> None:
        """Report the steps that the device has finished, even after a NaN; for the end of a run that failed."""
        with contextlib.suppress(NanLoss):
            self._collect(wait=False)
        self._report()

    def _collect(self, wait: bool) -> None:
        while self._running and (wait or self._running[0][1].done()):
            step, stopwatch, learning_rate, waited, batches = self._running.popleft()
            core_s, losses = stopwatch.read()
            h2d_s = sum(batch.h2d_s() or 0.0 for batch in batches)
            self.core_s += core_s
            self.wait_s += waited
            self.h2d_s += h2d_s
            samples = sum(batch.num_samples for batch in batches)
            units = sum(batch.units for batch in batches)
            self.samples += samples
            self.units += units
            self.losses.append(losses)
            self._unreported.append((step, losses, learning_rate, core_s, waited, h2d_s, samples, units))
            nans = [name for name, loss in zip(self._names, losses, strict=True) if math.isnan(loss)]
            if nans:  # of several the first, from which the others follow
                self._report()
                raise NanLoss(step, nans[0] if len(self._names) > 1 else "")

    def _report(self) -> None:
        if self._unreported:
            steps, losses, rates, core, wait, h2d, samples, units = map(list, zip(*self._unreported, strict=True))
            self._unreported.clear()
            self._emit(
                "steps",
                first_step=steps[0],
                num_steps=len(steps),
                samples=len(steps) * self._batch_size,
                loss=[sum(of_step) for of_step in losses],
                **self.by_name(losses),
                lr=rates,
                core_s=[round(s, 7) for s in core],
                wait_s=[round(s, 7) for s in wait],
                h2d_s=[round(s, 7) for s in h2d],
                **({"units": units} if units != samples else {}),
            )
        self._last_report = time.perf_counter()

    def by_name(self, losses: list[list[float]]) -> dict:
        """The field ``losses`` {name: one a step} of an event, where a step has several."""
        if len(self._names) == 1:
            return {}
        return {"losses": dict(zip(self._names, map(list, zip(*losses, strict=True)), strict=True))}
