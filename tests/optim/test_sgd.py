"""FusedSGD as a torch optimizer: torch.optim.SGD's results, 16-bit parameters, GradScaler, state."""

from __future__ import annotations

import copy

import pytest
import torch
from optim.networks import assert_same, network, run_steps
from torch import nn

from airank_fast.errors import UserError
from airank_fast.optim import FusedSGD

OPTIONS = {
    "plain": {},
    "decay": {"weight_decay": 0.01},
    "momentum": {"momentum": 0.9, "weight_decay": 5e-5},
    "nesterov": {"momentum": 0.9, "weight_decay": 5e-5, "nesterov": True},
    "dampening": {"momentum": 0.9, "dampening": 0.3},
    "maximize": {"momentum": 0.9, "maximize": True, "lr": 1e-4},  # a rising loss needs small steps
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_twenty_steps_equal_torchs(options, dtype):
    ours, theirs, options = network(dtype), network(dtype), {"lr": 0.02} | options
    run_steps(ours, FusedSGD(ours.parameters(), **options), 20)
    run_steps(theirs, torch.optim.SGD(theirs.parameters(), **options), 20)
    tolerances = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-12}
    assert_same(ours, theirs, exact=False, **tolerances)


@pytest.mark.parametrize("max_grad_norm", [0.05, 1e6], ids=["clipped", "not clipped"])
@pytest.mark.parametrize("scale", [None, 1024.0], ids=["", "GradScaler"])
def test_clipping_by_the_norm_over_all_groups_is_torchs(scale, max_grad_norm):
    ours, theirs = network(torch.float32), network(torch.float32)
    groups = [{"params": [p for p in ours.parameters() if (p.ndim > 1) == is_weight]} for is_weight in (True, False)]
    optimizer = FusedSGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01, max_grad_norm=max_grad_norm)
    torchs = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    for step in range(4):
        x = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(step))
        scaler.scale(ours(x).square().mean()).backward()
        theirs(x).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        torchs.step()
        optimizer.zero_grad()
        torchs.zero_grad()
    assert_same(ours, theirs, exact=False, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_parameters_are_their_masters_rounded(dtype):
    param = torch.nn.Parameter(torch.ones(1000, dtype=dtype))
    optimizer = FusedSGD([param], lr=1e-4)
    for _ in range(100):
        param.grad = torch.ones_like(param)
        optimizer.step()
    master = optimizer.state[param]["master"]
    assert master.dtype == torch.float32
    # One step is below half a unit in the last place of either type: without a master the weight would not change.
    torch.testing.assert_close(master, torch.full_like(master, 0.99), rtol=1e-4, atol=0)
    assert torch.equal(param.detach(), master.to(dtype))


def test_without_masters_16_bit_parameters_are_updated_themselves():
    ours, theirs = network(torch.bfloat16), network(torch.bfloat16)
    optimizer = FusedSGD(ours.parameters(), lr=0.1, momentum=0.9, master_weights=False)
    run_steps(ours, optimizer, 1)
    run_steps(theirs, torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9), 1)
    assert_same(ours, theirs, exact=False, rtol=2**-7, atol=1e-4)
    for state in optimizer.state.values():
        assert {name: tensor.dtype for name, tensor in state.items()} == {"momentum_buffer": torch.bfloat16}


def test_state_has_the_parameters_strides_and_no_copies_are_made():
    model = network(torch.bfloat16)
    optimizer = FusedSGD(model.parameters(), lr=0.1, momentum=0.9)
    run_steps(model, optimizer, 1)
    weight = model[0].weight
    assert not weight.is_contiguous()
    for name in ("momentum_buffer", "master"):
        assert optimizer.state[weight][name].stride() == weight.stride()
    assert weight.grad.stride() == weight.stride()


