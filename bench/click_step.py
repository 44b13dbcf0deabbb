"""Samples/s of Wide&Deep's and DeepFM's training step against plain torch, at AI-Rank's sizes, on ids in memory.

    python bench/click_step.py [--rounds N] [--no-compile] [--save]

A table of 1,000,001 rows of 10 numbers, 26 ids and 13 numbers a row, layers of 400, batches of 1,000; ids are
Zipf-distributed, another batch in each step. Peers, in the same run and in turns: the same network in torch's own
operators with dense Adam, with sparse gradients and SparseAdam, and the first under torch.compile; DeepCTR-Torch where
it is installed (`pip install --no-deps deepctr-torch`); and airank_fast with --no-sparse. airank_fast is the engine's
TrainingStep with the recipe's network and optimizer. AI-Rank's own runs had 11,072 and 10,061 samples/s on a node of
its parameter servers.

"layers alone" is a floor, not a peer: forward and backward of the hidden layers on one input in memory, in torch,
without look-up, loss and optimizer. The other floor, the time to move the touched rows, is printed beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import harness
import numpy as np
import torch
import training_step
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.data.tables import RowBatch
from airank_fast.models.tables import SlotEmbeddings
from airank_fast.recipes import deepfm, wide_deep

RECIPES = {"Wide&Deep": wide_deep, "DeepFM": deepfm}
NUM_BATCHES = 20
FLOOR = "layers alone"


def job_of(recipes, **changes):
    """AI-Rank's recipe; the data set itself is not opened."""
    recipe = replace(recipes.RECIPES["airank"], **changes)
    return recipes.Job(recipe, recipes.Options(data=Path("criteo")))


class TorchsSparse(SlotEmbeddings):
    """The look-up in torch's operator with a sparse gradient."""

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids + self.offsets, self.weight, sparse=True)


