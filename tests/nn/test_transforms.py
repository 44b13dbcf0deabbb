"""The modules under transforms and exports of a network, each against the same in torch's own modules.

torch.func, vmap, forward mode; torch.export, ONNX, torch.jit.trace, torch.fx; DTensor over two processes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from ranks import on_two_ranks
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from airank_fast.nn import (
    BatchNormAct2d,
    CrossEntropyLoss,
    DropoutAddLayerNorm,
    FactorizationMachine,
    LayerNorm,
    LinearGELU,
    PatchConv2d,
    PointwiseConv2d,
)


class Plain(nn.Module):
    """A function of a module of torch's and inputs, under the module's parameter names."""

    def __init__(self, module: nn.Module, function: Callable) -> None:
        super().__init__()
        for name, parameter in module.named_parameters():
            self.register_parameter(name, parameter)
        for name, buffer in module.named_buffers():
            self.register_buffer(name, buffer)
        self.module, self.function = [module], function

    def forward(self, *inputs: Tensor) -> Tensor:
        tensors = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return self.function(lambda *args: functional_call(self.module[0], tensors, args), *inputs)


class Pair(NamedTuple):
    """The module, the same in torch's own, and the shapes of the inputs."""

    ours: nn.Module
    torchs: nn.Module
    shapes: list


def pair_of(ours: nn.Module, torchs: nn.Module, function: Callable | None, shapes: list) -> Pair:
    torch.manual_seed(0)
    with torch.no_grad():
        for tensor in (*ours.parameters(), *(b for b in ours.buffers() if b.is_floating_point())):
            tensor.uniform_(0.5, 1.5)
    torchs.load_state_dict(ours.state_dict())
    ours, torchs = ours.double().eval(), torchs.double().eval()
    return Pair(ours, torchs if function is None else Plain(torchs, function), shapes)


def batch_norm(**options) -> Pair:
    def function(norm, x, residual):
        return F.relu(norm(x) + residual)

    ours, torchs = BatchNormAct2d(3, relu=True, **options), nn.BatchNorm2d(3, **options)
    return pair_of(ours, torchs, function, [(2, 3, 4, 4)] * 2)


MODULES = {
    "LayerNorm": lambda: pair_of(LayerNorm(4), nn.LayerNorm(4), lambda norm, x: norm(x), [(3, 4)]),
    "LinearGELU": lambda: pair_of(
        LinearGELU(4, 5, approximate="tanh"),
        nn.Linear(4, 5),
        lambda linear, x: F.gelu(linear(x), approximate="tanh"),
        [(3, 4)],
    ),
    "DropoutAddLayerNorm": lambda: pair_of(
        DropoutAddLayerNorm(4), nn.LayerNorm(4), lambda norm, x, residual: norm(x + residual), [(3, 4)] * 2
    ),
    "BatchNormAct2d": batch_norm,
    "BatchNormAct2d of the batch": lambda: batch_norm(track_running_stats=False),
    "PointwiseConv2d": lambda: pair_of(
        PointwiseConv2d(3, 2, 2), nn.Conv2d(3, 2, 1, 2, bias=False), lambda conv, x: conv(x), [(2, 3, 4, 4)]
    ),
    "PatchConv2d": lambda: pair_of(
        PatchConv2d(3, 2, 3, 2, 1, bias=False),
        nn.Conv2d(3, 2, 3, 2, 1, bias=False),
        lambda conv, x: conv(x),
        [(2, 3, 4, 4)],
    ),
    "FactorizationMachine": lambda: pair_of(
        nn.Sequential(nn.Linear(4, 5), FactorizationMachine()),
        nn.Sequential(nn.Linear(4, 5), PairsOfFields()),
        None,
        [(3, 2, 4)],
    ),
    "CrossEntropyLoss": lambda: pair_of(
        nn.Sequential(nn.Linear(4, 5), WithTarget(CrossEntropyLoss(label_smoothing=0.1))),
        nn.Sequential(nn.Linear(4, 5), WithTarget(nn.CrossEntropyLoss(label_smoothing=0.1))),
        None,
        [(3, 4)],
    ),
}


class PairsOfFields(nn.Module):
    """A factorization machine of two fields: their embeddings' dot product."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[..., 0, :] * x[..., 1, :]).sum(-1)


class WithTarget(nn.Module):
    """A loss with a fixed target, so that it is a function of the logits alone."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: Tensor) -> Tensor:
        return self.loss(logits, torch.arange(logits.shape[0]) % logits.shape[1])


