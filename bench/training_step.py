"""What the benchmarks of whole training steps share: the engine's step of a job, and rounds over batches in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import harness
import torch

from airank_fast.engine.step import TrainingStep


def of_engine(job: Any) -> Callable[[Any], None]:
    """The engine's TrainingStep with the job's network and optimizer, on the CPU."""
    networks = job.build()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    step = TrainingStep(job.updates(networks, torch.device("cpu")), networks, scaler)
    return lambda batch: step([batch], learning_rate=job.recipe.learning_rate)


def time_steps(steps: Mapping[str, Callable], batches: Sequence, rounds: int) -> harness.Times:
    """Times of the steps, each over the batches in turn."""
    contestants = {
        who: partial(lambda step, source: step(next(source)), step, itertools.cycle(batches))
        for who, step in steps.items()
    }
    return harness.time_rounds(contestants, num_rounds=rounds, ahead=False)


def rates(times: harness.Times, batch_size: int) -> dict[str, float]:
    """Samples per second of each contestant."""
    return {who: batch_size / harness.timing(values).median_s for who, values in times.items()}
