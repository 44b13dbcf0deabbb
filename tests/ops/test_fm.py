"""airank_fast::fm against float64, against its reference, and against wrong arguments; on the CPU and, with -m gpu, on
CUDA. Rule: at most twice the error of plain torch in the same dtype."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from ops.threads import one_thread

from airank_fast.ops import fm
from airank_fast.ops.fm import fm_backward_reference, fm_reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
# Embeddings shorter than a register, of odd lengths, and longer; few fields and many; no samples' axis, and two.
SHAPES = [
    (1, 1, 1),
    (97, 3, 1),
    (33, 39, 10),
    (5, 26, 9),
    (7, 8, 8),
    (3, 2, 31),
    (4, 5, 64),
    (2, 6, 97),
    (2, 3, 1023),
    (1, 2, 1025),
    (3, 1025, 4),
    (6, 7),
    (2, 3, 5, 16),
]
NAN, INF = float("nan"), float("inf")
OPS = torch.ops.airank_fast


def made(shape, dtype=torch.float32, device="cpu"):
    """x and the gradient of the result."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).to(device, dtype)
    grad = torch.randn(shape[:-2], generator=generator).to(device, torch.promote_types(dtype, torch.float32))
    return x, grad


def plain(x):
    return 0.5 * (x.sum(-2).square() - x.square().sum(-2)).sum(-1)


def results(function, x, grad):
    """The result and the gradient of x."""
    x = x.detach().requires_grad_()
    y = function(x)
    y.backward(grad.to(y.dtype))
    return y.detach(), x.grad


def error(got, exact):
    return (got.double() - exact).abs().max().item() if exact.numel() else 0.0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_error_is_at_most_twice_torchs(device, dtype, shape):
    x, grad = made(shape, dtype, device)
    exact = results(plain, x.double(), grad.double())
    of_torch = results(plain, x, grad)
    ours = results(fm, x, grad)
    assert [r.dtype for r in ours] == [grad.dtype, dtype]
    assert ours[0].shape == shape[:-2]
    squares = x.double().square().sum((-2, -1)).max().item()  # the result is a difference of numbers of this size
    for got, want, torchs, size in zip(ours, exact, of_torch, (squares, exact[1].abs().max().item()), strict=True):
        unit = torch.finfo(got.dtype).eps / 2 * size * (64 if dtype == torch.float64 else 1)
        assert error(got, want) <= 2 * max(error(torchs, want), unit)


def test_it_is_the_sum_over_pairs():
    x, _ = made((6, 5, 3), torch.float64)
    expected = sum((x[:, i] * x[:, j]).sum(1) for i, j in combinations(range(5), 2))
    torch.testing.assert_close(fm(x), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_inf(device, dtype):
    x = torch.ones(4, 3, 2, device=device, dtype=dtype)
    x[0, 1, 0], x[1, 2, 1] = NAN, INF
    y, dx = results(fm, x, torch.tensor([1.0, 1.0, NAN, INF], device=device))
    assert y.isnan().tolist() == [True, True, False, False]  # inf^2 - inf^2
    assert dx[0, :, 0].isnan().all()
    assert dx[0, :, 1].tolist() == [2.0] * 3
    assert dx[1, :2, 1].tolist() == [INF] * 2
    assert dx[1, 2, 1].isnan()  # inf - inf
    assert dx[2].isnan().all()
    assert (dx[3] == INF).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(0, 5, 4), (3, 0, 4), (3, 4, 0), (0, 2), (2, 0)], ids=str)
