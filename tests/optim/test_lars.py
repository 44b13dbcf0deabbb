"""FusedLARS as a torch optimizer: MLPerf's formula, skipped groups, 16-bit parameters, GradScaler, state."""

from __future__ import annotations

import copy

import pytest
import torch
from optim.networks import assert_same, network, run_steps
from torch import nn

from airank_fast.errors import UserError
from airank_fast.optim import FusedLARS


def groups(model):
    """MLPerf's: weights decayed and adapted, batch norm and bias neither."""
    weights = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": weights, "weight_decay": 0.01}, {"params": rest, "is_skipped": True}]


class PythonLARS(torch.optim.Optimizer):
    """MLPerf's LARS in plain torch; the velocity includes the learning rate."""

    def __init__(self, params, lr, momentum=0.0, weight_decay=0.0, trust_coefficient=0.001, eps=0.0, nesterov=False):
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "is_skipped": False,
                "eta": trust_coefficient,
                "eps": eps,
                "nesterov": nesterov,
            },
        )

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                trust = 1.0
                if not group["is_skipped"]:
                    w, g = p.norm(), p.grad.norm()
                    trust = group["eta"] * w / (g + group["weight_decay"] * w + group["eps"])
                d = group["lr"] * trust * (p.grad + group["weight_decay"] * p)
                velocity = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                velocity.mul_(group["momentum"]).sub_(d)
                p.add_(velocity * group["momentum"] - d if group["nesterov"] else velocity)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("nesterov", [False, True])
def test_ten_steps_equal_the_formula(nesterov, dtype):
    options = {"lr": 2.0, "momentum": 0.9, "trust_coefficient": 0.01, "eps": 0.001, "nesterov": nesterov}
    ours, theirs = network(dtype), network(dtype)
    for model, kind in ((ours, FusedLARS), (theirs, PythonLARS)):
        optimizer = kind(groups(model), **options)
        optimizer.param_groups[1]["lr"] = 0.05
        run_steps(model, optimizer, 10)
    tolerances = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-11}
    assert_same(ours, theirs, exact=False, **tolerances)


def test_the_learning_rate_is_in_the_momentum():
    param = nn.Parameter(torch.zeros(2))  # no trust ratio for zeros
    optimizer = FusedLARS([param], lr=1.0, momentum=0.5)
    for lr, expected in ((1.0, -1.0), (0.0, -1.5)):
        optimizer.param_groups[0].update(lr=lr, is_skipped=True)
        param.grad = torch.ones(2)
        optimizer.step()
        assert param.tolist() == [expected] * 2


def test_arguments_are_apexs_in_apexs_order():
    optimizer = FusedLARS([nn.Parameter(torch.ones(2))], 0.5, 0.9, 0.0, 0.1, 0.02, 1e-3, True, False, True, True)
    group = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    assert group == {
        "lr": 0.5,
        "momentum": 0.9,
        "dampening": 0.0,
        "weight_decay": 0.1,
        "trust_coefficient": 0.02,
        "eps": 1e-3,
        "nesterov": True,
        "is_skipped": False,
    }
    assert optimizer.set_grad_none
    assert not FusedLARS([nn.Parameter(torch.ones(2))], lr=1.0).set_grad_none


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_dict_round_trip_continues_bit_for_bit(dtype):
    whole, halves = network(dtype), network(dtype)
    options = {"lr": 1.0, "momentum": 0.9, "trust_coefficient": 0.01}
    run_steps(whole, FusedLARS(groups(whole), **options), 6)
    first = FusedLARS(groups(halves), **options)
    run_steps(halves, first, 3)
    assert first.state_dict()["state"][0].keys() - {"master"} == {"momentum_buffer"}  # apex's key
    second = FusedLARS(groups(halves), lr=1.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run_steps(halves, second, 3, first=3)
    assert_same(whole, halves)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("lars: lr must be >= 0, got -1.0", {"lr": -1.0}),
        ("lars: momentum must be >= 0, got -0.5", {"momentum": -0.5}),
        ("lars: weight_decay must be >= 0, got -0.1", {"weight_decay": -0.1}),
        ("lars: trust_coefficient must be >= 0, got -1.0", {"trust_coefficient": -1.0}),
        ("lars: eps must be >= 0, got -1.0", {"eps": -1.0}),
        ("lars: dampening must be 0, got 0.5", {"dampening": 0.5}),
        ("lars: wd_after_momentum must be False, got True", {"wd_after_momentum": True}),
        (
            "lars: nesterov must have momentum > 0 and dampening 0, got momentum 0.0 and dampening 0.0",
            {"nesterov": True},
        ),
    ],
)
def test_wrong_options(message, options):
    with pytest.raises(UserError) as caught:
        FusedLARS([nn.Parameter(torch.ones(2))], **({"lr": 1.0} | options))
    assert str(caught.value) == message
