"""Every fused optimizer as a torch.optim.Optimizer: hooks, groups, arguments, state dicts."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from optim.networks import assert_same, network, run_steps
from torch import nn

from airank_fast.errors import UserError
from airank_fast.optim import FusedAdagrad, FusedAdam, FusedAdamW, FusedFTRL, FusedLAMB, FusedLARS, FusedSGD

MOMENTUM = {"momentum": 0.9, "lr": 0.1}
KINDS = [
    (FusedSGD, MOMENTUM),
    (FusedAdam, {"lr": 0.01}),
    (FusedAdagrad, {"lr": 0.01}),
    (FusedFTRL, {"lr": 0.1}),
    (FusedLARS, MOMENTUM | {"trust_coefficient": 0.01}),
    (FusedLAMB, {"lr": 0.01}),
]
every = pytest.mark.parametrize(("kind", "options"), KINDS, ids=[kind.op for kind, _ in KINDS])


def stepped(kind, options, dtype=torch.float32, num_steps=2):
    model = network(dtype)
    optimizer = kind(model.parameters(), **options)
    run_steps(model, optimizer, num_steps)
    return model, optimizer


@every
@pytest.mark.parametrize("in_place", [False, True], ids=["returned", "in place"])
def test_what_a_pre_hook_makes_of_the_state_is_loaded(kind, options, in_place):
    _, optimizer = stepped(kind, options, torch.bfloat16)
    name = kind.state_names[-1]

    def sevens(_, state_dict):
        filled = {i: state | {name: torch.full_like(state[name], 7.0)} for i, state in state_dict["state"].items()}
        if in_place:
            state_dict["state"] = filled
            return None
        return state_dict | {"state": filled}

    optimizer.register_load_state_dict_pre_hook(sevens)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert all((state[name] == 7.0).all() for state in optimizer.state.values())
    assert len(optimizer._optimizer_load_state_dict_pre_hooks) == 1  # load_state_dict has removed its own


@every
def test_a_post_hook_sees_the_loaded_state_and_may_change_it(kind, options):
    model, optimizer = stepped(kind, options, torch.bfloat16)
    saved = copy.deepcopy(optimizer.state_dict())
    fresh, seen = kind(model.parameters(), **options), []

    def note_and_clear(loaded):
        for state in loaded.state.values():
            seen.append({name: tensor.dtype for name, tensor in state.items()})
            state[kind.state_names[0]].zero_()

    fresh.register_load_state_dict_post_hook(note_and_clear)
    fresh.load_state_dict(saved)
    assert seen
    assert all(set(dtypes) == {*kind.state_names, "master"} for dtypes in seen)
    assert all(dtype == torch.float32 for dtypes in seen for dtype in dtypes.values())
    assert not any(state[kind.state_names[0]].any() for state in fresh.state.values())


@every
def test_a_saved_tensor_of_another_shape_leaves_everything_as_it_was(kind, options):
    model, optimizer = stepped(kind, options)
    saved = copy.deepcopy(optimizer.state_dict())
    name = kind.state_names[-1]
    saved["state"][3][name] = torch.ones(2, 2, 2)
    shape = list(list(model.parameters())[3].shape)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(UserError) as caught:
        optimizer.load_state_dict(saved)
    assert str(caught.value) == f"{kind.op}: saved {name} must have shape {shape}, got [2, 2, 2]"
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert all(torch.equal(after["state"][i][n], t) for i, state in before["state"].items() for n, t in state.items())


@every
def test_loading_adds_no_options(kind, options):
    _, optimizer = stepped(kind, options)
    keys = [set(group) for group in optimizer.state_dict()["param_groups"]]
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert [set(group) for group in optimizer.state_dict()["param_groups"]] == keys
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    assert "differentiable" not in optimizer.param_groups[-1]
    assert "differentiable" not in copy.deepcopy(optimizer).defaults


@every
@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
def test_an_empty_group_is_passed_over(kind, options, first):
    ours, expected = network(), network()
    groups = [{"params": list(ours.parameters())}, {"params": []}]
    optimizer = kind(groups[:: -1 if first else 1], **options)
    run_steps(ours, optimizer, 2)
    run_steps(expected, kind(expected.parameters(), **options), 2)
    assert_same(ours, expected)
    steps = {group["step"].item() for group in optimizer.param_groups if "step" in group}
    assert steps <= {2.0}  # a group that is filled on another rank counts steps here too
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run_steps(ours, optimizer, 1, first=2)


@every
def test_nothing_but_empty_groups_may_step(kind, options):
    kind([{"params": []}], **options).step()


def test_sgd_takes_torchs_and_apexs_arguments():
    params = [nn.Parameter(torch.ones(2))]
    assert FusedSGD(params).param_groups[0]["lr"] == torch.optim.SGD(params).param_groups[0]["lr"]
    for of_torch in ("foreach", "fused", "differentiable"):
        for value in (None, False):
            assert of_torch not in FusedSGD(params, **{of_torch: value}).param_groups[0]
    FusedSGD(params, foreach=True)
    FusedSGD(params, fused=True)
    of_apex = FusedSGD(params, wd_after_momentum=False, materialize_master_grads=False, set_grad_none=False)
    params[0].grad = torch.ones(2)
    of_apex.zero_grad()
    assert params[0].grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (FusedSGD, "differentiable"),
        (FusedSGD, "wd_after_momentum"),
        (FusedAdam, "amsgrad"),
        (FusedAdam, "differentiable"),
        (FusedAdamW, "amsgrad"),
        (FusedAdagrad, "differentiable"),
        (FusedAdagrad, "adagrad_w_mode"),
        (FusedLARS, "wd_after_momentum"),
        (FusedLAMB, "amsgrad"),
    ],
)
def test_what_the_op_does_not_do_is_refused(kind, name):
    with pytest.raises(UserError, match=f"^{kind.op}: {name} must be False, got True$"):
        kind([nn.Parameter(torch.ones(2))], lr=0.1, **{name: True})


@every
@pytest.mark.parametrize("write", ["load_state_dict", "data"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_are_written_into_a_16_bit_model_are_what_the_next_step_begins_with(kind, options, dtype, write):
    if kind is FusedFTRL:
        pytest.skip("its weights follow from the state: a step without gradient makes them 0")
    model, optimizer = stepped(kind, options, dtype)
    optimizer.reset_state()  # momentum of earlier gradients would move the weights
    best = {name: torch.full_like(tensor, 3.0) for name, tensor in model.state_dict().items()}
    if write == "load_state_dict":
        model.load_state_dict(best)
    else:
        for param in model.parameters():
            param.data.fill_(3.0)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    for param in model.parameters():
        param.grad = torch.zeros_like(param)
    optimizer.step()
    for param in model.parameters():
        assert torch.equal(param.detach(), torch.full_like(param, 3.0))
        assert torch.equal(optimizer.state[param]["master"], torch.full_like(param, 3.0, dtype=torch.float32))


@every
def test_weights_written_as_they_were_leave_the_masters_their_digits(kind, options):
    model, optimizer = stepped(kind, options, torch.bfloat16, num_steps=3)
    other, undisturbed = stepped(kind, options, torch.bfloat16, num_steps=3)
    model.load_state_dict(copy.deepcopy(model.state_dict()))
    run_steps(model, optimizer, 2, first=3)
    run_steps(other, undisturbed, 2, first=3)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(optimizer.state[a]["master"], undisturbed.state[b]["master"])


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_parameters_are_their_masters_rounded(kind, options, dtype):
    model, optimizer = stepped(kind, options | {"lr": 1e-3}, dtype, num_steps=10)
    for param in model.parameters():
        state = optimizer.state[param]
        assert {name: tensor.dtype for name, tensor in state.items()} == dict.fromkeys(state, torch.float32)
        assert all(tensor.stride() == param.stride() for name, tensor in state.items() if name != "step")
        assert torch.equal(param.detach(), state["master"].to(dtype))
    weight = model[0].weight
    assert not torch.equal(optimizer.state[weight]["master"], weight.float())


@every
def test_grad_scaler_unscales_and_skips_inside_the_op(kind, options):
    ours, expected = network(), network()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = kind(ours.parameters(), **options)
    run_steps(ours, optimizer, 3, scaler)
    run_steps(expected, kind(expected.parameters(), **options), 3)
    assert_same(ours, expected)

    before = copy.deepcopy(ours)
    loss = ours(torch.full((2, 3, 5, 5), float("inf"))).mean()
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert_same(ours, before)
    assert scaler.get_scale() == 2.0**9
    # A skipped step does not count.
    assert optimizer.param_groups[0].get("step", 3) == 3
    assert all(state.get("step", 3) == 3 for state in optimizer.state.values())


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_dict_round_trip_continues_bit_for_bit(kind, options, dtype):
    whole, halves = network(dtype), network(dtype)
    run_steps(whole, kind(whole.parameters(), **options), 6)
    first = kind(halves.parameters(), **options)
    run_steps(halves, first, 3)
    second = kind(halves.parameters(), lr=1.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for state in second.state.values():
        assert all(tensor.dtype == torch.float32 for tensor in state.values())
    run_steps(halves, second, 3, first=3)
    assert_same(whole, halves)


@every
def test_loading_writes_into_existing_tensors_and_keeps_strides(kind, options):
    model, lr = network(torch.bfloat16), torch.tensor(0.1)
    optimizer = kind(model.parameters(), **options | {"lr": lr})
    run_steps(model, optimizer, 1)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in saved["state"].values():
        state |= {name: tensor.contiguous() for name, tensor in state.items()}
    run_steps(model, optimizer, 1, first=1)
    step = optimizer.param_groups[0].get("step")
    addresses = {t.data_ptr() for s in optimizer.state.values() for t in s.values()}
    lr.fill_(0.7)
    optimizer.load_state_dict(saved)
    assert addresses == {t.data_ptr() for s in optimizer.state.values() for t in s.values()}
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == pytest.approx(0.1)
    assert optimizer.param_groups[0].get("step") is step
    assert step is None or step.item() == 1
    weight = model[0].weight
    assert optimizer.state[weight]["master"].stride() == weight.stride()


@every
def test_deepcopy_keeps_what_it_is(kind, options):
    model = network(torch.bfloat16)
    optimizer = kind(model.parameters(), **options, master_weights=False, set_grad_none=False)
    run_steps(model, optimizer, 1)
    twin_model, twin = copy.deepcopy((model, optimizer))
    run_steps(model, optimizer, 2)
    run_steps(twin_model, twin, 2)
    assert_same(model, twin_model)
    assert not twin.set_grad_none


@every
def test_sparse_gradients_are_named(kind, options):
    param = nn.Parameter(torch.ones(4, 2))
    param.grad = torch.ones(4, 2).to_sparse()
    with pytest.raises(RuntimeError, match=r"(grads|tensors)\[0\] must be dense, got a sparse tensor"):
        kind([param], **options).step()


@every
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_does_not_wait_for_the_device(kind, options):
    model = network(torch.bfloat16).cuda()
    optimizer = kind(model.parameters(), **options | {"lr": torch.tensor(0.1, device="cuda")})
    for param in model.parameters():
        param.grad = torch.ones_like(param)
    optimizer.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


WITHOUT_DYNAMO = """
import sys, torch
from airank_fast.optim import FusedAdam
weight = torch.nn.Parameter(torch.ones(3))
weight.grad = torch.ones(3)
optimizer = FusedAdam([weight], lr=0.5)
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
optimizer.zero_grad()
assert weight.grad is None
assert not {"torch._dynamo", "sympy"} & sys.modules.keys()
"""


def test_a_run_does_not_load_torchs_compiler():
    """It would be a quarter of the time in which a run starts."""
    subprocess.run([sys.executable, "-c", WITHOUT_DYNAMO], cwd=Path(__file__).parents[2], check=True)


@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "GradScaler"])
@pytest.mark.parametrize(
    ("kind", "peer", "options"),
    [(FusedSGD, torch.optim.SGD, MOMENTUM), (FusedAdamW, torch.optim.AdamW, {"lr": 0.01})],
    ids=["sgd", "adamw"],
)
def test_gradients_are_clipped_to_their_norm_as_by_torch_and_stay_as_they_are(kind, peer, options, scaled):
    ours, theirs = network(), network()
    groups = [{"params": [*ours.parameters()][:2]}, {"params": [*ours.parameters()][2:], "weight_decay": 0.1}]
    optimizer = kind(groups, **options, max_grad_norm=0.3)
    peer_groups = [{"params": [*theirs.parameters()][:2]}, {"params": [*theirs.parameters()][2:], "weight_decay": 0.1}]
    reference, clipped = peer(peer_groups, **options), []
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaled)
    for step in range(12):
        x = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        reference.zero_grad()
        scaler.scale(ours(x).square().mean()).backward()
        before = [p.grad.clone() for p in ours.parameters()]
        scaler.step(optimizer)
        scaler.update()
        assert all(torch.equal(p.grad, grad) for p, grad in zip(ours.parameters(), before, strict=True))
        theirs(x).square().mean().backward()
        clipped.append(bool(nn.utils.clip_grad_norm_(theirs.parameters(), 0.3) > 0.3))
        reference.step()
    assert any(clipped)
    assert not all(clipped)
    assert_same(ours, theirs, exact=False, rtol=2e-5, atol=1e-6)


def test_clipping_survives_a_copy_and_a_step_without_gradients():
    model = network()
    optimizer = FusedSGD(model.parameters(), lr=1.0, max_grad_norm=1e-9)
    optimizer.step()
    copied = copy.deepcopy(optimizer)
    for group in copied.param_groups:
        for param in group["params"]:
            param.grad = torch.ones_like(param)
    params = [param for group in copied.param_groups for param in group["params"]]
    before = [param.detach().clone() for param in params]
    copied.step()
    torch.testing.assert_close(params, before, rtol=0, atol=1e-8)


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan")])
def test_a_norm_to_clip_to_must_be_positive(norm):
    with pytest.raises(UserError, match=r"sgd: max_grad_norm must be > 0 or None, got"):
        FusedSGD(network().parameters(), max_grad_norm=norm)
