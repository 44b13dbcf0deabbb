"""airank_fast::instance_norm_act against float64, against its reference, and against wrong arguments.

On the CPU and, with -m gpu, on CUDA. Rule: at most twice the error of plain torch in the same dtype.
"""

from __future__ import annotations

import pytest
import torch
from ops.threads import one_thread
from torch import nn
from torch.nn import functional as F

from airank_fast.nn import InstanceNormAct2d
from airank_fast.ops import instance_norm_act
from airank_fast.ops.instance_norm_act import instance_norm_act_backward_reference, instance_norm_act_reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
ACTIVATIONS = [None, "relu", "leaky_relu"]
# [N, C, H, W]: a row of lanes and a rest, less than a row, one row, several pieces, more channels than a tile.
SHAPES = [(2, 5, 7, 9), (3, 2, 2, 3), (1, 32, 4, 8), (1, 3, 64, 97), (2, 515, 3, 3)]
OPS = torch.ops.airank_fast
NAN, INF = float("nan"), float("inf")


def made(shape=SHAPES[0], dtype=torch.float32, device="cpu", channels_last=False, params=True):
    """The arguments x, weight, bias, residual, and the gradient of the result."""
    generator = torch.Generator().manual_seed(shape[1])
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x, residual, grad = (
        (scale * torch.randn(shape, generator=generator) + shift)
        .to(device, dtype)
        .contiguous(memory_format=memory_format)
        for scale, shift in ((3, 2), (1, 0), (1, 0))
    )
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weight, bias = (torch.randn(shape[1], generator=generator).to(device, wide) for _ in range(2))
    return (x, weight if params else None, bias if params else None, residual), grad


def plain(x, weight=None, bias=None, residual=None, *, activation=None, negative_slope=0.2, eps=1e-5):
    weight, bias = (t if t is None else t.to(x.dtype) for t in (weight, bias))
    z = F.instance_norm(x, weight=weight, bias=bias, eps=eps)
    z = z if residual is None else z + residual
    if activation is None:
        return z
    return F.relu(z) if activation == "relu" else F.leaky_relu(z, negative_slope)


def ours(*arguments, activation=None):
    return instance_norm_act(*arguments, activation=activation, negative_slope=0.2)


def results(function, arguments, grad, **options):
    """The result and the gradients of the arguments."""
    leaves = [t if t is None else t.detach().clone(memory_format=torch.preserve_format) for t in arguments]
    given = [t.requires_grad_() for t in leaves if t is not None]
    y = function(*leaves, **options)
    return [y.detach(), *torch.autograd.grad(y, given, grad)]


def contiguous(arguments):
    """For torch, whose gradient is wrong of one picture on a CPU where the result's is channels_last (2.13, 2.14)."""
    return [t if t is None else t.contiguous() for t in arguments]


def doubled(arguments):
    return [t if t is None else t.double() for t in contiguous(arguments)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_is_at_most_twice_torchs(device, dtype, channels_last, shape):
    # Without an activation: where z is next to 0, rounding decides which gradients pass.
    for with_residual in (False, True):
        arguments, grad = made(shape, dtype, device, channels_last, params=with_residual)
        arguments = arguments if with_residual else arguments[:3]
        exact = results(plain, doubled(arguments), grad.double().contiguous())
        torchs = results(plain, contiguous(arguments), grad.contiguous())
        got = results(ours, arguments, grad)
        assert got[0].is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        assert got[0].dtype == dtype
        for mine, of_torch, want in zip(got, torchs, exact, strict=True):
            error, limit = ((t.double() - want).abs().max().item() for t in (mine, of_torch))
            # Where torch is exact by chance: half a unit in the last place of the largest.
            unit = torch.finfo(mine.dtype).eps / 2 * want.abs().max().item() * (64 if dtype == torch.float64 else 1)
            assert error <= 2 * (limit + unit)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS[1:])
