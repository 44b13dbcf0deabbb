"""Jobs of every task that inference runs, with untrained networks that are small, made once for all tests of a file."""

from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import squad_files
import torch
from torch import nn

from airank_fast.engine.training import evaluate
from airank_fast.inference.loading import load_job
from airank_fast.inference.samples import ALONE, CPU, Samples
from airank_fast.job import Job

TASKS = {
    "resnet50": [],
    "bert-tiny": ["--eval-samples", "40"],
    "tsm": [],
    "wide_deep": [],
    "deepfm": [],
    "dssm": [],
    "ocr": [],
    "deeplabv3plus": [],
    "hrnet": [],
    "yolov3": [],
    "mask_rcnn": [],
    "ocr_detection": [],
    "bert-squad-tiny": squad_files.options(squad_files.folder()),
}


@cache
def untrained(task: str) -> tuple[Job, dict[str, nn.Module]]:
    """(job, networks) of a task; norms have other statistics than new ones. No data set is read."""
    job, networks = load_job([task, *TASKS[task]], None, CPU)
    randomise(networks["model"])
    return job, networks


@cache
def made(task: str) -> tuple[Job, dict[str, nn.Module], Samples]:
    """(job, networks, samples) of a task on its embedded data, the first two as `untrained`."""
    job, networks = untrained(task)
    with contextlib.redirect_stderr(io.StringIO()):
        return job, networks, Samples(job)


def fresh(task: str) -> Samples:
    """Samples of a task that a test may change."""
    with contextlib.redirect_stderr(io.StringIO()):
        return Samples(made(task)[0])


def randomise(network: nn.Module) -> None:
    """Statistics, weights and biases of batch norms as after some training, so that folding them is no small change."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for name, low, high in (("running_var", 0.5, 2), ("running_mean", -0.3, 0.3)):
                    tensor = getattr(module, name)
                    tensor.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
                module.weight.copy_(0.7 + 0.6 * torch.rand(module.weight.shape, generator=generator))
                module.bias.copy_(0.4 * torch.rand(module.bias.shape, generator=generator) - 0.2)


def by_training(job: Job, networks: dict[str, nn.Module], batch_size: int):
    """(values, counts) of the engine's own evaluation, with batches of this size."""
    state = as_state(job, networks, batch_size)
    with contextlib.redirect_stderr(io.StringIO()):
        state.job.open_data(ALONE, CPU, torch.float32)
    try:
        values, counts = evaluate(state)
    finally:
        state.job.close()
    return values, dict(counts)


def as_state(job: Job, networks: dict[str, nn.Module], batch_size: int) -> SimpleNamespace:
    """What an evaluation of training reads of its State."""
    other = type(job)(replace(job.recipe, eval_batch_size=batch_size), job.options)
    return SimpleNamespace(
        job=other,
        networks=networks,
        world=ALONE,
        average_buffers=lambda: None,
        autocast=contextlib.nullcontext,
        first_evaluated=None,
    )


def shorten(samples: Samples, index: int, tokens: int) -> None:
    """Cut a loaded sequence to its first tokens; its masked places are those among them, one at least."""
    batch = samples._loaded[index]
    kept = batch.masked_positions < tokens
    if not kept.any():
        kept[0], batch.masked_positions[0] = True, tokens - 1
    for name in batch.INPUTS:
        setattr(batch, name, getattr(batch, name)[:tokens])
    batch.masked_positions, batch.labels, batch.lengths = batch.masked_positions[kept], batch.labels[kept], [tokens]
    batch.offsets = torch.tensor([0, tokens])
