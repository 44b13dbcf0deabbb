"""FusedLAMB as a torch optimizer: apex's formula, groups, 16-bit parameters, GradScaler, state."""

from __future__ import annotations

import copy

import pytest
import torch
from optim.networks import assert_same, network, run_steps
from torch import nn

from airank_fast.errors import UserError
from airank_fast.optim import FusedLAMB

OPTIONS = {
    "defaults": {},
    "nvlamb": {"use_nvlamb": True, "weight_decay": 0.0},
    "decay in gradient": {"adam_w_mode": False},
    "no clipping": {"max_grad_norm": None},
    "clipping": {"max_grad_norm": 0.01},
    "no averaging": {"grad_averaging": False, "betas": (0.5, 0.9)},
    "no correction": {"bias_correction": False},
}


class PythonLAMB(torch.optim.Optimizer):
    """apex.optimizers.FusedLAMB's formula in plain torch."""

    def __init__(
        self,
        params,
        lr=1e-3,
        bias_correction=True,
        betas=(0.9, 0.999),
        eps=1e-6,
        weight_decay=0.01,
        adam_w_mode=True,
        grad_averaging=True,
        max_grad_norm=1.0,
        use_nvlamb=False,
    ):
        defaults = {name: value for name, value in locals().items() if name not in ("self", "params", "__class__")}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self):
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.cat([g.flatten() for g in grads]).norm().item()
        for group in self.param_groups:
            o, (beta1, beta2) = group, group["betas"]
            group["step"] = group.get("step", 0) + 1
            limit = o["max_grad_norm"]
            clip = norm / limit if limit is not None and norm > limit else 1
            c1, c2 = ((1 - beta ** group["step"]) if o["bias_correction"] else 1 for beta in o["betas"])
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
                m, v = state["exp_avg"], state["exp_avg_sq"]
                g = p.grad / clip
                if not o["adam_w_mode"]:
                    g = g + o["weight_decay"] * p
                m.mul_(beta1).add_(g, alpha=1 - beta1 if o["grad_averaging"] else 1)
                v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
                update = (m / c1) / ((v / c2).sqrt() + o["eps"])
                if o["adam_w_mode"]:
                    update = update + o["weight_decay"] * p
                trust = 1.0
                if (o["use_nvlamb"] or o["weight_decay"] != 0) and p.norm() != 0 and update.norm() != 0:
                    trust = p.norm() / update.norm()
                p.sub_(o["lr"] * trust * update)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_ten_steps_equal_the_formula(options, dtype):
    ours, theirs, options = network(dtype), network(dtype), {"lr": 0.01} | options
    run_steps(ours, FusedLAMB(ours.parameters(), **options), 10)
    run_steps(theirs, PythonLAMB(theirs.parameters(), **options), 10)
    tolerances = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-10, "atol": 1e-11}
    assert_same(ours, theirs, exact=False, **tolerances)


def test_the_norm_is_one_over_all_groups_and_devices_of_gradients():
    def groups(model):
        weights = [p for p in model.parameters() if p.ndim > 1]
        rest = [p for p in model.parameters() if p.ndim <= 1]
        return [{"params": weights}, {"params": rest, "weight_decay": 0.0, "lr": 0.02}]

    ours, theirs = network(), network()
    run_steps(ours, FusedLAMB(groups(ours), lr=0.01, max_grad_norm=0.1), 3)
    run_steps(theirs, PythonLAMB(groups(theirs), lr=0.01, max_grad_norm=0.1), 3)
    assert_same(ours, theirs, exact=False, rtol=1e-5, atol=1e-6)


def test_arguments_are_apexs_in_apexs_order():
    optimizer = FusedLAMB(
        [nn.Parameter(torch.ones(2))], 0.5, False, (0.8, 0.9), 1e-5, 0.25, False, False, False, False, 2.0, True
    )
    group = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    assert group == {
        "lr": 0.5,
        "bias_correction": False,
        "betas": (0.8, 0.9),
        "eps": 1e-5,
        "weight_decay": 0.25,
        "adam_w_mode": False,
        "grad_averaging": False,
        "max_grad_norm": 2.0,
        "use_nvlamb": True,
    }
    assert not optimizer.set_grad_none
    defaults = FusedLAMB([nn.Parameter(torch.ones(2))]).defaults
    assert defaults == {
        "lr": 1e-3,
        "bias_correction": True,
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "weight_decay": 0.01,
        "adam_w_mode": True,
        "grad_averaging": True,
        "max_grad_norm": 1.0,
        "use_nvlamb": False,
    }


