"""The optimizers of tables: torch's results, 16-bit tables, GradScaler, state; CombinedOptimizer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from airank_fast.errors import UserError
from airank_fast.nn import SparseTable, SparseTableBag
from airank_fast.optim import (
    CombinedOptimizer,
    FusedFTRL,
    FusedSGD,
    SparseAdagrad,
    SparseAdam,
    SparseFTRL,
    SparseRowWiseAdagrad,
    SparseSGD,
)

KINDS = {
    "sgd": (SparseSGD, torch.optim.SGD, {"lr": 0.1}),
    "adagrad": (
        SparseAdagrad,
        torch.optim.Adagrad,
        {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-6},
    ),
    "row_wise_adagrad": (SparseRowWiseAdagrad, None, {"lr": 0.1}),
    "adam": (SparseAdam, torch.optim.SparseAdam, {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}),
    "adam, maximize": (SparseAdam, torch.optim.SparseAdam, {"lr": 0.01, "maximize": True}),
    "ftrl": (SparseFTRL, None, {"lr": 0.1, "initial_accumulator_value": 0.5, "l1": 1e-3, "l2": 0.1, "beta": 1.0}),
}
every = pytest.mark.parametrize(("kind", "torchs", "options"), KINDS.values(), ids=KINDS)
with_torch = pytest.mark.parametrize(
    ("kind", "torchs", "options"), [k for k in KINDS.values() if k[1]], ids=[n for n, k in KINDS.items() if k[1]]
)


def table(dtype=torch.float32, rows=40):
    torch.manual_seed(0)
    return SparseTable(rows, 6, dtype=dtype)


def run_steps(module, optimizer, num_steps, first=0, scaler=None, scale=1.0):
    """Each step has its own ids; two micro-batches, so that gradients are accumulated uncoalesced.

    One for float16, of which torch adds no sparse gradients on the CPU.
    """
    num_parts = 1 if next(module.parameters()).dtype == torch.float16 else 2
    for step in range(first, first + num_steps):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        for _ in range(num_parts):
            ids = torch.randint(module.num_embeddings, (5, 3), generator=generator)
            loss = scale * (module(ids).float() - 1).square().mean()
            (scaler.scale(loss) if scaler else loss).backward()
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()


@with_torch
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_twenty_steps_equal_torchs(kind, torchs, options, dtype):
    ours, theirs = table(dtype), table(dtype)
    run_steps(ours, kind(ours.parameters(), **options), 20)
    run_steps(theirs, torchs(theirs.parameters(), **options), 20)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-11}
    torch.testing.assert_close(ours.weight, theirs.weight, **tolerance)


@with_torch
def test_torchs_state_is_loaded_and_ours_by_torch(kind, torchs, options):
    ours, theirs = table(torch.float64), table(torch.float64)
    optimizers = kind(ours.parameters(), **options), torchs(theirs.parameters(), **options)
    run_steps(ours, optimizers[0], 3)
    run_steps(theirs, optimizers[1], 3)
    fresh = kind(ours.parameters(), **options), torchs(theirs.parameters(), **options)
    fresh[0].load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
    fresh[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    run_steps(ours, fresh[0], 3, first=3)
    run_steps(theirs, fresh[1], 3, first=3)
    # torch computes SparseAdam's bias correction in the dtype of a step that is a tensor, float32.
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if kind is SparseAdam else {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(ours.weight, theirs.weight, **tolerance)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_dict_round_trip_continues_bit_for_bit(kind, torchs, options, dtype):
    whole, halves = table(dtype), table(dtype)
    run_steps(whole, kind(whole.parameters(), **options), 6)
    first = kind(halves.parameters(), **options)
    run_steps(halves, first, 3)
    saved = copy.deepcopy(first.state_dict())
    second = kind(halves.parameters(), **options)
    second.load_state_dict(saved)
    run_steps(halves, second, 3, first=3)
    assert torch.equal(whole.weight, halves.weight)
    assert second.state[halves.weight]["step"] == 6
    # Loading into an optimizer that has stepped writes into its tensors.
    before = {name: tensor.data_ptr() for name, tensor in second.state[halves.weight].items()}
    second.load_state_dict(saved)
    state = second.state[halves.weight]
    assert {name: tensor.data_ptr() for name, tensor in state.items()} == before
    assert all(torch.equal(state[name], value) for name, value in saved["state"][0].items())


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_tables_are_their_masters_rounded(kind, torchs, options, dtype):
    module = table(dtype)
    optimizer = kind(module.parameters(), **(options | {"lr": 1e-3}))
    run_steps(module, optimizer, 10)
    master = optimizer.state[module.weight]["master"]
    assert master.dtype == torch.float32
    assert torch.equal(module.weight.detach(), master.to(dtype))
    assert not torch.equal(module.weight.detach().float(), master)
    alone = table(dtype)
    without = kind(alone.parameters(), **options, master_weights=False)
    run_steps(alone, without, 2)
    assert "master" not in without.state[alone.weight]
    assert not torch.equal(alone.weight, table(dtype).weight)


@every
def test_grad_scaler_unscales_and_skips_inside_the_op(kind, torchs, options):
    ours, expected = table(), table()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = kind(ours.parameters(), **options)
    run_steps(ours, optimizer, 3, scaler=scaler)
    run_steps(expected, kind(expected.parameters(), **options), 3)
    torch.testing.assert_close(ours.weight, expected.weight)
    before = copy.deepcopy(optimizer.state_dict()["state"][0]), ours.weight.detach().clone()
    run_steps(ours, optimizer, 1, scaler=scaler, scale=float("inf"))
    assert torch.equal(ours.weight, before[1])
    assert all(torch.equal(optimizer.state[ours.weight][name], value) for name, value in before[0].items())
    assert scaler.get_scale() == 2.0**9


@every
def test_reset_state_is_the_beginning(kind, torchs, options):
    module, again = table(), table()
    optimizer = kind(module.parameters(), **options)
    run_steps(module, optimizer, 3)
    optimizer.reset_state()
    module.load_state_dict(again.state_dict())
    run_steps(module, optimizer, 3)
    run_steps(again, kind(again.parameters(), **options), 3)
    assert torch.equal(module.weight, again.weight)


def test_ftrl_is_the_dense_one_where_every_row_is_touched():
    ours, dense = table(torch.float64), nn.Embedding(40, 6, dtype=torch.float64)
    dense.load_state_dict(ours.state_dict())
    options = {"lr_power": -0.75, "l2_shrinkage": 0.01} | KINDS["ftrl"][2]
    optimizers = SparseFTRL(ours.parameters(), **options), FusedFTRL(dense.parameters(), **options)
    ids = torch.arange(120) % 40
    for _ in range(3):
        for module, optimizer in zip((ours, dense), optimizers, strict=True):
            optimizer.zero_grad()
            (module(ids) - 1).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, dense.weight)
    state, of_dense = optimizers[0].state[ours.weight], optimizers[1].state[dense.weight]
    for name in ("accumulator", "linear"):
        torch.testing.assert_close(state[name], of_dense[name])


def test_untouched_rows_keep_everything():
    module = table()
    optimizer = SparseAdam(module.parameters())
    run_steps(module, optimizer, 3)
    before = {name: tensor.clone() for name, tensor in optimizer.state[module.weight].items()}
    weights = module.weight.detach().clone()
    optimizer.zero_grad()
    module(torch.tensor([5])).sum().backward()
    optimizer.step()
    others = torch.arange(40) != 5
    assert torch.equal(module.weight[others], weights[others])
    assert all(
        torch.equal(optimizer.state[module.weight][name][others], before[name][others])
        for name in ("exp_avg", "exp_avg_sq")
    )


@every
def test_dense_gradients_are_refused(kind, torchs, options):
    module = nn.Embedding(4, 3)
    module(torch.tensor([1])).sum().backward()
    with pytest.raises(UserError) as caught:
        kind(module.parameters(), **options).step()
    got = "strided of shape [4, 3]"
    assert str(caught.value) == f"{kind.op}: gradients must be sparse over rows, as SparseTable's, got {got}"


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (SparseSGD, {"momentum": 0.9}, "sparse_sgd: momentum must be 0, got 0.9"),
        (SparseSGD, {"nesterov": True}, "sparse_sgd: nesterov must be False, got True"),
        (SparseSGD, {"lr": -1.0}, "sparse_sgd: lr must be >= 0, got -1.0"),
        (SparseAdagrad, {"weight_decay": 0.1}, "sparse_adagrad: weight_decay must be 0, got 0.1"),
        (SparseAdagrad, {"lr_decay": -1.0}, "sparse_adagrad: lr_decay must be >= 0, got -1.0"),
        (
            SparseRowWiseAdagrad,
            {"initial_accumulator_value": -1.0},
            "sparse_row_wise_adagrad: initial_accumulator_value must be >= 0, got -1.0",
        ),
        (SparseAdam, {"betas": (0.9, 1.0)}, "sparse_adam: betas[1] must be in [0, 1), got 1.0"),
        (SparseAdam, {"eps": -1.0}, "sparse_adam: eps must be >= 0, got -1.0"),
        (SparseFTRL, {"l1": -1.0}, "sparse_ftrl: l1 must be >= 0, got -1.0"),
        (SparseFTRL, {"lr_power": 0.5}, "sparse_ftrl: lr_power must be <= 0, got 0.5"),
    ],
)
def test_options_out_of_range_are_named(kind, options, message):
    with pytest.raises(UserError) as caught:
        kind(table().parameters(), **options)
    assert str(caught.value) == message


def test_a_saved_tensor_of_another_shape_is_named():
    module = table()
    optimizer = SparseRowWiseAdagrad(module.parameters())
    run_steps(module, optimizer, 1)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["sum"] = torch.ones(40, 6)
    with pytest.raises(UserError) as caught:
        optimizer.load_state_dict(saved)
    assert str(caught.value) == "sparse_row_wise_adagrad: saved sum must have shape [40], got [40, 6]"


class Clicks(nn.Module):
    """A table and a layer behind it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.num_embeddings = 40
        self.table, self.layer = SparseTableBag(40, 6), nn.Linear(6, 1)

    def forward(self, ids):
        return self.layer(self.table(ids))


