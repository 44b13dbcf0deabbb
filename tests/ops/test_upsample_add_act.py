"""airank_fast::upsample_add_act against float64, against its reference, and against wrong arguments.

On the CPU and, with -m gpu, on CUDA. Rule: at most twice the error of plain torch in the same dtype.
"""

from __future__ import annotations

import pytest
import torch
from ops.threads import one_thread
from torch.nn import functional as F

from airank_fast.nn import UpsampleAddAct
from airank_fast.ops import upsample_add_act
from airank_fast.ops.upsample_add_act import upsample_add_act_backward_reference, upsample_add_act_reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
# Channels, and heights and widths: HRNet's factors, one input, one pixel, smaller, broken factors, rows of more than a
# piece, more channels than a loop takes.
CASES = [
    (5, [(8, 16), (8, 16), (4, 8), (1, 2)]),
    (3, [(5, 7)]),
    (2, [(4, 3), (1, 1)]),
    (4, [(4, 5), (9, 11)]),
    (1, [(7, 131), (3, 33), (7, 33)]),
    (97, [(3, 23), (2, 12)]),
]
MODES = [("bilinear", False), ("bilinear", True), ("nearest", False)]
NAN, INF = float("nan"), float("inf")
OPS = torch.ops.airank_fast


def made(channels=5, sizes=CASES[0][1], dtype=torch.float32, device="cpu", channels_last=False, number=2):
    """The inputs, and the gradient of the result."""
    generator = torch.Generator().manual_seed(channels)
    pictures = [torch.randn(number, channels, *size, generator=generator) for size in [*sizes, sizes[0]]]
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    *inputs, grad = (t.to(device, dtype).contiguous(memory_format=memory_format) for t in pictures)
    return inputs, grad


def plain(inputs, *, relu=True, mode="bilinear", align_corners=False):
    corners = align_corners if mode == "bilinear" else None
    y = inputs[0]
    for x in inputs[1:]:
        y = y + F.interpolate(x, y.shape[2:], mode=mode, align_corners=corners)
    return F.relu(y) if relu else y


def results(function, inputs, grad, **options):
    """The result and the gradients of the inputs."""
    leaves = [x.detach().clone(memory_format=torch.preserve_format).requires_grad_() for x in inputs]
    y = function(leaves, **options)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def error(got, exact):
    return (got.double() - exact).abs().max().item()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("mode", "align_corners"), MODES)
@pytest.mark.parametrize(("channels", "sizes"), CASES, ids=str)
def test_error_is_at_most_twice_torchs(device, dtype, mode, align_corners, channels, sizes):
    for channels_last in (False, True):
        # Without a ReLU: where a sum is next to 0, rounding decides which gradients are kept.
        options = {"mode": mode, "align_corners": align_corners, "relu": False}
        inputs, grad = made(channels, sizes, dtype, device, channels_last)
        exact = results(plain, [x.double() for x in inputs], grad.double(), **options)
        torchs = results(plain, inputs, grad, **options)
        ours = results(upsample_add_act, inputs, grad, **options)
        for got, want, of_torch in zip(ours, exact, torchs, strict=True):
            assert got.dtype == dtype
            assert got.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
            # Where torch is exact by chance: half a unit in the last place of the largest.
            unit = torch.finfo(dtype).eps / 2 * want.abs().max().item() * (64 if dtype == torch.float64 else 1)
            assert error(got, want) <= 2 * max(error(of_torch, want), unit)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_relu_masks_both_ways(device, channels_last, dtype):
    inputs, grad = made(dtype=dtype, device=device, channels_last=channels_last)
    without = results(upsample_add_act, inputs, grad, relu=False)
    y, *gradients = results(upsample_add_act, inputs, grad)
    assert torch.equal(y, without[0].relu())
    masked = torch.where(y > 0, grad, 0)
    want = results(upsample_add_act, inputs, masked, relu=False)[1:]
    torch.testing.assert_close(gradients, want, rtol=0, atol=0)
    assert 0.2 < (y == 0).float().mean() < 0.8


