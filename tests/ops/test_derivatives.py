"""Uses of an op's gradient, the same for all of them: second derivatives, torch.func's transforms, vmap.

Every op stands here as a function of its differentiable arguments, beside the same in torch's own operators, in
float64, where the two must agree to rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch.nn import functional as F

from airank_fast import ops
from airank_fast.ops.dropout_add_layer_norm import dropout_mask_reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SEED = (12, -5)
TARGET = (1, 4, -100, 0)


class Case(NamedTuple):
    """An op, the same in torch, and the shapes of their arguments."""

    ours: object
    torchs: object
    shapes: tuple


def dropped_sum(x, residual):
    kept = dropout_mask_reference(x.shape, torch.tensor(SEED, device=x.device), 0.25)
    return x * kept / 0.75 + residual


def target_on(device):
    return torch.tensor(TARGET, device=device)


def labels_on(device):
    return torch.tensor([[[0, 2, 255], [1, 1, 0], [2, 255, 2]]], device=device)


def upsampled_cross_entropy(x):
    x = F.interpolate(x, (3, 3), mode="bilinear", align_corners=False)
    return F.cross_entropy(x, labels_on(x.device), ignore_index=255)


def upsampled_sum(x, a, b):
    return (x + F.interpolate(a, (2, 2), mode="bilinear", align_corners=False) + b).relu()


def batch_norm_act(x, residual, weight, bias):
    channels_last = [t.contiguous(memory_format=torch.channels_last) for t in (x, residual)]
    statistics = ops.batch_norm_statistics_(channels_last[0].detach(), None, None, None, 0.1, 1e-3)
    return ops.batch_norm_act(*channels_last, weight, bias, statistics, activation="relu")


def fixed_batch_norm(x, residual=None, weight=None):
    channels_last = [t if t is None else t.contiguous(memory_format=torch.channels_last) for t in (x, residual)]
    statistics = torch.tensor([0.1, 0.2, -0.1, 1.0, 2.0, 0.5], dtype=x.dtype, device=x.device)
    return ops.batch_norm_act(*channels_last, weight, None, statistics, activation="leaky_relu", negative_slope=0.1)


def plain_fixed_batch_norm(x, residual=0.0, weight=1.0):
    scale = x.new_tensor([1.0, 2.0, 0.5]) * weight
    z = (x - x.new_tensor([0.1, 0.2, -0.1])[:, None, None]) * scale[:, None, None] + residual
    return F.leaky_relu(z, 0.1)


def instance_norm_act(x, residual, weight, bias):
    return ops.instance_norm_act(x, weight, bias, residual, activation="leaky_relu", negative_slope=0.2, eps=1e-2)


def plain_instance_norm_act(x, residual, weight, bias):
    z = F.instance_norm(x, weight=weight, bias=bias, eps=1e-2) + residual
    return F.leaky_relu(z, 0.2)


def region(x):
    return ops.roi_align(x, torch.tensor([[0, 0, 0, 4, 4]], device=x.device), 2, sampling_ratio=2)


def plain_region(x):
    """Four samples along each axis: two between pixels, one beyond the last centre, one outside."""
    means = x.new_tensor([[0.25, 0.5, 0.25], [0, 0, 0.5]])
    return means @ x @ means.t()


PICTURE = (2, 3, 2, 2)
CASES = {
    "layer_norm": Case(
        lambda x, w, b: ops.layer_norm(x, (5,), w, b, 1e-3),
        lambda x, w, b: F.layer_norm(x, (5,), w, b, 1e-3),
        ((4, 5), (5,), (5,)),
    ),
    "layer_norm of two dimensions": Case(
        lambda x: ops.layer_norm(x, (4, 5)), lambda x: F.layer_norm(x, (4, 5)), ((3, 4, 5),)
    ),
    "dropout_add_layer_norm": Case(
        lambda x, r, w, b: ops.dropout_add_layer_norm(
            x, r, (5,), w, b, 1e-3, p=0.25, seed=torch.tensor(SEED, device=x.device)
        ),
        lambda x, r, w, b: F.layer_norm(dropped_sum(x, r), (5,), w, b, 1e-3),
        ((4, 5), (4, 5), (5,), (5,)),
    ),
    "dropout_add_layer_norm's sum": Case(
        lambda x, r: torch.mul(
            *ops.dropout_add_layer_norm(x, r, (5,), p=0.25, seed=torch.tensor(SEED, device=x.device), return_sum=True)
        ),
        lambda x, r: F.layer_norm(dropped_sum(x, r), (5,)) * dropped_sum(x, r),
        ((4, 5), (4, 5)),
    ),
    "bias_gelu": Case(lambda x, b: ops.bias_gelu(x, b), lambda x, b: F.gelu(x + b), ((2, 3, 5), (5,))),
    "bias_gelu tanh": Case(
        lambda x, b: ops.bias_gelu(x, b, "tanh"), lambda x, b: F.gelu(x + b, approximate="tanh"), ((4, 5), (5,))
    ),
    "cross_entropy": Case(
        lambda x: ops.cross_entropy(x, target_on(x.device), 0.1),
        lambda x: F.cross_entropy(x, target_on(x.device), label_smoothing=0.1),
        ((4, 5),),
    ),
    "cross_entropy of each row": Case(
        lambda x: ops.cross_entropy(x, target_on(x.device), reduction="none"),
        lambda x: F.cross_entropy(x, target_on(x.device), reduction="none"),
        ((4, 5),),
    ),
    "fm": Case(
        ops.fm, lambda x: sum((x[..., i, :] * x[..., j, :]).sum(-1) for i, j in ((0, 1), (0, 2), (1, 2))), ((4, 3, 5),)
    ),
    "upsample_cross_entropy": Case(
        lambda x: ops.upsample_cross_entropy(x, labels_on(x.device)), upsampled_cross_entropy, ((1, 3, 2, 2),)
    ),
    "upsample_add_act": Case(
        lambda x, a, b: ops.upsample_add_act([x, a, b]), upsampled_sum, (PICTURE, (2, 3, 1, 2), PICTURE)
    ),
    "instance_norm_act": Case(instance_norm_act, plain_instance_norm_act, ((1, 3, 2, 3), (1, 3, 2, 3), (3,), (3,))),
    "roi_align": Case(region, plain_region, ((1, 1, 3, 3),)),
    "batch_norm_act": Case(
        batch_norm_act,
        lambda x, r, w, b: (F.batch_norm(x, None, None, w, b, True, 0.1, 1e-3) + r).relu(),
        (PICTURE, PICTURE, (3,), (3,)),
    ),
    "batch_norm_act, fixed": Case(
        lambda x, w: fixed_batch_norm(x, weight=w), lambda x, w: plain_fixed_batch_norm(x, weight=w), (PICTURE, (3,))
    ),
    "batch_norm_act, frozen": Case(fixed_batch_norm, plain_fixed_batch_norm, (PICTURE, PICTURE)),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def made(case, device, batch=()):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(*batch, *shape, generator=generator, dtype=torch.float64).to(device) for shape in case.shapes]


@pytest.mark.parametrize("device", DEVICES)
def test_second_derivatives_are_torchs(case, device):
    def derivatives(function):
        """Gradient, and gradient of a function of the gradient, with respect to every argument."""
        leaves = [t.requires_grad_() for t in made(case, device)]
        first = torch.autograd.grad(function(*leaves).pow(3).sum(), leaves, create_graph=True)
        return first, torch.autograd.grad(sum(g.square().sum() for g in first), leaves)

    (first, second), (torchs_first, torchs_second) = derivatives(case.ours), derivatives(case.torchs)
    torch.testing.assert_close(first, torchs_first)
    torch.testing.assert_close(second, torchs_second)
    assert all(g.abs().sum() > 0 for g in second)


@pytest.mark.parametrize("device", DEVICES)
def test_third_derivatives(case, device):
    """Against finite differences: those of torch's own layer norm are wrong."""
    x, *others = made(case, device)

    def gradient(x):
        return torch.autograd.grad(case.ours(x, *others).pow(3).sum(), x, create_graph=True)[0]

    assert torch.autograd.gradgradcheck(gradient, x.requires_grad_())


