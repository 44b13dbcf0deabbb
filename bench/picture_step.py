"""Training steps of the tasks on pictures, clips and lines of text against plain torch, on a batch in memory.

    python bench/picture_step.py [--tasks ocr ...] [--recipes digit_lines ...] [--rounds N] [--no-compile] [--save]

airank_fast is the engine's TrainingStep of the task's job, in float32. Peers, in turns: the network of torch's own
modules and torch's optimizer (`--no-fused`) in a plain loop, contiguous, in channels_last, and the faster of the
two layouts under torch.compile. Batches are noise; each task's first recipe is that of its embedded data.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import harness
import torch

from airank_fast.engine import weights
from airank_fast.engine.distributed import World
from airank_fast.engine.step import TrainingStep

TASKS = ("ocr",)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ALONE = World(0, 1, 0, 1, DEVICE)


def job_of(task: str, recipe: str | None, fused: bool) -> Any:
    module = importlib.import_module(f"airank_fast.recipes.{task}")
    chosen = module.RECIPES[recipe] if recipe else next(iter(module.RECIPES.values()))
    return module.Job(replace(chosen, fused=fused), module.Options())


def our_step(job: Any, batch: Any) -> Callable[[], object]:
    networks = {name: weights.place(network, "fp32", DEVICE).train() for name, network in job.build().items()}
    scaler = torch.amp.GradScaler(DEVICE.type, enabled=False)
    step = TrainingStep(job.updates(networks, DEVICE), networks, scaler)
    return lambda: step([batch], learning_rate=1e-4)


def torch_step(job: Any, batch: Any, layout: torch.memory_format, compiled: bool) -> Callable[[], object]:
    networks = {name: network.to(DEVICE, memory_format=layout).train() for name, network in job.build().items()}
    if compiled:
        for network in networks.values():
            network.compile(dynamic=False)
    batch = replace(batch, images=batch.images.contiguous(memory_format=layout))
    updates = job.updates(networks, DEVICE)

    def step() -> None:
        for update in updates:
            update.loss(batch).backward()
            update.optimizer.step()
            update.optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    """Time, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--recipes", nargs="+", default=[None], help="default: the first of each task")
    parser.add_argument("--batch-size", type=int, help="default: the recipe's")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="takes minutes")
    parser.add_argument("--save", action="store_true", help="append to bench/results/picture_step.jsonl")
    arguments = parser.parse_args()
    if arguments.save and not harness.wait_until_idle():
        parser.exit(1, "the machine is busy: nothing was measured\n")
    for task in arguments.tasks:
        for recipe in arguments.recipes:
            time_steps(task, recipe, arguments)


def time_steps(task: str, recipe: str | None, arguments: argparse.Namespace) -> None:
    job, plain = job_of(task, recipe, True), job_of(task, recipe, False)
    if arguments.batch_size:
        for each in (job, plain):
            each.recipe = replace(each.recipe, batch_size=arguments.batch_size)
    batch = job.warm_up_batch(ALONE, DEVICE, torch.float32)
    contestants = {
        "airank_fast": our_step(job, batch),
        "torch": torch_step(plain, batch, torch.contiguous_format, False),
        "torch, channels_last": torch_step(plain, batch, torch.channels_last, False),
    }
    if arguments.compile:
        quick = harness.time_rounds(contestants, num_rounds=5, device=DEVICE.type, ahead=False)
        is_last = min(quick["torch"]) > min(quick["torch, channels_last"])
        layout = torch.channels_last if is_last else torch.contiguous_format
        contestants["torch.compile"] = torch_step(plain, batch, layout, True)
    times = harness.time_rounds(contestants, num_rounds=arguments.rounds, device=DEVICE.type, ahead=False)
    case = f"{task} {job.recipe.name} training step, batch {job.recipe.batch_size}, fp32, {DEVICE.type}"
    print(harness.as_text(case, times, "airank_fast"))
    if arguments.save:
        rates = {who: job.recipe.batch_size / harness.timing(values).median_s for who, values in times.items()}
        harness.save("picture_step", case, times, "airank_fast", images_per_s=rates)


if __name__ == "__main__":
    main()