@pytest.mark.parametrize("device", DEVICES)
def test_nan_and_inf(device):
    inputs, _ = made(device=device)
    inputs[2][0, 0, 1, 2], inputs[0][1, 1, 1, 1] = NAN, -INF
    y, want = upsample_add_act(inputs), plain(inputs)
    assert y.isnan().any()
    torch.testing.assert_close(y, want, equal_nan=True)
    grad = torch.ones_like(inputs[0])
    grad[0, 0, 3, 5] = INF
    some = inputs[0], inputs[2]  # of the others some weights are 0, by which torch multiplies infinities too
    for mode in ("bilinear", "nearest"):
        got, want = (results(f, some, grad, mode=mode, relu=False) for f in (upsample_add_act, plain))
        torch.testing.assert_close(got, want, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
def test_more_inputs_than_the_op_takes_at_once(device):
    inputs, grad = made(3, [(4, 6), (2, 3), (4, 6), (1, 2), (2, 2), (4, 6), (3, 3), (2, 6)], torch.float64, device)
    for relu in (False, True):
        got, want = (results(function, inputs, grad, relu=relu) for function in (upsample_add_act, plain))
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["mixed", "transposed", "every other", "odd", "expanded"])
def test_any_strides(device, layout):
    inputs, grad = made(4, [(6, 6), (3, 3)], torch.bfloat16, device)

    def laid_out(values, i):
        if layout == "mixed":
            return values.contiguous(memory_format=torch.channels_last) if i else values
        if layout == "transposed":
            return values.mT.contiguous().mT
        if layout == "expanded":
            return values[:1].expand(values.shape)
        if layout == "odd":  # contiguous, but at no address of 16 bytes
            return torch.cat([values.flatten()[:1], values.flatten()])[1:].view(values.shape)
        return torch.stack([values, values], -1).flatten(-2)[..., ::2]

    strided = [laid_out(x, i) for i, x in enumerate(inputs)]
    got = results(upsample_add_act, strided, laid_out(grad, 1))
    want = results(upsample_add_act, [x.contiguous() for x in strided], laid_out(grad, 1).contiguous())
    torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_no_picture(device):
    inputs, grad = made(3, [(4, 6), (2, 3)], device=device, number=0)
    assert [t.shape for t in results(upsample_add_act, inputs, grad)] == [(0, 3, 4, 6), (0, 3, 4, 6), (0, 3, 2, 3)]


@pytest.mark.not_emulated
@pytest.mark.parametrize("channels_last", [False, True])
def test_result_does_not_depend_on_the_number_of_threads(channels_last):
    arguments = made(18, [(64, 96), (32, 48), (16, 24)], torch.bfloat16, channels_last=channels_last)
    everything = results(upsample_add_act, *arguments)
    with one_thread():
        torch.testing.assert_close(results(upsample_add_act, *arguments), everything, rtol=0, atol=0)