def test_activations_both_ways(device, dtype, channels_last, activation):
    for with_residual in (False, True):
        arguments, grad = made(dtype=dtype, device=device, channels_last=channels_last)
        arguments = arguments if with_residual else arguments[:3]
        # Next to 0 rounding decides which elements pass: no gradient there.
        z = plain(*doubled(arguments))
        grad = torch.where(z.abs() < 0.05, 0, grad)
        got = results(ours, arguments, grad, activation=activation)
        want = results(plain, doubled(arguments), grad.double().contiguous(), activation=activation)
        assert 0.2 < (z < 0).float().mean() < 0.8
        eps = torch.finfo(dtype).eps
        for mine, exact in zip(got, want, strict=True):
            atol = 32 * max(eps, torch.finfo(mine.dtype).eps) * (exact.abs().max().item() + 1)
            torch.testing.assert_close(mine.double(), exact, rtol=8 * eps, atol=atol)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_mean_far_from_zero(device, channels_last):
    (x, *_), grad = made((1, 3, 64, 97), device=device, channels_last=channels_last)
    x = x * 0.01 + 1000
    x[0, 1, :5] = 0  # unlike the rest
    got, want = results(ours, [x], grad), results(plain, doubled([x]), grad.double().contiguous())
    for mine, exact in zip(got, want, strict=True):
        assert ((mine.double() - exact).norm() / exact.norm()).item() < 2e-3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_nan_inf_and_constants(device, channels_last):
    (x, *_), _ = made(device=device, channels_last=channels_last)
    x[0, 1, 2, 3], x[1, 2, 0, 0], x[1, 3] = NAN, INF, 7.0
    for activation in ACTIVATIONS:
        y = ours(x, activation=activation)
        bad = torch.zeros(x.shape[:2], dtype=torch.bool, device=device)
        bad[0, 1] = bad[1, 2] = True
        assert torch.equal(y.isnan().all(3).all(2), bad)
        assert torch.equal(y.isnan().any(3).any(2), bad)
        assert (y[1, 3] == 0).all()
    residual = torch.zeros_like(x)
    residual[0, 0, 0, 0] = -INF
    assert ours(x, None, None, residual, activation="relu")[0, 0, 0, 0] == 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["mixed", "transposed", "every other", "odd", "expanded"])
def test_any_strides(device, layout):
    (x, _, _, residual), grad = made((2, 4, 6, 8), torch.bfloat16, device)

    def laid_out(t, i):
        if layout == "mixed":
            return t.contiguous(memory_format=torch.channels_last) if i else t
        if layout == "transposed":
            return t.mT.contiguous().mT
        if layout == "expanded":
            return t[:1].expand(t.shape)
        if layout == "odd":  # contiguous, but at no address of 16 bytes
            return torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape)
        return torch.stack([t, t], -1).flatten(-2)[..., ::2]

    strided = [laid_out(t, i) for i, t in enumerate((x, residual, grad))]

    def outcome(x, residual, grad):
        leaves = [t.detach().requires_grad_() for t in (x, residual)]
        y = ours(leaves[0], None, None, leaves[1], activation="relu")
        return [y.detach(), *torch.autograd.grad(y, leaves, grad)]

    torch.testing.assert_close(outcome(*strided), outcome(*(t.contiguous() for t in strided)), rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_no_picture(device, channels_last):
    arguments, grad = made((0, 3, 4, 6), device=device, channels_last=channels_last)
    shapes = [t.shape for t in results(ours, arguments, grad, activation="relu")]
    assert shapes == [(0, 3, 4, 6), (0, 3, 4, 6), (3,), (3,), (0, 3, 4, 6)]


@pytest.mark.not_emulated
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(1, 32, 64, 97), (9, 64, 12, 10)], ids=str)
def test_result_does_not_depend_on_the_number_of_threads(channels_last, shape):
    arguments, grad = made(shape, torch.bfloat16, channels_last=channels_last)
    everything = results(ours, arguments, grad, activation="relu")
    with one_thread():
        torch.testing.assert_close(results(ours, arguments, grad, activation="relu"), everything, rtol=0, atol=0)


