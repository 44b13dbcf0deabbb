"""nn.BatchNormAct2d and FrozenBatchNormAct2d against torch's BatchNorm2d and what follows it: values, layouts, modes,
state, process groups."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from ranks import on_two_ranks
from torch import nn
from torch.nn import functional as F

from airank_fast.models.resnet import ResNet
from airank_fast.nn import BatchNormAct2d, FrozenBatchNormAct2d, freeze_batch_norm

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def pair(channels=6, activation="relu", **options):
    """The module and torch's with the same random parameters and statistics."""
    torch.manual_seed(0)
    ours = BatchNormAct2d(channels, activation=activation, negative_slope=0.1, **options)
    torchs = nn.BatchNorm2d(channels, **options)
    with torch.no_grad():
        for tensor in (*ours.parameters(), *(b for b in ours.buffers() if b.is_floating_point())):
            tensor.uniform_(0.5, 1.5)
    torchs.load_state_dict(ours.state_dict())
    return ours, torchs


def run(module, x, residual, activation="relu"):
    """Output and all gradients, of the module or of torch's."""
    x, residual = (t if t is None else t.clone().requires_grad_() for t in (x, residual))
    if isinstance(module, BatchNormAct2d | FrozenBatchNormAct2d):
        y = module(x, residual)
    else:
        y = module(x) if residual is None else module(x) + residual
        y = {None: y, "relu": F.relu(y), "leaky_relu": F.leaky_relu(y, 0.1)}[activation]
    y.backward(torch.sin(torch.arange(y.numel()).view(y.shape)).to(y.dtype))
    leaves = [x, residual, *module.parameters()]
    return [y, *(leaf.grad for leaf in leaves if leaf is not None), *module.buffers()]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