def test_the_kernels_are_loaded_where_the_extension_is_built():
    pytest.importorskip("airank_fast._C")
    for name in ("upsample_add_act", "upsample_add_act_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"airank_fast::{name}", "CPU")


X = torch.ones(2, 3, 4, 4)
LAST = X.contiguous(memory_format=torch.channels_last)
SHAPE = "must have shape [N, C, H, W] with at least one channel and one pixel, got "
WRONG = {
    f"x {SHAPE}[2, 3, 4]": (X[..., 0],),
    f"x {SHAPE}[2, 3, 0, 4]": (X[:, :, :0],),
    "x must be float32, float64, bfloat16 or float16, got int64": (X.long(),),
    "x must be contiguous, got strides [48, 1, 12, 3]": (LAST,),
    "a must be on cpu, got meta": (X, X.to("meta")),
    "b must be float32, got bfloat16": (X, X, X.bfloat16()),
    "c must have shape [2, 3, h, w], got [1, 3, 4, 4]": (X, None, None, X[:1]),
    f"a {SHAPE}[2, 3, 4, 0]": (X, X[..., :0]),
    "a must be contiguous, got strides [48, 1, 12, 3]": (X, LAST),
}
WRONG_BACKWARD = {
    f"grad {SHAPE}[2, 3, 4]": (X[..., 0], 2, 2),
    "grad must be contiguous, got strides [48, 1, 12, 3]": (LAST, 2, 2),
    "size must be at least 1, got [2, 0]": (X, 2, 0),
}


@pytest.mark.parametrize("function", [OPS.upsample_add_act, upsample_add_act_reference])
@pytest.mark.parametrize(("message", "arguments"), WRONG.items(), ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(function, message, arguments):
    with pytest.raises(RuntimeError) as caught:
        function(*arguments, *(None,) * (4 - len(arguments)), True, False, False, False)
    assert str(caught.value) == "upsample_add_act: " + message


@pytest.mark.parametrize("function", [OPS.upsample_add_act_backward, upsample_add_act_backward_reference])
@pytest.mark.parametrize(("message", "arguments"), WRONG_BACKWARD.items(), ids=range(len(WRONG_BACKWARD)))
def test_wrong_arguments_of_the_backward(function, message, arguments):
    with pytest.raises(RuntimeError) as caught:
        function(*arguments, False, False, False)
    assert str(caught.value) == "upsample_add_act_backward: " + message


def test_wrong_arguments_of_the_face():
    with pytest.raises(ValueError, match=r"^upsample_add_act: mode must be bilinear or nearest, got 'area'$"):
        upsample_add_act([X], mode="area")
    with pytest.raises(ValueError, match=r"^upsample_add_act: align_corners must be False for mode nearest, got True$"):
        upsample_add_act([X], mode="nearest", align_corners=True)
    with pytest.raises(ValueError, match=r"^upsample_add_act: inputs must have at least one picture, got none$"):
        upsample_add_act([])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("mode", "align_corners"), MODES)
def test_gradcheck(device, mode, align_corners):
    inputs, _ = made(2, [(3, 4), (2, 2)], torch.float64, device, number=1)
    leaves = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(
        lambda *of: upsample_add_act(of, mode=mode, align_corners=align_corners), leaves, nondet_tol=0.0
    )


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    (x, a), grad = made(3, [(4, 6), (2, 3)], torch.bfloat16, device, channels_last=True)
    arguments = (x.requires_grad_(), a.requires_grad_(), None, None, True, False, True, True)
    torch.library.opcheck(OPS.upsample_add_act.default, arguments)
    torch.library.opcheck(OPS.upsample_add_act_backward.default, (grad, 2, 3, False, True, True))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_without_graph_breaks(device):
    def step(inputs):
        return upsample_add_act([x * 2 for x in inputs]) + 1

    arguments = made(dtype=torch.bfloat16, device=device, channels_last=True)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(results(compiled, *arguments), results(step, *arguments), rtol=0, atol=0)


def test_the_module():
    inputs, _ = made()
    module = UpsampleAddAct(relu=False, mode="nearest")
    assert torch.equal(module(*inputs), upsample_add_act(inputs, relu=False, mode="nearest"))
    assert repr(module) == "UpsampleAddAct(relu=False, mode='nearest', align_corners=False)"


@pytest.mark.gpu
def test_captured_step_sees_new_inputs():
    inputs, grad = made(18, [(64, 96), (32, 48)], device="cuda")
    leaves = [x.requires_grad_() for x in inputs]

    def step():
        y = upsample_add_act(leaves)
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
    torch.testing.assert_close(captured, results(upsample_add_act, leaves, grad), rtol=0, atol=0)


@pytest.mark.gpu
def test_another_stream():
    arguments = made(18, [(64, 96), (32, 48)], device="cuda")
    want = results(upsample_add_act, *arguments)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = results(upsample_add_act, *arguments)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