def test_without_masters_moments_are_float32_all_the_same():
    model = network(torch.bfloat16)
    optimizer = FusedLAMB(model.parameters(), lr=0.1, master_weights=False)
    run_steps(model, optimizer, 2)
    for state in optimizer.state.values():
        assert {name: t.dtype for name, t in state.items()} == dict.fromkeys(("exp_avg", "exp_avg_sq"), torch.float32)


def test_mixed_dtypes_and_parameters_without_gradient():
    weight = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    bias, unused = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    optimizer = FusedLAMB([weight, bias, unused], lr=0.5, weight_decay=0.0)
    weight.grad, bias.grad = torch.ones_like(weight), torch.ones_like(bias)
    optimizer.step()
    assert weight.tolist() == [0.5] * 4
    assert bias.tolist() == pytest.approx([0.5] * 4, rel=1e-4)
    assert unused.tolist() == [1.0] * 4
    assert unused not in optimizer.state
    # The norm is over both dtypes: sqrt(8), so gradients are 1 / sqrt(8).
    torch.testing.assert_close(optimizer.state[bias]["exp_avg"], torch.full((4,), 0.1 / 8**0.5))


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
def test_learning_rate_schedules(lr):
    ours, theirs = network(), network()
    for model, optimizer in [
        (ours, FusedLAMB(ours.parameters(), lr=copy.copy(lr))),
        (theirs, PythonLAMB(theirs.parameters(), lr=0.1)),
    ]:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
        for step in range(5):
            run_steps(model, optimizer, 1, first=step)
            schedule.step()
    assert_same(ours, theirs, exact=False, rtol=1e-4, atol=1e-5)


def test_state_has_apexs_keys_and_apexs_is_loaded():
    ours, theirs = network(), network()
    mine, its = FusedLAMB(ours.parameters(), lr=0.01), PythonLAMB(theirs.parameters(), lr=0.01)
    run_steps(ours, mine, 2)
    saved = copy.deepcopy(mine.state_dict())
    assert saved["param_groups"][0]["step"] == 2
    assert isinstance(saved["param_groups"][0]["step"], int)
    assert all(state.keys() == {"exp_avg", "exp_avg_sq"} for state in saved["state"].values())
    theirs.load_state_dict(ours.state_dict())
    its.load_state_dict(saved)
    run_steps(ours, mine, 2, first=2)
    run_steps(theirs, its, 2, first=2)
    assert_same(ours, theirs, exact=False, rtol=1e-5, atol=1e-6)
    of_apex = its.state_dict()
    del of_apex["param_groups"][0]["use_nvlamb"]  # apex has it in the optimizer, not in its groups
    fresh = FusedLAMB(theirs.parameters(), use_nvlamb=True)
    fresh.load_state_dict(copy.deepcopy(of_apex))
    assert fresh.param_groups[0]["use_nvlamb"]
    mine.load_state_dict(of_apex)
    assert mine.param_groups[0]["step"].item() == 4
    run_steps(ours, mine, 1, first=4)


def test_zero_grad_follows_set_grad_none():
    param = nn.Parameter(torch.ones(2))
    for set_grad_none, argument, left in ((True, None, False), (False, None, True), (True, False, True)):
        param.grad = torch.ones(2)
        FusedLAMB([param], set_grad_none=set_grad_none).zero_grad(argument)
        assert (param.grad is not None) == left


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("lamb: lr must be >= 0, got -1.0", {"lr": -1.0}),
        ("lamb: lr must be a number or a tensor of one element, got shape [2]", {"lr": torch.ones(2)}),
        ("lamb: eps must be >= 0, got -1.0", {"eps": -1.0}),
        ("lamb: weight_decay must be >= 0, got -0.1", {"weight_decay": -0.1}),
        ("lamb: betas[1] must be in [0, 1), got 1.0", {"betas": (0.9, 1.0)}),
        ("lamb: max_grad_norm must be > 0 or None, got 0.0", {"max_grad_norm": 0.0}),
        ("lamb: amsgrad must be False, got True", {"amsgrad": True}),
    ],
)
def test_wrong_options(message, options):
    with pytest.raises(UserError) as caught:
        FusedLAMB([nn.Parameter(torch.ones(2))], **options)
    assert str(caught.value) == message


def test_wrong_options_of_a_group_and_wrong_gradients():
    param = nn.Parameter(torch.ones(4, 2))
    optimizer = FusedLAMB([nn.Parameter(torch.ones(2))])
    with pytest.raises(UserError, match=r"^lamb: max_grad_norm must be 1.0 like the other groups', got 2.0"):
        optimizer.add_param_group({"params": [param], "max_grad_norm": 2.0})
    optimizer.add_param_group({"params": [param]})
    param.grad = torch.ones(4, 2).to_sparse()
    with pytest.raises(RuntimeError, match=r"tensors\[0\] must be dense, got a sparse tensor"):
        optimizer.step()