def test_the_kernels_are_loaded_where_the_extension_is_built():
    pytest.importorskip("airank_fast._C")
    for name in ("instance_norm_act", "instance_norm_act_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"airank_fast::{name}", "CPU")


X = torch.ones(2, 3, 4, 4)
LAST = X.contiguous(memory_format=torch.channels_last)
ONES, STATISTICS = torch.ones(3), torch.ones(2, 2, 3)
SHAPE = "must have shape [N, C, H, W] with at least one channel and one pixel, got "
VECTOR = "must be contiguous float32 of shape "
WRONG = {
    f"x {SHAPE}[2, 3, 4]": {"x": X[..., 0]},
    f"x {SHAPE}[2, 3, 0, 4]": {"x": X[:, :, :0]},
    "x must be float32, float64, bfloat16 or float16, got int64": {"x": X.long()},
    "x must be contiguous, got strides [48, 1, 12, 3]": {"x": LAST},
    f"weight {VECTOR}[3] on cpu, got bfloat16 of shape [3] on cpu": {"weight": ONES.bfloat16()},
    f"bias {VECTOR}[3] on cpu, got float32 of shape [2] on cpu": {"bias": ONES[:2]},
    "residual must be on cpu, got meta": {"residual": X.to("meta")},
    "residual must be float32, got bfloat16": {"residual": X.bfloat16()},
    "residual must have shape [2, 3, 4, 4], got [1, 3, 4, 4]": {"residual": X[:1]},
    "residual must be contiguous, got strides [48, 1, 12, 3]": {"residual": LAST},
    "negative_slope must be at least 0 and finite, got -1": {"negative_slope": -1.0},
    "eps must be above 0 and finite, got 0": {"eps": 0.0},
}
WRONG_BACKWARD = {
    f"x {SHAPE}[2, 3, 4]": {"x": X[..., 0]},
    "grad must have shape [2, 3, 4, 4], got [2, 3, 4, 2]": {"grad": X[..., :2]},
    "y must be contiguous, got strides [48, 1, 12, 3]": {"y": LAST},
    f"weight {VECTOR}[3] on cpu, got float32 of shape [1] on cpu": {"weight": ONES[:1]},
    f"bias {VECTOR}[3] on cpu, got float32 of shape [3] on meta": {"bias": ONES.to("meta")},
    f"statistics {VECTOR}[2, 2, 3] on cpu, got float32 of shape [2, 3] on cpu": {"statistics": STATISTICS[0]},
    "negative_slope must be at least 0 and finite, got inf": {"negative_slope": INF},
    "y must be given with an activation only, got negative_slope 1": {"y": X, "negative_slope": 1.0},
}


@pytest.mark.parametrize("function", [OPS.instance_norm_act, instance_norm_act_reference])
@pytest.mark.parametrize(("message", "wrong"), WRONG.items(), ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(function, message, wrong):
    arguments = {"x": X, "weight": None, "bias": None, "residual": None, "negative_slope": 0.0, "eps": 1e-5}
    with pytest.raises(RuntimeError) as caught:
        function(**{**arguments, "channels_last": False, **wrong})
    assert str(caught.value) == "instance_norm_act: " + message


@pytest.mark.parametrize("function", [OPS.instance_norm_act_backward, instance_norm_act_backward_reference])
@pytest.mark.parametrize(("message", "wrong"), WRONG_BACKWARD.items(), ids=range(len(WRONG_BACKWARD)))
def test_wrong_arguments_of_the_backward(function, message, wrong):
    arguments = {"grad": X, "x": X, "y": None, "weight": None, "bias": None, "statistics": STATISTICS}
    with pytest.raises(RuntimeError) as caught:
        function(**{**arguments, "negative_slope": 0.0, "channels_last": False, **wrong})
    assert str(caught.value) == "instance_norm_act_backward: " + message


def test_wrong_arguments_of_the_face():
    with pytest.raises(
        ValueError, match=r"^instance_norm_act: activation must be None, 'relu' or 'leaky_relu', got 'x'$"
    ):
        instance_norm_act(X, activation="x")
    required = "x must have more than one value per channel of a picture"
    with pytest.raises(ValueError, match=rf"^instance_norm_act: {required}, got shape \[2, 3, 1, 1\]$"):
        instance_norm_act(X[:, :, :1, :1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(device, channels_last, activation):
    arguments, _ = made((2, 3, 3, 4), torch.float64, device, channels_last)
    leaves = [t.requires_grad_() for t in arguments]
    assert torch.autograd.gradcheck(lambda *of: ours(*of, activation=activation), leaves, nondet_tol=0.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck(device, channels_last):
    (x, weight, bias, residual), grad = made((2, 3, 4, 6), torch.bfloat16, device, channels_last)
    leaves = [t.requires_grad_() for t in (x, weight, bias, residual)]
    torch.library.opcheck(OPS.instance_norm_act.default, (*leaves, 0.0, 1e-5, channels_last))
    y, statistics = (t.detach() for t in OPS.instance_norm_act(*leaves, 0.0, 1e-5, channels_last))
    arguments = (grad, x.detach(), y, weight.detach(), bias.detach(), statistics, 0.0, channels_last)
    torch.library.opcheck(OPS.instance_norm_act_backward.default, arguments)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_compiles_without_graph_breaks(device, channels_last):
    def step(x, weight, bias, residual):
        return ours(x * 2, weight, bias, residual, activation="relu") + 1

    arguments = made(dtype=torch.bfloat16, device=device, channels_last=channels_last)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(results(compiled, *arguments), results(step, *arguments), rtol=0, atol=0)


def test_the_module_is_torchs_with_an_addition_and_an_activation():
    for affine in (False, True):
        module = InstanceNormAct2d(5, affine=affine, activation="leaky_relu", negative_slope=0.2)
        torchs = nn.InstanceNorm2d(5, affine=affine)
        if affine:
            nn.init.normal_(module.weight), nn.init.normal_(module.bias)
        torchs.load_state_dict(module.state_dict())
        (x, _, _, residual), _ = made()
        torch.testing.assert_close(module(x, residual), F.leaky_relu(torchs(x) + residual, 0.2))
        torch.testing.assert_close(module(x[0], residual[0]), module(x, residual)[0])
        assert module.eval()(x).equal(module.train()(x))
    assert "affine=True" in repr(module)
    assert repr(module).endswith("activation='leaky_relu', negative_slope=0.2)")
    narrow = module.bfloat16()
    assert narrow(x.bfloat16()).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"^instance_norm_act: track_running_stats must be False, got True$"):
        InstanceNormAct2d(3, track_running_stats=True)
    with pytest.raises(ValueError, match=r"^instance_norm_act: input must have 3 channels, got shape \[2, 5, 7, 9\]$"):
        InstanceNormAct2d(3)(x)


def test_the_module_is_exported_in_torchs_operators():
    module = InstanceNormAct2d(5, affine=True, activation="relu")
    (x, _, _, residual), _ = made()
    exported = torch.export.export(module, (x, residual))
    assert not [node for node in exported.graph.nodes if "airank_fast" in str(node.target)]
    torch.testing.assert_close(exported.module()(x, residual), module(x, residual))


@pytest.mark.gpu
def test_captured_step_sees_new_inputs():
    arguments, grad = made((1, 64, 64, 64), torch.bfloat16, "cuda", channels_last=True)
    leaves = [t.requires_grad_() for t in arguments]

    def step():
        y = ours(*leaves, activation="relu")
        return [y.detach(), *torch.autograd.grad(y, leaves, grad)]

    side = torch.cuda.Stream()  # autograd needs a warm-up off the default stream
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for leaf in leaves:
            leaf.copy_(torch.randn(leaf.shape))
    graph.replay()
    torch.testing.assert_close(captured, results(ours, leaves, grad, activation="relu"), rtol=0, atol=0)


@pytest.mark.gpu
def test_another_stream():
    arguments, grad = made((1, 64, 64, 64), torch.bfloat16, "cuda")
    want = results(ours, arguments, grad, activation="relu")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = results(ours, arguments, grad, activation="relu")
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
