"""A training step of a table (look-up, backward, update of the touched rows) against torch's embeddings and optimizers.

    python bench/sparse_table.py [--save] [--rounds N] [--device cpu|cuda]

The sizes are AI-Rank's for DeepFM and Wide&Deep: 26 slots in one table of 1,000,001 rows of 10 numbers, batches of
1,000, and of 8,192. The ids are Zipf-distributed (exponent 1.05, over rows in random order) or uniform. Peers: torch's
Embedding(sparse=True), and its EmbeddingBag(sparse=True) on bags of one id, each with torch's optimizer for sparse
gradients; for Adam also an Embedding with a dense gradient and torch's fused Adam, which updates all rows. One case has
bags of 26 ids. The floor is the time to move what a step reads and writes at least: ids, looked-up rows, their
gradients, and the touched rows of the table and of its state.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import harness
import torch
from torch import Tensor, nn

from airank_fast import optim
from airank_fast.nn import SparseTable, SparseTableBag

ROWS, DIM, SLOTS = 1_000_001, 10, 26
BATCHES = (1000, 8192)
OURS = "SparseTable"
OPTIMIZERS = {
    "sgd": (optim.SparseSGD, torch.optim.SGD, {"lr": 0.01}),
    "adagrad": (optim.SparseAdagrad, torch.optim.Adagrad, {"lr": 0.01}),
    "row-wise adagrad": (optim.SparseRowWiseAdagrad, None, {"lr": 0.01}),
    # SparseAdam does not divide eps by the bias correction, as Adam does: with 1e-8 their first steps differ visibly.
    "adam": (optim.SparseAdam, torch.optim.SparseAdam, {"lr": 1e-4, "eps": 1e-12}),
    "ftrl": (optim.SparseFTRL, None, {"lr": 0.01}),
}
STATE = {"sgd": 0, "adagrad": DIM, "row-wise adagrad": 1, "adam": 2 * DIM, "ftrl": 2 * DIM}
"""Numbers of state for each row."""


def random_ids(kind: str, number: int) -> Tensor:
    """Row numbers, int64 [number]."""
    generator = torch.Generator().manual_seed(0)
    if kind == "uniform":
        return torch.randint(ROWS, (number,), generator=generator)
    weights = torch.arange(1, ROWS + 1, dtype=torch.float64).pow(-1.05)
    ranks = torch.searchsorted(weights.cumsum(0) / weights.sum(), torch.rand(number, generator=generator).double())
    return torch.randperm(ROWS, generator=generator)[ranks.clamp(max=ROWS - 1)]


def step_of(module: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, grad: Tensor) -> Callable[[], Tensor]:
    """One training step; returns the table."""

    def step() -> Tensor:
        optimizer.zero_grad()
        module(inputs).view_as(grad).backward(grad)
        optimizer.step()
        return module.weight.detach()

    return step


def contestants(rule: str, ids: Tensor, bags: bool, device: str) -> dict[str, Callable[[], Tensor]]:
    """Name -> step. `ids` are [batch, slots]."""
    ours, torchs, options = OPTIMIZERS[rule]
    grad = torch.randn(*ids.shape[: 1 if bags else 2], DIM, generator=torch.Generator().manual_seed(1)).to(device)
    ids = ids.to(device)
    first = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(2)).to(device)

    def made(kind: Callable[..., nn.Module], optimizer: Callable, inputs: Tensor, **more: object) -> Callable:
        module = kind(ROWS, DIM, _weight=first.clone(), **more)
        return step_of(module, optimizer(module.parameters(), **options), inputs, grad)

    table, torchs_table = (SparseTableBag, nn.EmbeddingBag) if bags else (SparseTable, nn.Embedding)
    steps = {OURS: made(table, ours, ids)}
    if torchs is None:
        return steps
    steps["torch"] = made(torchs_table, torchs, ids, sparse=True)
    if not bags:
        steps["torch EmbeddingBag"] = made(nn.EmbeddingBag, torchs, ids.view(-1, 1), sparse=True)
    if rule == "adam":
        steps["torch, dense Adam"] = made(torchs_table, lambda p, **o: torch.optim.Adam(p, fused=True, **o), ids)
    return steps


def check(steps: dict[str, Callable[[], Tensor]]) -> None:
    """After two steps the tables must agree; that of dense Adam after one."""
    tables = {name: step().clone() for name, step in steps.items()}
    for table in tables.values():
        torch.testing.assert_close(table, tables[OURS], rtol=1e-4, atol=1e-5)
    tables = {name: step() for name, step in steps.items() if "dense" not in name}
    for table in tables.values():
        torch.testing.assert_close(table, tables[OURS], rtol=1e-4, atol=1e-5)


def bytes_moved(rule: str, ids: Tensor, bags: bool) -> int:
    """Forward: ids, touched rows, results. Update: ids, gradients; touched rows and their state, read and written."""
    touched, results = len(ids.unique()), len(ids) if bags else ids.numel()
    forward = 8 * ids.numel() + 4 * DIM * (touched + results)
    return forward + 8 * ids.numel() + 4 * DIM * results + 2 * 4 * (DIM + STATE[rule]) * touched


def cases() -> list[tuple[str, str, int, bool]]:
    """Rule, distribution, batch, whether bags."""
    found = [(rule, kind, batch, False) for rule in OPTIMIZERS for kind in ("zipf", "uniform") for batch in BATCHES]
    return [*found, ("adam", "zipf", BATCHES[-1], True)]


def main() -> None:
    """Check, time, print; save on request."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--save", action="store_true", help="append the results to bench/results/sparse_table.jsonl")
    options = parser.parse_args()
    if options.save and not harness.wait_until_idle(options.device):
        parser.exit(1, "the machine is busy: nothing was measured\n")
    bandwidth = harness.bandwidth(options.device)
    for rule, kind, batch, bags in cases():
        ids = random_ids(kind, batch * SLOTS).view(batch, SLOTS)
        steps = contestants(rule, ids, bags, options.device)
        check(steps)
        num_bytes = bytes_moved(rule, ids, bags)
        times = harness.time_rounds(steps, num_rounds=options.rounds, device=options.device, num_bytes=num_bytes)
        what = f"{batch} bags of {SLOTS} ids" if bags else f"{batch} x {SLOTS} ids"
        case = f"{rule}, {kind}, {what}, float32, {options.device}"
        floor_s = num_bytes / bandwidth
        print(harness.as_text(case, times, OURS))
        share = floor_s / harness.timing(times[OURS]).median_s
        print(f"  {'floor by bandwidth':24} {1e3 * floor_s:9.3f} ms   {OURS} reaches {share:.0%} of it")
        if options.save:
            harness.save("sparse_table", case, times, OURS, floor_s=floor_s, bytes_moved=num_bytes)


if __name__ == "__main__":
    main()