def test_second_derivatives_where_torch_compile_keeps_the_op(case):
    """With the backend "eager" the compiled graph holds the op, and autograd is that of torch.library."""
    case_compiled = torch.compile(case.ours, backend="eager", fullgraph=True)

    def second(function):
        leaves = [t.requires_grad_() for t in made(case, "cpu")]
        first = torch.autograd.grad(function(*leaves).pow(3).sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), leaves)

    torch.testing.assert_close(second(case_compiled), second(case.torchs))


def test_func_jacrev(case):
    inputs = made(case, "cpu")
    for got, expected in zip(*(torch.func.jacrev(f)(*inputs) for f in (case.ours, case.torchs)), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", [name for name in CASES if "batch_norm" not in name])  # vmap has no channels_last
def test_gradients_under_vmap(name):
    case = CASES[name]
    stacked = made(case, "cpu", batch=(3,))
    arguments = tuple(range(len(stacked)))
    gradients = [
        torch.func.vmap(torch.func.grad(lambda *t, f=f: f(*t).pow(3).sum(), arguments))(*stacked)
        for f in (case.ours, case.torchs)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("op", ["layer_norm", "bias_gelu", "cross_entropy", "fm"])
def test_fx_records_one_call_of_the_op(op):
    functions = {
        "layer_norm": lambda x: ops.layer_norm(x, 4),
        "bias_gelu": lambda x: ops.bias_gelu(x, torch.ones(4)),
        "cross_entropy": lambda x: ops.cross_entropy(x, torch.tensor([0, 3])),
        "fm": lambda x: ops.fm(x),
    }
    traced = torch.fx.symbolic_trace(functions[op])
    assert getattr(ops, op) in [node.target for node in traced.graph.nodes]
    x = torch.randn(2, 4)
    assert torch.equal(traced(x), functions[op](x))


def test_the_first_derivative_is_the_kernels_and_the_same_bits_as_ever():
    """Only gradients that are differentiated again leave the kernels."""
    x = torch.randn(33, 96).requires_grad_()
    grad = torch.randn(33, 96)
    _, mean, rstd = torch.ops.airank_fast.layer_norm(x.detach(), None, None, 1, 1e-5)
    kernels = torch.ops.airank_fast.layer_norm_backward(grad, x.detach(), mean, rstd, None, 1, False)[0]
    assert torch.equal(torch.autograd.grad(ops.layer_norm(x, 96), x, grad)[0], kernels)


@pytest.mark.parametrize("device", DEVICES)
def test_backward_ops_are_not_differentiated_by_themselves(device):
    x = torch.randn(4, 5, device=device, requires_grad=True)
    _, mean, rstd = torch.ops.airank_fast.layer_norm(x.detach(), None, None, 1, 1e-5)
    picture = torch.randn(2, 3, 4, 4, device=device).contiguous(memory_format=torch.channels_last).requires_grad_()
    statistics = ops.batch_norm_statistics_(picture.detach(), None, None, None, 0.1, 1e-5)
    norms = torch.ones(2, 2, 3, device=device)
    sums = torch.ops.airank_fast.batch_norm_act_sums(picture.detach(), picture.detach(), None, statistics, 0.0)
    _, rows, scale = torch.ops.airank_fast.cross_entropy(x.detach(), target_on(device), 0.0, -100, 1, False)
    results = {
        "layer_norm_backward": (x, x, mean, rstd, None, 1, False),
        "dropout_add_layer_norm_backward": (x, None, x, mean, rstd, None, None, 0.0, 1, False),
        "bias_gelu_backward": (x, x, x[0].detach(), "none"),
        "cross_entropy_backward": (torch.ones((), device=device), x, target_on(device), rows, scale, 0.0, -100),
        "fm_backward": (torch.ones((), device=device), x),
        "instance_norm_act_backward": (picture, picture, None, None, None, norms, 0.0, True),
        "upsample_add_act_backward": (picture, 1, 2, False, False, True),
        "roi_align_backward": (
            picture.detach()[:1].requires_grad_(),
            torch.zeros(1, 5, device=device),
            *(1, [4, 4], [1.0], [], 2, False, True),
        ),
        "batch_norm_act_sums": (picture, picture, None, statistics, 0.0),
        "batch_norm_act_backward": (picture, picture, None, None, statistics, sums, 0.0, False),
    }
    for op, arguments in results.items():
        result = getattr(torch.ops.airank_fast, op)(*arguments)
        result = result if isinstance(result, torch.Tensor) else result[0]
        with pytest.raises(RuntimeError, match=f"^{op}: must not be differentiated by itself, got a gradient$"):
            result.sum().backward()
