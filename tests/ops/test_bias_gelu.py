"""airank_fast::bias_gelu against float64, against its reference, and against wrong arguments; on the CPU and, with
-m gpu, on CUDA. Rule: at most twice the error of plain torch in the same dtype."""

from __future__ import annotations

import pytest
import torch
from ops.threads import one_thread
from torch.nn import functional as F

from airank_fast.ops import bias_gelu
from airank_fast.ops.bias_gelu import bias_gelu_backward_reference, bias_gelu_reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
APPROXIMATIONS = ["none", "tanh"]
NAN, INF = float("nan"), float("inf")
OPS = torch.ops.airank_fast


def made(shape, dtype=torch.float32, bias_dtype=None, device="cpu"):
    """x, bias and the gradient of the result."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) * 2
    bias = torch.randn(shape[-1], generator=generator)
    grad = torch.randn(shape, generator=generator)
    return x.to(device, dtype), bias.to(device, bias_dtype or dtype), grad.to(device, dtype)


def plain(x, bias, approximate):
    return F.gelu(x + bias, approximate=approximate)


def results(function, x, bias, grad, approximate):
    """The result and the gradients of x and bias."""
    x, bias = x.detach().requires_grad_(), bias.detach().requires_grad_()
    y = function(x, bias, approximate)
    y.backward(grad.to(y.dtype))
    return y.detach(), x.grad, bias.grad


def error(got, exact):
    return (got.double() - exact).abs().max().item() if exact.numel() else 0.0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("approximate", APPROXIMATIONS)
@pytest.mark.parametrize("bias_dtype", [None, torch.float32])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 97), (33, 1023), (5, 1025), (2, 70, 264)], ids=str)
def test_error_is_at_most_twice_torchs(device, approximate, bias_dtype, dtype, shape):
    if dtype == torch.float64 and bias_dtype:
        pytest.skip("a float32 bias goes with 16-bit and float32")
    x, bias, grad = made(shape, dtype, bias_dtype, device)
    exact = results(plain, x.double(), bias.double(), grad.double(), approximate)
    of_torch = results(plain, x, bias.to(dtype), grad, approximate)
    ours = results(bias_gelu, x, bias, grad, approximate)
    assert [r.dtype for r in ours] == [dtype, dtype, bias.dtype]
    for got, want, torchs in zip(ours, exact, of_torch, strict=True):
        # Where torch is exact by chance, or in float64, which is the reference itself: units in the last place.
        unit = torch.finfo(got.dtype).eps / 2 * want.abs().max().item() * (64 if dtype == torch.float64 else 1)
        assert error(got, want) <= 2 * max(error(torchs, want), unit)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("approximate", APPROXIMATIONS)
def test_the_whole_range(device, approximate):
    x = torch.linspace(-14, 14, 2**14, device=device).reshape(-1, 64)
    bias, grad = torch.zeros(64, device=device), torch.ones_like(x)
    exact = results(plain, x.double(), bias.double(), grad.double(), approximate)
    of_torch = results(plain, x, bias, grad, approximate)
    ours = results(bias_gelu, x, bias, grad, approximate)
    for got, want, torchs in zip(ours[:2], exact[:2], of_torch[:2], strict=True):
        assert error(got, want) <= 2 * error(torchs, want)
    # No cancellation for negative numbers: the relative error stays small far below the point where torch gives 0.
    u = x.double()
    share = torch.special.erfc(-u / 2**0.5) / 2 if approximate == "none" else torch.sigmoid(2 * tanh_argument(u))
    tail = (u < -1) & (u > (-9 if approximate == "none" else -7))
    assert (ours[0] / (u * share) - 1)[tail].abs().max() < 2e-5


def tanh_argument(u):
    return (2 / torch.pi) ** 0.5 * (u + 0.044715 * u**3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("approximate", APPROXIMATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_inf(device, approximate, dtype):
    largest = torch.finfo(dtype).max
    x = torch.tensor([[NAN, INF, 0.0, -0.0, largest, -largest]], device=device, dtype=dtype)
    bias = torch.zeros(6, device=device, dtype=dtype)
    # In float64: in float32 torch 2.13 on the CPU has NaN for inf, and inf for the largest number.
    want = plain(x.double(), bias.double(), approximate).to(dtype)
    torch.testing.assert_close(bias_gelu(x, bias, approximate), want, equal_nan=True)
    assert bias_gelu(x - INF, bias, approximate).isnan().all()  # -inf * 0
    _, dx, dbias = results(bias_gelu, x, bias, torch.full_like(x, NAN), approximate)
    assert dx.isnan().all()
    assert dbias.isnan().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (2, 0, 4), (0,)], ids=str)
def test_empty(device, shape):
    x, bias, grad = made(shape, device=device)
    y, dx, dbias = results(bias_gelu, x, bias, grad, "none")
    assert y.shape == dx.shape == x.shape
    assert dbias.tolist() == [0.0] * shape[-1]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["transposed", "every other", "odd", "expanded"])
def test_any_strides(device, dtype, layout):
    x, bias, grad = made((6, 40), dtype, device=device)

    def laid_out(values):
        if layout == "transposed":
            return values.T.contiguous().T
        if layout == "expanded":
            return values[:1].expand(values.shape)
        if layout == "odd":  # contiguous, but at no address of 16 bytes
            return torch.cat([values.flatten()[:1], values.flatten()])[1:].view(values.shape)
        return torch.stack([values, values], -1).flatten(-2)[..., ::2]

    wide_bias = torch.stack([bias, bias], 1)[:, 0]
    strided = [laid_out(x), wide_bias, laid_out(grad)]
    got = results(bias_gelu, *strided, "none")
    want = results(bias_gelu, *(t.contiguous() for t in strided), "none")
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert got[0].is_contiguous()


@pytest.mark.parametrize("device", DEVICES)
def test_more_rows_than_one_chunk(device):
    x, bias, grad = made((700, 9), device=device)
    exact = results(plain, x.double(), bias.double(), grad.double(), "none")
    of_torch = results(plain, x, bias, grad, "none")
    ours = results(bias_gelu, x, bias, grad, "none")
    unit = torch.finfo(torch.float32).eps * exact[2].abs().max().item()
    assert error(ours[2], exact[2]) <= 2 * max(error(of_torch[2], exact[2]), unit)
    again = results(bias_gelu, x, bias, grad, "none")
    assert torch.equal(ours[2], again[2])  # summed in a fixed order


@pytest.mark.not_emulated
def test_result_does_not_depend_on_the_number_of_threads():
    arguments = made((300, 2500), torch.bfloat16)
    everything = results(bias_gelu, *arguments, "none")
    with one_thread():
        alone = results(bias_gelu, *arguments, "none")
    for a, b in zip(everything, alone, strict=True):
        assert torch.equal(a, b)


def test_the_kernels_are_loaded_where_the_extension_is_built():
    pytest.importorskip("airank_fast._C")
    for name in ("bias_gelu", "bias_gelu_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"airank_fast::{name}", "CPU")


ONES, FOUR = torch.ones(3, 4), torch.ones(4)
WRONG = {
    "x must be float32, float64, bfloat16 or float16, got int64": (ONES.long(), FOUR, "none"),
    "x must have shape [..., features], got []": (torch.ones(()), FOUR, "none"),
    "bias must be on cpu, got meta": (ONES, FOUR.to("meta"), "none"),
    "bias must be float32, got bfloat16": (ONES, FOUR.bfloat16(), "none"),
    "bias must be bfloat16 or float32, got float16": (ONES.bfloat16(), FOUR.half(), "none"),
    "bias must have shape [4], got [3]": (ONES, torch.ones(3), "none"),
    "bias must have shape [4], got [1, 4]": (ONES, FOUR[None], "none"),
    "approximate must be none or tanh, got erf": (ONES, FOUR, "erf"),
}
WRONG_BACKWARD = {
    "grad must be on cpu, got meta": ONES.to("meta"),
    "grad must be float32, got float64": ONES.double(),
    "grad must have shape [3, 4], got [4, 3]": torch.ones(4, 3),
}


@pytest.mark.parametrize("function", [bias_gelu, bias_gelu_reference])
@pytest.mark.parametrize(("message", "arguments"), WRONG.items(), ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(function, message, arguments):
    with pytest.raises(RuntimeError) as caught:
        function(*arguments)
    assert str(caught.value) == "bias_gelu: " + message


@pytest.mark.parametrize("function", [OPS.bias_gelu_backward, bias_gelu_backward_reference])
@pytest.mark.parametrize(("message", "grad"), WRONG_BACKWARD.items(), ids=range(len(WRONG_BACKWARD)))
def test_wrong_arguments_of_the_backward(function, message, grad):
    with pytest.raises(RuntimeError) as caught:
        function(grad, ONES, FOUR, "none")
    assert str(caught.value) == "bias_gelu_backward: " + message


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("approximate", APPROXIMATIONS)
def test_gradcheck(device, approximate):
    x, bias, _ = made((5, 6), torch.float64, device=device)
    arguments = (x.requires_grad_(), bias.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, b: bias_gelu(x, b, approximate), arguments, nondet_tol=0.0)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    x, bias, grad = made((5, 33), torch.bfloat16, torch.float32, device)
    arguments = (x.requires_grad_(), bias.requires_grad_(), "tanh")
    torch.library.opcheck(OPS.bias_gelu.default, arguments)
    torch.library.opcheck(OPS.bias_gelu_backward.default, (grad, x.detach(), bias.detach(), "none"))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_without_graph_breaks(device):
    def step(x, bias, approximate):
        return bias_gelu(x * 2, bias, approximate) + 1

    arguments = made((5, 33), torch.bfloat16, device=device)
    compiled = results(torch.compile(step, fullgraph=True, backend="aot_eager"), *arguments, "none")
    for got, want in zip(compiled, results(step, *arguments, "none"), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.gpu
def test_captured_step_sees_new_inputs():
    x, bias, grad = (t.requires_grad_(i < 2) for i, t in enumerate(made((300, 1024), torch.bfloat16, device="cuda")))

    def step():
        x.grad = bias.grad = None
        y = bias_gelu(x, bias)
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
    captured = [x.grad, bias.grad]
    for seed in range(3):
        torch.manual_seed(seed)
        with torch.no_grad():
            x.copy_(torch.randn(300, 1024))
            bias.copy_(torch.randn(1024))
        graph.replay()
        want = results(bias_gelu, x, bias, grad, "none")
        for got, expected in zip([y, *captured], want, strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.gpu
def test_another_stream():
    arguments = made((300, 1024), torch.bfloat16, device="cuda")
    want = results(bias_gelu, *arguments, "none")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = results(bias_gelu, *arguments, "none")
    torch.cuda.current_stream().wait_stream(stream)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)
