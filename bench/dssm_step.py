"""Pairs/s of DSSM's training step against plain torch, on the embedded docstrings and functions.

    python bench/dssm_step.py [--rounds N] [--no-compile] [--save]

The recipe of the main job: 20,000 rows of 512 numbers, two layers, batches of 256 pairs that are in memory. Peers, in
turns: the same network in torch's own operators with its fused Adam, the same with an Adam that is not fused, and the
first under torch.compile. airank_fast is the engine's TrainingStep, whose Adam updates the rows of the batch alone;
with --no-sparse it updates the whole table, as the peers do.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import replace

import harness
import torch
import training_step

from airank_fast.data.text.query_pairs import PairBatch
from airank_fast.engine.distributed import World
from airank_fast.recipes import dssm

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
NUM_BATCHES = 10


def job_of(fused: bool, sparse: bool = True) -> dssm.Job:
    return dssm.Job(replace(dssm.RECIPES["code_search"], fused=fused, sparse=sparse), dssm.Options())


def torch_step(kind: str) -> Callable[[PairBatch], None]:
    job = job_of(fused=False)
    model = job.build()["model"].train()
    optimizer = torch.optim.Adam(model.parameters(), lr=job.recipe.learning_rate, fused=kind != "torch, Adam not fused")
    called = harness.compiled(model, dynamic=True) if kind == "torch.compile" else model

    def step(batch: PairBatch) -> None:
        job.loss(called, batch).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    """Time, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="takes a minute")
    parser.add_argument("--save", action="store_true", help="append to bench/results/dssm_step.jsonl")
    arguments = parser.parse_args()
    if arguments.save and not harness.wait_until_idle():
        parser.exit(1, "the machine is busy: nothing was measured\n")
    job = job_of(fused=True)
    job.open_data(ALONE, ALONE.device, torch.float32)
    batches = list(itertools.islice(job.train_batches(0), NUM_BATCHES))
    job.close()
    steps = {
        "airank_fast": training_step.of_engine(job_of(fused=True)),
        "airank_fast --no-sparse": training_step.of_engine(job_of(fused=True, sparse=False)),
    }
    for kind in ("torch", "torch, Adam not fused", "torch.compile")[: 2 + arguments.compile]:
        steps[kind] = torch_step(kind)
    times = training_step.time_steps(steps, batches, arguments.rounds)
    case = f"DSSM training step, batch {job.recipe.batch_size}, fp32, cpu"
    rates = training_step.rates(times, job.recipe.batch_size)
    print(harness.as_text(case, times, "airank_fast"))
    if arguments.save:
        harness.save("dssm_step", case, times, "airank_fast", samples_per_s=rates)


if __name__ == "__main__":
    main()