@pytest.fixture(params=MODULES)
def pair(request):
    return MODULES[request.param]()


def made(pair: Pair, *batch: int, seed: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*batch, *shape, generator=generator, dtype=torch.float64) for shape in pair.shapes]


def both(pair: Pair, transformed: Callable) -> None:
    """A transform must give the same result for the module and for torch's."""
    got, expected = transformed(pair.ours), transformed(pair.torchs)
    torch.testing.assert_close(got, expected)
    assert any(part.abs().sum() > 0 for part in torch.utils._pytree.tree_leaves(got))


def test_func_grad_jacrev_and_hessian(pair):
    inputs = made(pair)
    both(pair, lambda module: torch.func.grad(lambda *t: module(*t).pow(3).sum())(*inputs))
    both(pair, lambda module: torch.func.jacrev(module)(*inputs))
    both(pair, lambda module: torch.func.hessian(lambda *t: module(*t).pow(3).sum())(*inputs))


def test_func_jvp_and_forward_mode(pair):
    inputs, tangents = made(pair), made(pair, seed=2)
    both(pair, lambda module: torch.func.jvp(module, tuple(inputs), tuple(tangents)))

    def forward_mode(module):
        with torch.autograd.forward_ad.dual_level():
            duals = [torch.autograd.forward_ad.make_dual(t, d) for t, d in zip(inputs, tangents, strict=True)]
            return torch.autograd.forward_ad.unpack_dual(module(*duals)).tangent

    both(pair, forward_mode)


def test_gradients_per_sample(pair):
    """functional_call, grad and vmap, as for differential privacy."""

    def per_sample(module):
        def loss(parameters, *inputs):
            return functional_call(module, parameters, inputs).pow(3).sum()

        parameters = dict(module.named_parameters())
        axes = (None, *(0 for _ in pair.shapes))
        return torch.func.vmap(torch.func.grad(loss), in_dims=axes)(parameters, *made(pair, 5))

    both(pair, per_sample)


@pytest.mark.parametrize("name", ["LayerNorm", "LinearGELU", "BatchNormAct2d"])
def test_func_grad_under_torch_compile(name):
    pair = MODULES[name]()

    def gradient(*inputs):
        return torch.func.grad(lambda *t: pair.ours(*t).pow(3).sum())(*inputs)

    inputs = made(pair)
    compiled = torch.compile(gradient, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs), gradient(*inputs))


def test_an_ensemble_of_modules(pair):
    """vmap over the parameters of several networks, stacked."""
    inputs = made(pair)

    def ensemble(module):
        stacked = {name: torch.stack([p, 2 * p]) for name, p in module.named_parameters()}
        return torch.func.vmap(lambda parameters: functional_call(module, parameters, tuple(inputs)))(stacked)

    both(pair, ensemble)


def test_vectorized_jacobian(pair):
    """The forward pass in kernels, the backward pass under vmap."""
    inputs = tuple(made(pair))
    both(pair, lambda module: torch.autograd.functional.jacobian(module, inputs, vectorize=True))


def test_training_under_func_grad_without_running_statistics():
    pair = batch_norm(track_running_stats=False)
    inputs = made(pair)
    both(pair, lambda module: torch.func.grad(lambda *t: module.train()(*t).pow(3).sum())(*inputs))


def test_dropout_under_vmap_takes_torchs_randomness():
    module, x = DropoutAddLayerNorm(64, p=0.5), torch.ones(3, 64)
    module.return_sum = True
    apart = torch.func.vmap(lambda x: module(x, torch.zeros(64))[1], randomness="different")(x)
    alike = torch.func.vmap(lambda x: module(x, torch.zeros(64))[1], randomness="same")(x)
    assert sorted(apart.unique().tolist()) == sorted(alike.unique().tolist()) == [0.0, 2.0]
    assert (alike == alike[0]).all()
    assert not (apart == apart[0]).all()


def test_exported_programs_are_torchs_own(pair):
    batch = torch.export.Dim("batch", min=2, max=64)
    inputs = tuple(made(pair))
    program = torch.export.export(pair.ours, inputs, dynamic_shapes=[{0: batch}] * len(inputs))
    assert not [node for node in program.graph.nodes if "airank_fast" in str(node.target)]
    larger = tuple(torch.cat([t, 2 * t, t]) for t in inputs)
    torch.testing.assert_close(program.module()(*larger), pair.torchs(*larger))


