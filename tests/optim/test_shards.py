"""The optimizers on parameters that fully_shard has spread over two ranks, against the same steps on whole ones."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from ranks import on_two_ranks
from torch import nn

from airank_fast.errors import UserError
from airank_fast.optim import FusedAdagrad, FusedAdamW, FusedFTRL, FusedLAMB, FusedLARS, FusedSGD

KINDS = {
    "sgd": (FusedSGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    "adam": (FusedAdamW, {"lr": 0.01}),
    "adam, clipped": (FusedAdamW, {"lr": 0.01, "max_grad_norm": 0.05}),
    "adagrad": (FusedAdagrad, {"lr": 0.01, "initial_accumulator_value": 0.1}),
    "ftrl": (FusedFTRL, {"lr": 0.1, "l1": 0.01}),
    "lars": (FusedLARS, {"lr": 1.0, "momentum": 0.9, "weight_decay": 0.01, "trust_coefficient": 0.1}),
    "lamb": (FusedLAMB, {"lr": 0.01, "max_grad_norm": 0.05}),
    "lamb without trust": (FusedLAMB, {"lr": 0.01, "weight_decay": 0.0, "max_grad_norm": 0.05}),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def network(dtype):
    torch.manual_seed(0)  # rows split unevenly, and a bias of one element, which is on one rank only
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).to(dtype)


def run_steps(model, optimizer, num_steps, first=0):
    """The same batch on every rank, so that the mean of the gradients is the gradient."""
    for step in range(first, first + num_steps):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).to(next(model.parameters()).dtype)
        optimizer.zero_grad()
        model(x).float().square().mean().backward()
        optimizer.step()


def sharded_steps(rank: int) -> dict:
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    results = {}
    mesh = dist.init_device_mesh("cpu", (2,))
    for name, (kind, options) in KINDS.items():
        for dtype_name, dtype in DTYPES.items():
            model = network(dtype)
            fully_shard(model, mesh=mesh)
            optimizer = kind(model.parameters(), **options)
            run_steps(model, optimizer, 2)
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = kind(model.parameters(), **options)
            optimizer.load_state_dict(saved)
            run_steps(model, optimizer, 2, first=2)
            results[name, dtype_name] = [p.full_tensor().float() for p in model.parameters()]
    flat = FullyShardedDataParallel(network(torch.float32), device_id=torch.device("cpu"))
    for kind, options in (KINDS["lars"], KINDS["lamb"], KINDS["adam, clipped"]):
        try:
            run_steps(flat, kind(flat.parameters(), **options), 1)
        except UserError as error:
            results[kind.op] = str(error)
    run_steps(flat, FusedSGD(flat.parameters(), lr=0.1), 1)
    return results


@pytest.fixture(scope="module")
def sharded():
    return on_two_ranks(sharded_steps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KINDS)
def test_steps_on_shards_are_those_on_whole_parameters(sharded, name, dtype):
    kind, options = KINDS[name]
    model = network(DTYPES[dtype])
    before = copy.deepcopy(model)
    run_steps(model, kind(model.parameters(), **options), 4)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == "float32" else {"rtol": 2**-7, "atol": 1e-3}
    for param, old, *got in zip(
        model.parameters(), before.parameters(), *(r[name, dtype] for r in sharded), strict=True
    ):
        for of_rank in got:
            torch.testing.assert_close(of_rank, param.detach().float(), **tolerance)
        assert not torch.equal(param, old)


@pytest.mark.parametrize("op", ["lars", "lamb", "adam"])
def test_flat_pieces_are_refused_where_norms_of_tensors_count(sharded, op):
    for results in sharded:
        assert results[op].startswith(f"{op}: params must be whole tensors or DTensors for their norms, got a piece")
