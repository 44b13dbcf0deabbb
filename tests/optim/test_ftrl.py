"""FusedFTRL as a torch optimizer: the results of the formula in plain torch, its options and its state."""

from __future__ import annotations

import pytest
import torch
from ops.plain_ftrl import PlainFTRL
from optim.networks import assert_same, network, run_steps
from torch import nn

from airank_fast.errors import UserError
from airank_fast.optim import CombinedOptimizer, FusedAdam, FusedFTRL

OPTIONS = {
    "defaults": {},
    "penalties": {"l1": 0.01, "l2": 0.1, "l2_shrinkage": 0.01, "beta": 1.0},
    "another power": {"lr_power": -0.7, "initial_accumulator_value": 0.5},
    "maximize": {"maximize": True, "lr": 1e-3},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_ten_steps_equal_the_formula_in_plain_torch(options, dtype):
    ours, theirs, options = network(dtype), network(dtype), {"lr": 0.05} | options
    run_steps(ours, FusedFTRL(ours.parameters(), **options), 10)
    run_steps(theirs, PlainFTRL(theirs.parameters(), **options), 10)
    tolerances = {"rtol": 1e-3, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-11}
    assert_same(ours, theirs, exact=False, **tolerances)


def test_keras_defaults():
    (group,) = FusedFTRL([nn.Parameter(torch.ones(2))]).param_groups
    expected = {"lr": 0.001, "lr_power": -0.5, "initial_accumulator_value": 0.1, "maximize": False}
    expected |= dict.fromkeys(("l1", "l2", "l2_shrinkage", "beta"), 0.0)
    assert {name: value for name, value in group.items() if name != "params"} == expected


def test_the_accumulator_begins_and_begins_again_at_its_initial_value():
    param = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    optimizer = FusedFTRL([param], lr=1.0, initial_accumulator_value=4.0)
    for expected in (4.0, 8.0):
        param.grad = torch.full_like(param, (expected - 4.0) ** 0.5)
        optimizer.step()
        assert optimizer.state[param]["accumulator"].tolist() == [expected] * 3
    optimizer.reset_state()
    state = {name: tensor.unique().tolist() for name, tensor in optimizer.state[param].items()}
    assert {name: state[name] for name in FusedFTRL.state_names} == {"step": [0], "accumulator": [4], "linear": [0]}


def test_features_that_are_noise_get_weights_of_exactly_0():
    """What the wide part of a recommender takes FTRL for."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4096, 20, generator=generator)
    label = (x[:, :2].sum(1) > 0).float()
    weight = nn.Parameter(torch.zeros(20))
    optimizer = FusedFTRL([weight], lr=0.5, l1=2.0)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(x @ weight, label).backward()
        optimizer.step()
    assert (weight[:2] > 0.3).all()
    assert weight[2:].tolist() == [0.0] * 18


def test_beside_adam_in_one_optimizer():
    wide, deep = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    both = CombinedOptimizer(FusedFTRL([wide], lr=0.1), FusedAdam([deep], lr=0.1))
    wide.grad = deep.grad = torch.ones(3)
    both.step()
    alone = nn.Parameter(torch.zeros(3))
    alone.grad = torch.ones(3)
    FusedFTRL([alone], lr=0.1).step()
    assert torch.equal(wide, alone)
    torch.testing.assert_close(deep.detach(), torch.full((3,), -0.1))


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("lr must be >= 0, got -1.0", {"lr": -1.0}),
        ("lr_power must be <= 0, got 0.5", {"lr_power": 0.5}),
        ("initial_accumulator_value must be >= 0, got -0.1", {"initial_accumulator_value": -0.1}),
        ("l1 must be >= 0, got -1.0", {"l1": -1.0}),
        ("l2 must be >= 0, got -1.0", {"l2": -1.0}),
        ("l2_shrinkage must be >= 0, got -1.0", {"l2_shrinkage": -1.0}),
        ("beta must be >= 0, got -1.0", {"beta": -1.0}),
    ],
)
def test_wrong_options(message, options):
    with pytest.raises(UserError) as caught:
        FusedFTRL([nn.Parameter(torch.ones(2))], **options)
    assert str(caught.value) == f"ftrl: {message}"