@pytest.mark.parametrize("name", ["LayerNorm", "LinearGELU", "BatchNormAct2d"])
def test_onnx(name):
    pair = MODULES[name]()
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    ours, inputs = pair.ours.float(), tuple(t.float() for t in made(pair))
    file = io.BytesIO()
    torch.onnx.export(ours, inputs, dynamo=True, verbose=False).save(file)
    model = onnx.load_from_string(file.getvalue())
    got = onnx.reference.ReferenceEvaluator(model).run(
        None, {place.name: t.numpy() for place, t in zip(model.graph.input, inputs, strict=True)}
    )
    torch.testing.assert_close(torch.from_numpy(got[0]), ours(*inputs).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # torch's: deprecations, and tests of shapes in its own modules
@pytest.mark.parametrize("grad", [True, False])
def test_jit_trace(pair, grad):
    inputs = tuple(t.requires_grad_(grad) for t in made(pair))
    traced = torch.jit.trace(pair.ours.requires_grad_(grad), inputs)
    assert "PythonOp" not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(*inputs), pair.torchs(*inputs))


class Around(nn.Module):
    """A network with the module in it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.part = module

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x) * 2


@pytest.mark.parametrize("training", [True, False])
def test_fx_records_one_call_of_a_part(pair, training):
    """The traced network keeps its kernels, parameters and modes."""
    if len(pair.shapes) == 2:
        pytest.skip("one input")
    (x,) = made(pair)
    network = Around(pair.ours).train(training)
    traced = torch.fx.symbolic_trace(network)
    called = [network.get_submodule(node.target) for node in traced.graph.nodes if node.op == "call_module"]
    assert type(called[-1]).__module__.startswith("airank_fast.nn.")
    torch.testing.assert_close(traced(x), network(x))


@pytest.mark.parametrize("name", [name for name in MODULES if name != "CrossEntropyLoss"])
def test_fx_traces_a_module_by_itself(name):
    pair = MODULES[name]()
    inputs = made(pair)
    traced = torch.fx.symbolic_trace(pair.ours)
    torch.testing.assert_close(traced(*inputs), pair.torchs(*inputs))


def test_fx_batch_norm_is_traced_with_its_residual_and_switches_to_training():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn = BatchNormAct2d(3, relu=True)

        def forward(self, x):
            return self.bn(x, residual=x)

    block = Block().eval()
    traced = torch.fx.symbolic_trace(block)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(traced(x), block(x))
    traced.train()(x)
    assert traced.bn.num_batches_tracked == 1
    with pytest.raises(
        ValueError, match="BatchNormAct2d: must be in evaluation where it is traced by itself, got training"
    ):
        torch.fx.symbolic_trace(BatchNormAct2d(3))


def test_a_group_has_no_form_in_torchs_operators():
    module = BatchNormAct2d(3)
    module.group = object()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "get_world_size", lambda _group: 2)
        with pytest.raises(ValueError, match=r"group must be None for export, torch\.func, .* got a group of 2"):
            torch.func.grad(lambda x: module(x).sum())(torch.randn(2, 3, 4, 4))
        module.eval()
        assert torch.func.grad(lambda x: module(x).sum())(torch.randn(2, 3, 4, 4)).shape == (2, 3, 4, 4)


def _on_two_processes(rank: int) -> list:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    mesh = init_device_mesh("cpu", (2,))
    network = _transformer_block()
    plan = {"0": SequenceParallel(), "1": ColwiseParallel(), "2": RowwiseParallel()}
    parallel = parallelize_module(_transformer_block(), mesh, plan)
    sharded = fully_shard(_transformer_block(), mesh=mesh)
    x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(5))
    grads = []
    for module in (network, parallel, sharded):
        y = module(x.chunk(2, 1)[rank] if module is parallel else x)  # its part of the sequence
        y.square().sum().backward()
        whole = [p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for p in module.parameters()]
        grads.append([y.detach(), *whole])
    return [[t + 0 for t in part] for part in grads]  # waits for the collectives


def _transformer_block() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(LayerNorm(8), LinearGELU(8, 12), nn.Linear(12, 8))


def test_tensor_parallel_and_fsdp():
    """SequenceParallel on LayerNorm, ColwiseParallel on LinearGELU, fully_shard: gradients are one process's."""
    for one, parallel, sharded in on_two_ranks(_on_two_processes):
        torch.testing.assert_close(parallel, one)
        torch.testing.assert_close(sharded, one)