def combined(module):
    of_table = SparseAdam(module.table.parameters(), lr=0.1)
    return CombinedOptimizer(of_table, FusedSGD(module.layer.parameters(), lr=0.05, momentum=0.9))


def test_combined_optimizers_step_together():
    together, apart = Clicks(), Clicks()
    optimizer = combined(together)
    run_steps(together, optimizer, 4)
    parts = SparseAdam(apart.table.parameters(), lr=0.1), FusedSGD(apart.layer.parameters(), lr=0.05, momentum=0.9)

    class Both:
        def zero_grad(self):
            apart.zero_grad()

        def step(self):
            for part in parts:
                part.step()

    run_steps(apart, Both(), 4)
    for a, b in zip(together.parameters(), apart.parameters(), strict=True):
        assert torch.equal(a, b)
    assert optimizer.state.keys() == set(together.parameters())
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.05]
    assert optimizer.master_weights


def test_combined_state_round_trip_continues_bit_for_bit():
    whole, halves = Clicks(), Clicks()
    run_steps(whole, combined(whole), 6)
    first = combined(halves)
    run_steps(halves, first, 3)
    saved = copy.deepcopy(first.state_dict())
    second = combined(halves)
    second.load_state_dict(saved)
    run_steps(halves, second, 3, first=3)
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(a, b)
    for group in second.param_groups:
        group["lr"] = 0.0
    run_steps(halves, second, 1, first=6)
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(a, b)  # the rate that was set after loading has reached both