@pytest.mark.parametrize("with_residual", [True, False], ids=["residual", ""])
@pytest.mark.parametrize(
    "options",
    [{}, {"affine": False}, {"track_running_stats": False}, {"momentum": None}, {"eps": 0.1, "momentum": 1.0}],
    ids=str,
)
def test_it_is_batch_norm_and_what_follows_it(layout, training, activation, with_residual, options):
    ours, torchs = (module.train(training) for module in pair(activation=activation, **options))
    x, residual = (torch.randn(4, 6, 5, 3).contiguous(memory_format=layout) for _ in range(2))
    got, expected = (run(m, x, residual if with_residual else None, activation) for m in (ours, torchs))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert got[0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("shape", [(5, 6, 1, 1), (1, 6, 1, 7), (0, 6, 3, 3), (3, 6, 4, 4)], ids=str)
def test_shapes_with_ambiguous_strides_and_slices(shape):
    ours, torchs = pair()
    x = torch.randn(*shape[:3], 2 * shape[3])[..., ::2]
    torch.testing.assert_close(run(ours, x, x), run(torchs, x, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_parameters_of_xs_dtype(dtype, training):
    ours, torchs = (module.to(dtype).train(training) for module in pair(activation=None))
    x = torch.randn(16, 6, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    tolerance = {torch.float64: 1e-12, torch.float16: 1e-2}.get(dtype, 8e-2)
    got, expected = run(ours, x, None, None), run(torchs, x, None, None)
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def test_state_is_exchanged_with_torch_both_ways():
    ours, torchs = pair()
    assert list(ours.state_dict()) == list(torchs.state_dict())
    ours(torch.randn(4, 6, 2, 2))
    torchs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(torchs.running_var, ours.running_var)
    assert torchs.num_batches_tracked == ours.num_batches_tracked == 1
    copied = copy.deepcopy(ours)
    assert isinstance(copied, nn.BatchNorm2d)
    assert copied.activation == "relu"


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu"])
@pytest.mark.parametrize("with_residual", [True, False], ids=["residual", ""])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_one_is_torchs_in_evaluation(layout, activation, with_residual, dtype):
    _, torchs = pair()
    torchs.eval().requires_grad_(False)
    frozen = FrozenBatchNormAct2d(6, activation=activation, negative_slope=0.1)
    frozen.load_state_dict(torchs.state_dict())
    assert frozen.training
    assert not list(frozen.parameters())
    assert list(frozen.state_dict()) == ["weight", "bias", "running_mean", "running_var"]
    before = copy.deepcopy(frozen.state_dict())
    x, residual = (torch.randn(4, 6, 5, 3).to(dtype, memory_format=layout) for _ in range(2))
    got, expected = (run(m, x, residual if with_residual else None, activation) for m in (frozen, torchs))
    number = 3 if with_residual else 2
    tolerance = {"rtol": 2e-5, "atol": 2e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 4e-2}
    torch.testing.assert_close(got[:number], expected[:number], **tolerance)
    assert all(t.is_contiguous(memory_format=layout) for t in got[:number])
    torch.testing.assert_close(frozen.state_dict(), before, rtol=0, atol=0)
    torchs.load_state_dict(frozen.state_dict())


@pytest.mark.filterwarnings("ignore:.*deprecated")  # torch.jit.trace
def test_a_frozen_network_in_training_is_the_plain_one_in_evaluation():
    """In float64, in which rounding moves no number across a ReLU's threshold."""
    torch.manual_seed(0)
    model, plain = (ResNet((1, 1, 1, 1), 10, base_width=4, fused=fused).double() for fused in (True, False))
    model(torch.randn(8, 3, 32, 32).double())  # statistics
    plain.load_state_dict(model.state_dict())
    state = model.state_dict()
    assert freeze_batch_norm(model.train()) is model
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert repr(model.bn1) == "FrozenBatchNormAct2d(4, eps=1e-05, activation='relu')"
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert model.state_dict().keys() == {name for name in state if "num_batches" not in name}
    images, gradients = torch.randn(2, 3, 32, 32).double(), []
    for network in (model, plain.eval()):
        network(images).square().sum().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.dim() > 1})
    torch.testing.assert_close(*gradients)
    for traced in torch.jit.trace(model, images), torch.fx.symbolic_trace(model):
        torch.testing.assert_close(traced(images), model(images))


def test_what_cannot_be_frozen():
    required = "freeze_batch_norm: batch norms must be BatchNormAct2d or nn.BatchNorm2d with running statistics, got"
    for norm in (nn.BatchNorm1d(3), BatchNormAct2d(3, track_running_stats=False)):
        with pytest.raises(ValueError, match=f"^{required} {type(norm).__name__}"):
            freeze_batch_norm(nn.Sequential(norm))
    frozen = freeze_batch_norm(nn.BatchNorm2d(3, affine=False))
    assert frozen.activation is None
    assert torch.equal(frozen.weight, torch.ones(3))
    with pytest.raises(ValueError, match="eps must be at least 0, got -1"):
        FrozenBatchNormAct2d(3, eps=-1)


def test_one_activation_by_one_name():
    assert "activation='leaky_relu', negative_slope=0.01" in repr(BatchNormAct2d(3, activation="leaky_relu"))
    assert FrozenBatchNormAct2d(3, relu=True).activation == "relu"
    with pytest.raises(ValueError, match="relu must be False beside activation 'leaky_relu', got True"):
        BatchNormAct2d(3, relu=True, activation="leaky_relu")
    with pytest.raises(ValueError, match="negative_slope must be above 0 and finite"):
        FrozenBatchNormAct2d(3, activation="leaky_relu", negative_slope=0.0)


def test_what_cannot_be_normalised():
    with pytest.raises(ValueError, match=r"more than one value per channel in training, got shape \[1, 6, 1, 1\]"):
        BatchNormAct2d(6)(torch.randn(1, 6, 1, 1))
    with pytest.raises(ValueError, match=r"4 dimensions \[N, C, H, W\], got shape \[3, 6\]"):
        BatchNormAct2d(6)(torch.randn(3, 6))
    with pytest.raises(RuntimeError, match=r"running_mean must be contiguous float32 of shape \[3\] on cpu, got"):
        BatchNormAct2d(6)(torch.randn(2, 3, 4, 4))


@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
def test_compiles_without_graph_breaks(frozen):
    ours, _ = pair()
    ours = freeze_batch_norm(ours) if frozen else ours
    compiled = torch.compile(copy.deepcopy(ours), fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 6, 3, 3).contiguous(memory_format=torch.channels_last)
    for a, b in zip(run(ours, x, x)[:2], [*_step(compiled, x)], strict=True):
        torch.testing.assert_close(a, b)


def _step(module, x):
    leaf, residual = x.clone().requires_grad_(), x.clone()
    y = module(leaf, residual)
    y.backward(torch.sin(torch.arange(y.numel()).view(y.shape)).to(y.dtype))
    return y, leaf.grad


def _part_of_a_group(rank, x, residual, state):
    module = BatchNormAct2d(6, activation="leaky_relu", negative_slope=0.1, group=dist.group.WORLD)
    module.load_state_dict(state)
    bounds = (0, 1) if rank == 0 else (1, 5)  # batches of different sizes
    return [t.detach() for t in run(module, x[slice(*bounds)], residual[slice(*bounds)])]


def test_a_group_of_two_processes_is_one_with_the_whole_batch():
    ours, _ = pair(activation="leaky_relu")
    x, residual = (torch.randn(5, 6, 2, 2).contiguous(memory_format=torch.channels_last) for _ in range(2))
    # The same gradient of the output as run() makes for each part.
    part_gradient = [torch.sin(torch.arange(n * 24).view(n, 6, 2, 2)) for n in (1, 4)]
    parts = on_two_ranks(_part_of_a_group, x, residual, ours.state_dict())
    leaf, leaf_residual = x.clone().requires_grad_(), residual.clone().requires_grad_()
    y = ours(leaf, leaf_residual)
    y.backward(torch.cat(part_gradient))
    for index, whole in ((0, y.detach()), (1, leaf.grad), (2, leaf_residual.grad)):
        torch.testing.assert_close(torch.cat([part[index] for part in parts]), whole, rtol=1e-4, atol=1e-5)
    for index, parameter in ((3, ours.weight), (4, ours.bias)):
        torch.testing.assert_close(sum(part[index] for part in parts), parameter.grad, rtol=1e-4, atol=1e-5)
    for part in parts:
        torch.testing.assert_close(part[5:], list(ours.buffers()), rtol=1e-5, atol=1e-6)