def test_mixed_groups_and_parameters_without_gradient():
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    bias, unused = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    optimizer = FusedSGD([{"params": [weight, unused], "weight_decay": 0.5}], lr=0.5)
    optimizer.add_param_group({"params": [bias], "lr": 0.25})
    weight.grad, bias.grad = torch.ones_like(weight), torch.ones_like(bias)
    optimizer.step()
    assert weight.tolist() == [0.25] * 4
    assert bias.tolist() == [0.75] * 4
    assert unused.tolist() == [1.0] * 4
    assert unused not in optimizer.state


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
def test_learning_rate_schedules(lr):
    ours, theirs = network(), network()
    for model, optimizer in [
        (ours, FusedSGD(ours.parameters(), lr=copy.copy(lr), momentum=0.9)),
        (theirs, torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)),
    ]:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
        for step in range(5):
            run_steps(model, optimizer, 1, first=step)
            schedule.step()
    assert_same(ours, theirs, exact=False)


def test_grad_scaler_with_float16_parameters():
    param = nn.Parameter(torch.ones(8, dtype=torch.float16))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    optimizer = FusedSGD([param], lr=0.5)
    scaler.scale(param.float().sum()).backward()
    scaler.step(optimizer)
    assert param.tolist() == [0.5] * 8


def test_state_loads_into_torchs_sgd_and_back():
    ours, theirs = network(), network()
    options = {"lr": 0.05, "momentum": 0.9}
    mine, its = FusedSGD(ours.parameters(), **options), torch.optim.SGD(theirs.parameters(), lr=1.0)
    run_steps(ours, mine, 2)
    theirs.load_state_dict(ours.state_dict())
    its.load_state_dict(copy.deepcopy(mine.state_dict()))  # torch shares the tensors otherwise
    run_steps(ours, mine, 2, first=2)
    run_steps(theirs, its, 2, first=2)
    assert_same(ours, theirs, exact=False)
    mine.load_state_dict(its.state_dict())
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine.state[a]["momentum_buffer"], its.state[b]["momentum_buffer"])
    run_steps(ours, mine, 1, first=4)


def test_closure_returns_the_loss():
    param = nn.Parameter(torch.ones(3))
    optimizer = FusedSGD([param], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = param.sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3.0
    assert param.tolist() == [0.5] * 3


def test_backward_after_a_step_notices_changed_parameters():
    param = nn.Parameter(torch.ones(3, 3))
    loss = (torch.ones(3, 3, requires_grad=True) @ param).sum()
    param.grad = torch.ones_like(param)
    FusedSGD([param], lr=0.1).step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("sgd: lr must be >= 0, got -1.0", {"lr": -1.0}),
        ("sgd: lr must be >= 0, got nan", {"lr": float("nan")}),
        ("sgd: lr must be a number or a tensor of one element, got shape [2]", {"lr": torch.ones(2)}),
        ("sgd: momentum must be >= 0, got -0.5", {"lr": 1.0, "momentum": -0.5}),
        ("sgd: weight_decay must be >= 0, got -0.1", {"lr": 1.0, "weight_decay": -0.1}),
        (
            "sgd: nesterov must have momentum > 0 and dampening 0, got momentum 0.0 and dampening 0.0",
            {"lr": 1.0, "nesterov": True},
        ),
    ],
)
def test_wrong_options(message, options):
    with pytest.raises(UserError) as caught:
        FusedSGD([nn.Parameter(torch.ones(2))], **options)
    assert str(caught.value) == message


def test_wrong_options_of_a_group_and_wrong_gradients():
    param = nn.Parameter(torch.ones(4, 2))
    optimizer = FusedSGD([nn.Parameter(torch.ones(2))], lr=0.1)
    with pytest.raises(UserError, match=r"^sgd: momentum must be >= 0, got -1"):
        optimizer.add_param_group({"params": [param], "momentum": -1.0})
    optimizer.add_param_group({"params": [param]})
    param.grad = torch.ones(4, 2).to_sparse()
    with pytest.raises(RuntimeError, match=r"sgd: grads\[0\] must be dense, got a sparse tensor"):
        optimizer.step()