def torch_step(recipes, kind: str) -> Callable[[RowBatch], None]:
    model = job_of(recipes, fused=False).build()["model"]
    rate, rest, optimizers = 1e-4, list(model.parameters()), []
    if kind == "torch, sparse":
        tables = [module for module in model.modules() if isinstance(module, SlotEmbeddings)]
        for table in tables:
            table.__class__ = TorchsSparse
        weights = {id(table.weight) for table in tables}
        rest = [parameter for parameter in rest if id(parameter) not in weights]
        optimizers = [torch.optim.SparseAdam([table.weight for table in tables], lr=rate)]
    optimizers.append(torch.optim.Adam(rest, lr=rate, fused=True))
    forward: nn.Module | Callable = harness.compiled(model) if kind == "torch.compile" else model

    def step(batch: RowBatch) -> None:
        F.binary_cross_entropy_with_logits(forward(batch.dense, batch.ids), batch.labels).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def deepctr_step(name: str, recipe) -> Callable[[RowBatch], None]:
    """DeepCTR-Torch's network, a table for each slot, with the optimizer of its examples, dense Adam; no penalties.

    DeepFM has no embeddings of numbers there, and a smaller first layer. An id is taken modulo the rows of its slot.
    """
    from deepctr_torch.inputs import DenseFeat, SparseFeat
    from deepctr_torch.models import WDL, DeepFM

    slots, rows = 26, recipe.table_rows // 26
    numbers = [DenseFeat("numbers", 13)]
    ids = [SparseFeat(f"C{number}", rows, recipe.embedding_dim) for number in range(slots)]
    kind, first_order = {"Wide&Deep": (WDL, numbers), "DeepFM": (DeepFM, [*ids, *numbers])}[name]
    model = kind(
        first_order, [*ids, *numbers], dnn_hidden_units=recipe.widths, l2_reg_linear=0, l2_reg_embedding=0, device="cpu"
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    columns = sorted(model.feature_index, key=lambda column: model.feature_index[column][0])

    def step(batch: RowBatch) -> None:
        parts = {"numbers": batch.dense, **{f"C{n}": (batch.ids[:, n] % rows).float()[:, None] for n in range(slots)}}
        optimizer.zero_grad()
        inputs = torch.cat([parts[column] for column in columns], 1)
        F.binary_cross_entropy(model(inputs).squeeze(1), batch.labels).backward()
        optimizer.step()

    return step


def layers_step(recipes) -> Callable[[RowBatch], None]:
    """Forward and backward of the hidden layers, for an input of the batch's size."""
    job = job_of(recipes, fused=False)
    model = job.build()["model"]
    layers = nn.Sequential(model.dnn, model.dnn_linear)
    inputs = torch.randn(job.recipe.batch_size, model.dnn.linears[0].in_features, requires_grad=True)

    def step(_: RowBatch) -> None:
        layers.zero_grad(set_to_none=True)
        inputs.grad = None
        layers(inputs).sum().backward()

    return step


def layers_flop(recipes) -> float:
    """Of a step: a product forward and two backward for each weight and sample."""
    job = job_of(recipes)
    return 6.0 * job.recipe.batch_size * sum(w.numel() for w in job.build()["model"].dnn.parameters() if w.dim() == 2)


def touched_bytes(recipe, batch: RowBatch) -> int:
    """Of a step: each touched row with its two moments read and written, results and gradients of the look-up."""
    width = 4 * recipe.embedding_dim
    return 2 * 3 * width * len(batch.ids.unique()) + 2 * width * batch.ids.numel()


def batches(recipe) -> list[RowBatch]:
    """Rows of random numbers and labels, and of ids among which few are frequent."""
    rng, size = np.random.default_rng(0), recipe.batch_size
    found = []
    for _ in range(NUM_BATCHES):
        ids = (rng.zipf(1.2, (size, 26)) * 2654435761 % recipe.table_rows).astype(np.int32)
        dense, labels = rng.random((size, 13), np.float32), (rng.random(size) < 0.25).astype(np.float32)
        found.append(RowBatch(*map(torch.from_numpy, (dense, ids, labels)), torch.arange(size)))
    return found


def main() -> None:
    """Time, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="takes a minute")
    parser.add_argument("--save", action="store_true", help="append to bench/results/click_step.jsonl")
    arguments = parser.parse_args()
    if arguments.save and not harness.wait_until_idle():
        parser.exit(1, "the machine is busy: nothing was measured\n")
    bandwidth = harness.bandwidth()
    for name, recipes in RECIPES.items():
        recipe = recipes.RECIPES["airank"]
        steps = {
            "airank_fast": training_step.of_engine(job_of(recipes, sparse=True)),
            "airank_fast --no-sparse": training_step.of_engine(job_of(recipes, sparse=False)),
        }
        for kind in ("torch", "torch, sparse", "torch.compile")[: 2 + arguments.compile]:
            steps[kind] = torch_step(recipes, kind)
        if harness.is_there("deepctr_torch.models"):
            steps["DeepCTR-Torch"] = deepctr_step(name, recipe)
        steps[FLOOR] = layers_step(recipes)
        made = batches(recipe)
        times = training_step.time_steps(steps, made, arguments.rounds)
        case = f"{name} training step, {recipe.table_rows} rows, batch {recipe.batch_size}, fp32, cpu"
        rates = training_step.rates(times, recipe.batch_size)
        print(harness.as_text(case, times, "airank_fast"))
        facts = {
            "layers_flop": layers_flop(recipes),
            "touched_bytes": touched_bytes(recipe, made[0]),
            "bandwidth": bandwidth,
        }
        print("  samples/s: " + ", ".join(f"{who} {rate:.0f}" for who, rate in rates.items()))
        print(f"  layers: {facts['layers_flop'] / 1e9:.2f} GFLOP, touched rows: {facts['touched_bytes'] / 1e6:.1f} MB")
        print(f"  touched rows by bandwidth: {1e3 * facts['touched_bytes'] / bandwidth:.2f} ms")
        if arguments.save:
            harness.save("click_step", case, times, "airank_fast", samples_per_s=rates, **facts)


if __name__ == "__main__":
    main()
