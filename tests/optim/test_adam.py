"""FusedAdam, FusedAdamW and FusedAdagrad as torch optimizers: torch.optim's results, arguments and states."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from optim.networks import assert_same, network, run_steps
from torch import nn

from airank_fast.errors import UserError
from airank_fast.optim import FusedAdagrad, FusedAdam, FusedAdamW

PAIRS = {
    FusedAdam: torch.optim.Adam,
    FusedAdamW: torch.optim.AdamW,
    FusedAdagrad: torch.optim.Adagrad,
}
every = pytest.mark.parametrize(("kind", "torchs"), PAIRS.items(), ids=[kind.__name__ for kind in PAIRS])
OPTIONS = {
    "Adam": (FusedAdam, {}),
    "Adam, decay": (FusedAdam, {"weight_decay": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}),
    "Adam, decoupled decay": (FusedAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    "Adam, maximize": (FusedAdam, {"maximize": True, "lr": 1e-4}),
    "AdamW": (FusedAdamW, {}),
    "Adagrad": (FusedAdagrad, {}),
    "Adagrad, decay": (FusedAdagrad, {"weight_decay": 0.1, "lr_decay": 0.5, "eps": 1e-3}),
    "Adagrad, initial value": (FusedAdagrad, {"initial_accumulator_value": 0.1, "maximize": True}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "options"), OPTIONS.values(), ids=OPTIONS.keys())
def test_ten_steps_equal_torchs(kind, options, dtype):
    ours, theirs, options = network(dtype), network(dtype), {"lr": 0.01} | options
    run_steps(ours, kind(ours.parameters(), **options), 10)
    run_steps(theirs, PAIRS[kind](theirs.parameters(), **options), 10)
    tolerances = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-11}
    assert_same(ours, theirs, exact=False, **tolerances)


@every
def test_arguments_are_torchs_in_torchs_order(kind, torchs):
    def arguments(of):
        return {name: parameter for name, parameter in inspect.signature(of).parameters.items() if name != "self"}

    ours, theirs = arguments(kind.__init__), arguments(torchs.__init__)
    for name, parameter in theirs.items():
        assert ours[name].default == parameter.default, name
        assert ours[name].kind == parameter.kind, name
    positional = [name for name, parameter in ours.items() if parameter.kind == parameter.POSITIONAL_OR_KEYWORD]
    assert positional == [name for name, p in theirs.items() if p.kind == p.POSITIONAL_OR_KEYWORD]
    params = [nn.Parameter(torch.ones(2))]
    for of_torch in ("foreach", "fused", "capturable") if kind is not FusedAdagrad else ("foreach", "fused"):
        assert of_torch not in kind(params, **{of_torch: True}).param_groups[0]


def test_apexs_name_of_decoupled_decay():
    params = [nn.Parameter(torch.ones(2))]
    for mode in (True, False):
        assert FusedAdam(params, adam_w_mode=mode).param_groups[0]["decoupled_weight_decay"] == mode
    assert not FusedAdam(params, set_grad_none=False).set_grad_none
    assert FusedAdam(params, bias_correction=False).param_groups[0]["bias_correction"] is False


@every
def test_state_loads_into_torchs_and_back(kind, torchs):
    ours, theirs = network(), network()
    mine, its = kind(ours.parameters(), lr=0.01), torchs(theirs.parameters(), lr=1.0)
    run_steps(ours, mine, 2)
    theirs.load_state_dict(ours.state_dict())
    its.load_state_dict(copy.deepcopy(mine.state_dict()))  # torch shares the tensors otherwise
    run_steps(ours, mine, 2, first=2)
    run_steps(theirs, its, 2, first=2)
    assert_same(ours, theirs, exact=False, rtol=1e-4, atol=1e-6)
    fresh = kind(theirs.parameters(), lr=1.0)
    fresh.load_state_dict(copy.deepcopy(its.state_dict()))
    for param, state in its.state.items():
        assert fresh.state[param].keys() == state.keys() == set(kind.state_names)
        for name, tensor in state.items():
            torch.testing.assert_close(fresh.state[param][name], tensor, rtol=0, atol=0)
    run_steps(theirs, fresh, 1, first=4)
    run_steps(ours, mine, 1, first=4)
    assert_same(ours, theirs, exact=False, rtol=1e-4, atol=1e-6)


@every
def test_a_parameter_counts_the_steps_in_which_it_has_a_gradient(kind, torchs):
    def run(of):
        always, at_times = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
        optimizer = of([always, at_times], lr=0.1)
        for step in range(6):
            always.grad = torch.full((4,), 1.0 + step)
            at_times.grad = torch.full((4,), 1.0 + step) if step % 3 == 2 else None
            optimizer.step()
        return [always, at_times], [optimizer.state[always]["step"].item(), optimizer.state[at_times]["step"].item()]

    (ours, counts), (theirs, torchs_counts) = run(kind), run(torchs)
    assert counts == torchs_counts == [6.0, 2.0]
    torch.testing.assert_close(ours, theirs)


def test_apexs_state_is_loaded():
    ours, again = network(), network()
    optimizer = FusedAdam(ours.parameters(), lr=0.01)
    run_steps(ours, optimizer, 3)
    of_apex = copy.deepcopy(optimizer.state_dict())  # apex counts steps by group, and has no masters
    assert {state.pop("step").item() for state in of_apex["state"].values()} == {3.0}
    of_apex["param_groups"][0]["step"] = 3
    again.load_state_dict(ours.state_dict())
    fresh = FusedAdam(again.parameters())
    fresh.load_state_dict(of_apex)
    assert "step" not in fresh.param_groups[0]
    assert of_apex["param_groups"][0]["step"] == 3
    run_steps(ours, optimizer, 2, first=3)
    run_steps(again, fresh, 2, first=3)
    assert_same(ours, again)


def test_adams_state_in_adamw_is_adamws_from_then_on():
    model = network()
    adam, adamw = FusedAdam(model.parameters(), lr=0.5), FusedAdamW(model.parameters())
    run_steps(model, adam, 1)
    adamw.load_state_dict(adam.state_dict())
    assert adamw.param_groups[0]["lr"] == 0.5
    assert adamw.param_groups[0]["decoupled_weight_decay"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every
def test_without_masters_state_is_float32_all_the_same(kind, torchs, dtype):
    model = network(dtype)
    optimizer = kind(model.parameters(), lr=0.1, master_weights=False)
    run_steps(model, optimizer, 2)
    for state in optimizer.state.values():
        assert {name: t.dtype for name, t in state.items()} == dict.fromkeys(kind.state_names, torch.float32)


def test_the_initial_value_of_adagrads_sums_is_where_they_begin_again():
    param = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = FusedAdagrad([param], initial_accumulator_value=2.0)
    param.grad = torch.zeros_like(param)
    optimizer.step()
    assert optimizer.state[param]["sum"].tolist() == [2.0] * 3
    param.grad = torch.ones_like(param)
    optimizer.step()
    assert optimizer.state[param]["sum"].tolist() == [3.0] * 3
    optimizer.reset_state()
    assert optimizer.state[param]["sum"].tolist() == [2.0] * 3
    assert optimizer.state[param]["step"] == 0


@every
@pytest.mark.parametrize("of_lr", [float, torch.tensor], ids=["float", "tensor"])
def test_learning_rate_schedules(kind, torchs, of_lr):
    ours, theirs = network(), network()
    for model, optimizer in [
        (ours, kind(ours.parameters(), lr=of_lr(0.1))),
        (theirs, torchs(theirs.parameters(), lr=0.1)),
    ]:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
        for step in range(5):
            run_steps(model, optimizer, 1, first=step)
            schedule.step()
    assert_same(ours, theirs, exact=False, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "message", "options"),
    [
        (FusedAdam, "adam: lr must be >= 0, got -1.0", {"lr": -1.0}),
        (FusedAdam, "adam: eps must be >= 0, got -1.0", {"eps": -1.0}),
        (FusedAdam, "adam: weight_decay must be >= 0, got -0.1", {"weight_decay": -0.1}),
        (FusedAdam, "adam: betas[1] must be in [0, 1), got 1.0", {"betas": (0.9, 1.0)}),
        (FusedAdam, "adam: betas must be two numbers in [0, 1), got True", {"betas": True}),
        (FusedAdamW, "adam: betas[0] must be in [0, 1), got -1.0", {"betas": (-1.0, 0.9)}),
        (FusedAdagrad, "adagrad: lr_decay must be >= 0, got -0.5", {"lr_decay": -0.5}),
        (
            FusedAdagrad,
            "adagrad: initial_accumulator_value must be >= 0, got -1.0",
            {"initial_accumulator_value": -1.0},
        ),
    ],
)
def test_wrong_options(kind, message, options):
    with pytest.raises(UserError) as caught:
        kind([nn.Parameter(torch.ones(2))], **options)
    assert str(caught.value) == message


def test_amsgrad_is_refused_wherever_it_comes_from():
    param = nn.Parameter(torch.ones(2))
    optimizer = FusedAdam([nn.Parameter(torch.ones(2))])
    with pytest.raises(UserError, match=r"^adam: amsgrad must be False, got True$"):
        optimizer.add_param_group({"params": [param], "amsgrad": True})
    saved = torch.optim.Adam([param], amsgrad=True).state_dict()
    with pytest.raises(UserError, match=r"^adam: amsgrad must be False, got True$"):
        optimizer.load_state_dict(saved)