def test_empty(device, shape):
    x, grad = made(shape, device=device)
    y, dx = results(fm, x, grad)
    assert torch.equal(y, torch.zeros(shape[:-2], device=device))
    assert dx.shape == shape


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["transposed", "every other", "odd", "expanded"])
def test_any_strides(device, dtype, layout):
    x, grad = made((6, 5, 12), dtype, device)

    def laid_out(values):
        if layout == "transposed":
            return values.mT.contiguous().mT if values.dim() > 1 else values
        if layout == "expanded":
            return values[:1].expand(values.shape)
        if layout == "odd":  # contiguous, but at no address of 16 bytes
            return torch.cat([values.flatten()[:1], values.flatten()])[1:].view(values.shape)
        return torch.stack([values, values], -1).flatten(-2)[..., ::2]

    strided = [laid_out(x), laid_out(grad)]
    got, want = results(fm, *strided), results(fm, *(t.contiguous() for t in strided))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.not_emulated
def test_result_does_not_depend_on_the_number_of_threads():
    arguments = made((3001, 26, 10))
    everything = results(fm, *arguments)
    with one_thread():
        alone = results(fm, *arguments)
    for a, b in zip(everything, alone, strict=True):
        assert torch.equal(a, b)


def test_the_kernels_are_loaded_where_the_extension_is_built():
    pytest.importorskip("airank_fast._C")
    for name in ("fm", "fm_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"airank_fast::{name}", "CPU")


ONES = torch.ones(3, 4, 2)
WRONG = {
    "x must be float32, float64, bfloat16 or float16, got int64": ONES.long(),
    "x must have shape [..., fields, dim], got [4]": torch.ones(4),
}
WRONG_BACKWARD = {
    "grad must be on cpu, got meta": (torch.ones(3, device="meta"), ONES),
    "grad must be float32, got bfloat16": (torch.ones(3).bfloat16(), ONES.bfloat16()),
    "grad must have shape [3], got [3, 1]": (torch.ones(3, 1), ONES),
}


@pytest.mark.parametrize("function", [fm, fm_reference])
@pytest.mark.parametrize(("message", "x"), WRONG.items(), ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(function, message, x):
    with pytest.raises(RuntimeError) as caught:
        function(x)
    assert str(caught.value) == "fm: " + message


@pytest.mark.parametrize("function", [OPS.fm_backward, fm_backward_reference])
@pytest.mark.parametrize(("message", "arguments"), WRONG_BACKWARD.items(), ids=range(len(WRONG_BACKWARD)))
def test_wrong_arguments_of_the_backward(function, message, arguments):
    with pytest.raises(RuntimeError) as caught:
        function(*arguments)
    assert str(caught.value) == "fm_backward: " + message


@pytest.mark.parametrize("device", DEVICES)
def test_gradcheck(device):
    x, _ = made((4, 3, 5), torch.float64, device)
    assert torch.autograd.gradcheck(fm, x.requires_grad_(), nondet_tol=0.0)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    x, grad = made((5, 3, 7), torch.bfloat16, device)
    torch.library.opcheck(OPS.fm.default, (x.requires_grad_(),))
    torch.library.opcheck(OPS.fm_backward.default, (grad, x.detach()))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_without_graph_breaks(device):
    def step(x):
        return fm(x * 2) + 1

    arguments = made((5, 3, 7), torch.bfloat16, device)
    compiled = results(torch.compile(step, fullgraph=True, backend="aot_eager"), *arguments)
    for got, want in zip(compiled, results(step, *arguments), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.gpu
def test_captured_step_sees_new_inputs():
    x, grad = made((300, 39, 10), device="cuda")
    x.requires_grad_()

    def step():
        x.grad = None
        y = fm(x)
        y.backward(grad)
        return y

    side = torch.cuda.Stream()  # autograd needs a warm-up off the default stream
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = step()
    captured = x.grad
    with torch.no_grad():
        x.copy_(torch.randn(300, 39, 10))
    graph.replay()
    for got, expected in zip([y, captured], results(fm, x, grad), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.gpu
def test_another_stream():
    arguments = made((300, 39, 10), device="cuda")
    want = results(fm, *arguments)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = results(fm, *arguments)
    torch.cuda.current_stream().wait_stream(stream)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)