def test_combined_optimizers_and_the_scaler():
    module, expected = Clicks(), Clicks()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = combined(module)
    run_steps(module, optimizer, 3, scaler=scaler)
    run_steps(expected, combined(expected), 3)
    before = [p.detach().clone() for p in module.parameters()]
    for a, b in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    run_steps(module, optimizer, 1, scaler=scaler, scale=float("inf"))
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), before, strict=True))
    optimizer.reset_state()
    assert all(not state["step"] for state in optimizer.state.values() if "step" in state)


def test_combined_optimizers_that_do_not_fit_are_refused():
    module = Clicks()
    one = SparseAdam(module.table.parameters())
    for optimizers, message in [
        ((), "optimizers must be at least one, got none"),
        ((one, SparseSGD(module.table.parameters())), "parameters must be in one optimizer each, got 1 twice"),
    ]:
        with pytest.raises(UserError) as caught:
            CombinedOptimizer(*optimizers)
        assert str(caught.value) == "combined_optimizer: " + message
    optimizer = combined(module)
    with pytest.raises(UserError, match=r"^combined_optimizer: a saved state must have states of 2 optimizers, got 1$"):
        optimizer.load_state_dict({"optimizers": [one.state_dict()]})
    with pytest.raises(UserError, match=r"^combined_optimizer: a group must be added to one of the optimizers"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
