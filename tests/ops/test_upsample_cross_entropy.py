"""airank_fast::upsample_cross_entropy, upsample_argmax and upsample_confusion against float64 and wrong arguments.

On the CPU and, with -m gpu, on CUDA. Rule: at most twice the error of plain torch in the same dtype.
"""

from __future__ import annotations

import pytest
import torch
from ops.threads import one_thread
from torch.nn import functional as F

from airank_fast.nn import UpsampleCrossEntropyLoss
from airank_fast.ops import upsample_argmax, upsample_confusion, upsample_cross_entropy
from airank_fast.ops.upsample_cross_entropy import (
    upsample_argmax_reference,
    upsample_confusion_reference,
    upsample_cross_entropy_reference,
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
# (logits, height and width of the labels): four times as large, one pixel, a block of cells and more, smaller, larger
# by broken factors, equal, one class.
SHAPES = [
    ((2, 19, 5, 17), (20, 68)),
    ((2, 3, 1, 1), (5, 4)),
    ((1, 4, 2, 33), (7, 131)),
    ((2, 6, 9, 20), (4, 7)),
    ((1, 5, 3, 16), (3, 16)),
    ((1, 1, 3, 3), (8, 8)),
]
NAN, INF = float("nan"), float("inf")
OPS = torch.ops.airank_fast


def made(shape=(2, 5, 4, 6), size=(11, 13), dtype=torch.float32, device="cpu", channels_last=False, spread=3.0):
    """Logits, and labels of which a fifth is ignored."""
    generator = torch.Generator().manual_seed(shape[1] * 1009 + size[0])
    logits = (torch.randn(shape, generator=generator) * spread).to(device, dtype)
    if channels_last:
        logits = logits.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(shape[1], (shape[0], *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    return logits, labels.to(device)


def plain(logits, labels, ignore_index=255, *, align_corners=False, **options):
    x = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(x, labels.long(), ignore_index=ignore_index, **options)


def both(function, logits, labels, *arguments, weight=None, **options):
    """Loss and gradient of the logits."""
    leaf = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    loss = function(leaf, labels, *arguments, **options)
    loss.backward(weight)
    return loss.detach(), leaf.grad


def error(got, exact):
    return (got.double() - exact).abs().max().item() if exact.numel() else 0.0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("shape", "size"), SHAPES, ids=str)
def test_error_is_at_most_twice_torchs(device, dtype, align_corners, shape, size):
    for channels_last in (False, True):
        logits, labels = made(shape, size, dtype, device, channels_last)
        wide = torch.promote_types(dtype, torch.float32)
        weight = torch.tensor(3.0, device=device)
        exact = both(plain, logits.double(), labels, align_corners=align_corners, weight=weight.double())
        torchs = both(plain, logits, labels, align_corners=align_corners, weight=weight.to(dtype))
        ours = both(upsample_cross_entropy, logits, labels, align_corners=align_corners, weight=weight.to(wide))
        assert [t.dtype for t in ours] == [wide, dtype]
        assert ours[1].is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        of_pixel = 3 / (labels != 255).sum().item()
        for got, want, of_torch, term in zip(ours, exact, torchs, (1.0, of_pixel), strict=True):
            # Where torch is exact by chance: half a unit in the last place of the largest term. In float64 it always
            # is, being its own reference, and the sums' rounding remains.
            unit = torch.finfo(got.dtype).eps / 2 * max(want.abs().max().item(), term)
            assert error(got, want) <= 2 * max(error(of_torch, want), unit * (256 if dtype == torch.float64 else 1))


@pytest.mark.parametrize("device", DEVICES)
def test_logits_far_from_zero_lose_nothing(device):
    logits, labels = made(device=device)
    logits = logits + torch.tensor([1e3, -1e3], device=device)[:, None, None, None]
    exact, torchs = both(plain, logits.double(), labels), both(plain, logits, labels)
    ours = both(upsample_cross_entropy, logits, labels)
    assert error(ours[0], exact[0]) <= 2 * error(torchs[0], exact[0]) + 1e-6
    assert error(ours[1], exact[1]) <= 2 * error(torchs[1], exact[1]) + 1e-8


@pytest.mark.parametrize("device", DEVICES)
def test_bytes_are_labels_too(device):
    logits, labels = made(device=device)
    want = both(upsample_cross_entropy, logits, labels)
    torch.testing.assert_close(both(upsample_cross_entropy, logits, labels.to(torch.uint8)), want, rtol=0, atol=0)
    counts = upsample_confusion(logits, labels)
    assert torch.equal(upsample_confusion(logits, labels.to(torch.uint8)), counts)
    assert counts.sum() == (labels != 255).sum()


@pytest.mark.parametrize("device", DEVICES)
def test_ignored_pixels_count_for_nothing(device):
    logits, labels = made((1, 3, 4, 20), (16, 80), device=device)
    labels[:, :, 40:] = 255
    poisoned = logits.clone()
    poisoned[:, :, :, 12:] = NAN  # their pixels begin at 45
    got = both(upsample_cross_entropy, poisoned, labels)
    torch.testing.assert_close(got, both(upsample_cross_entropy, logits, labels), rtol=0, atol=0)
    assert torch.count_nonzero(got[1][..., 12:]) == 0


@pytest.mark.parametrize("device", DEVICES)
def test_a_class_can_be_ignored(device):
    logits, labels = made(device=device)
    labels[labels == 255] = 1
    torch.testing.assert_close(both(upsample_cross_entropy, logits, labels, 1), both(plain, logits, labels, 1))
    counts = upsample_confusion(logits, labels, 1)
    assert counts[1].tolist() == [0] * 5
    assert counts.sum() == (labels != 1).sum()


@pytest.mark.parametrize("device", DEVICES)
def test_count_divides_the_sum(device):
    logits, labels = made(device=device)
    want = both(plain, logits, labels, reduction="sum")
    torch.testing.assert_close(both(upsample_cross_entropy, logits, labels, count=1), want)
    whole = both(upsample_cross_entropy, logits, labels)
    count = (labels != 255).sum()
    parts = [both(upsample_cross_entropy, logits[i : i + 1], labels[i : i + 1], count=count) for i in range(2)]
    torch.testing.assert_close(parts[0][0] + parts[1][0], whole[0])
    torch.testing.assert_close(torch.cat([parts[0][1], parts[1][1]]), whole[1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("shape", "size"), [((2, 3, 2, 2), (5, 5)), ((0, 3, 2, 2), (5, 5)), ((2, 3, 2, 2), (0, 5)), ((2, 3, 2, 2), (5, 0))]
)
def test_no_pixel_that_counts(device, shape, size):
    logits, labels = made(shape, size, device=device)
    labels[:] = 255
    for count, want in ((None, NAN), (2.0, 0.0), (0.0, NAN)):
        loss, gradient = both(upsample_cross_entropy, logits, labels, count=count)
        torch.testing.assert_close(loss.cpu(), torch.tensor(want), equal_nan=True)
        assert gradient.shape == logits.shape
        assert torch.count_nonzero(gradient) == 0
    assert upsample_argmax(logits, size).shape == labels.shape
    assert upsample_confusion(logits, labels).tolist() == [[0] * 3] * 3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_inf_as_torch(device, dtype):
    logits, labels = made((6, 3, 3, 20), (6, 40), dtype, device, spread=1.0)
    labels[labels == 255] = 0
    logits[0, 1, 1, 4] = NAN
    logits[1, 1, 1, 4] = INF
    logits[2, 1] = -INF  # a class that is masked everywhere
    logits[2, :, 0, 0] = -INF
    logits[3, 0] = torch.finfo(dtype).max / 4
    logits[4, 0] = -torch.finfo(dtype).max / 4
    labels[2] = 2
    for i in range(6):
        got = both(upsample_cross_entropy, logits[i : i + 1], labels[i : i + 1])
        want = both(plain, logits[i : i + 1].double(), labels[i : i + 1])
        torch.testing.assert_close(got[0].double(), want[0], equal_nan=True)
        assert got[1].isnan().equal(want[1].isnan())
        finite = got[1].double().nan_to_num(), want[1].nan_to_num()
        torch.testing.assert_close(*finite, rtol=0, atol=2 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", ["transposed", "every other", "odd", "expanded"])
def test_any_strides(device, layout):
    logits, labels = made((2, 3, 6, 6), (9, 9), torch.bfloat16, device)

    def laid_out(values):
        if layout == "transposed":
            return values.mT.contiguous().mT
        if layout == "expanded":
            return values[:1].expand(values.shape)
        if layout == "odd":  # contiguous, but at no address of 16 bytes
            return torch.cat([values.flatten()[:1], values.flatten()])[1:].view(values.shape)
        return torch.stack([values, values], -1).flatten(-2)[..., ::2]

    x, y = laid_out(logits), laid_out(labels)
    got = both(upsample_cross_entropy, x, y)
    torch.testing.assert_close(got, both(upsample_cross_entropy, x.contiguous(), y.contiguous()), rtol=0, atol=0)
    assert torch.equal(upsample_confusion(x, y), upsample_confusion(x.contiguous(), y.contiguous()))
    assert torch.equal(upsample_argmax(x, (9, 9)), upsample_argmax(x.contiguous(), (9, 9)))


@pytest.mark.parametrize("device", DEVICES)
def test_memory_formats_give_the_same_bits(device):
    results = [both(upsample_cross_entropy, *made(device=device, channels_last=last)) for last in (False, True)]
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("shape", "size"), [*SHAPES, ((1, 101, 2, 3), (4, 9))], ids=str)
def test_classes_and_counts(device, dtype, align_corners, shape, size):
    logits, labels = made(shape, size, dtype, device, channels_last=align_corners)
    want = F.interpolate(logits.double(), size, mode="bilinear", align_corners=align_corners).argmax(1)
    assert torch.equal(upsample_argmax(logits, size, align_corners=align_corners), want)
    counts = upsample_confusion(logits, labels, align_corners=align_corners)
    pairs = (labels * shape[1] + want)[labels != 255]
    assert torch.equal(counts.flatten(), pairs.bincount(minlength=shape[1] ** 2))


@pytest.mark.parametrize("device", DEVICES)
def test_of_equal_logits_the_first_is_the_class_and_nan_is_above_all(device):
    logits = torch.tensor([1.0, 2.0, 0.0, 2.0], device=device)[None, :, None, None].repeat(5, 1, 1, 2)
    logits[1, 3] = NAN
    logits[2, 2:] = NAN
    logits[3] = -INF
    logits[4, :2] = INF
    assert upsample_argmax(logits, (1, 2))[..., 0].flatten().tolist() == [1, 3, 2, 0, 0]


def test_classes_under_vmap():
    logits = torch.randn(2, 1, 3, 2, 2)
    want = torch.stack([upsample_argmax(x, (4, 5)) for x in logits])
    assert torch.equal(torch.func.vmap(lambda x: upsample_argmax(x, (4, 5)))(logits), want)


@pytest.mark.not_emulated
def test_a_label_outside_of_the_classes_is_named():
    logits, labels = made((2, 5, 2, 2), (4, 6))
    for wrong in (5, -1):
        labels[1, 2, 3] = wrong
        message = f"labels[1, 2, 3] must be in [0, 5) or the ignore_index 255, got {wrong}"
        for op, function in (
            ("upsample_cross_entropy", upsample_cross_entropy),
            ("upsample_cross_entropy", lambda *of: upsample_cross_entropy_reference(*of, None, 255, False, True)),
            ("upsample_confusion", upsample_confusion),
            ("upsample_confusion", lambda *of: upsample_confusion_reference(*of, 255, False)),
        ):
            with pytest.raises(RuntimeError) as caught:
                function(logits.requires_grad_(), labels)
            assert str(caught.value) == f"{op}: {message}"


@pytest.mark.gpu
def test_a_label_outside_of_the_classes_on_a_gpu():
    logits, labels = made((2, 5, 8, 8), (32, 32), device="cuda")
    labels[1, 2, 3] = 5
    loss, gradient = both(upsample_cross_entropy, logits, labels)
    assert loss.isnan()
    assert gradient[0].isfinite().all()
    assert gradient[1].isnan().any()
    assert upsample_confusion(logits, labels).sum() == (labels < 5).sum()


def reference(logits, labels, count=None):
    return upsample_cross_entropy_reference(logits, labels, count, 255, False, True)


def op(logits, labels, count=None):
    return OPS.upsample_cross_entropy(logits, labels, count, 255, False, True)


X, Y = torch.ones(2, 3, 2, 2), torch.zeros(2, 4, 4, dtype=torch.int64)
NO_PIXEL = "logits must have shape [N, C, h, w] with at least one class and one pixel, got "
WRONG = {
    NO_PIXEL + "[2, 0, 2, 2]": (X[:, :0], Y),
    NO_PIXEL + "[2, 3, 0, 2]": (X[:, :, :0], Y),
    NO_PIXEL + "[2, 3, 2]": (X[..., 0], Y),
    "logits must be float32, float64, bfloat16 or float16, got int64": (X.long(), Y),
    "labels must be on cpu, got meta": (X, Y.to("meta")),
    "labels must be int64 or uint8, got int32": (X, Y.int()),
    "labels must have shape [2, H, W], got [1, 4, 4]": (X, Y[:1]),
    "labels must have shape [2, H, W], got [2, 1, 4, 4]": (X, Y[:, None]),
    "count must be on cpu, got meta": (X, Y, torch.ones((), device="meta")),
    "count must be float32, got float64": (X, Y, torch.ones((), dtype=torch.float64)),
    "count must have shape [], got [1]": (X, Y, torch.ones(1)),
}


@pytest.mark.parametrize(("message", "arguments"), WRONG.items(), ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(message, arguments):
    functions = {"upsample_cross_entropy": (op, reference)}
    if len(arguments) == 2:
        functions["upsample_confusion"] = (
            upsample_confusion,
            lambda *of: upsample_confusion_reference(*of, 255, False),
        )
    if message.startswith("logits"):
        sized = (lambda x, _: upsample_argmax(x, (4, 4)), lambda x, _: upsample_argmax_reference(x, 4, 4, False))
        functions["upsample_argmax"] = sized
    for name, both_of_them in functions.items():
        for function in both_of_them:
            with pytest.raises(RuntimeError) as caught:
                function(*arguments)
            assert str(caught.value) == f"{name}: {message}"


def test_wrong_sizes():
    for function in (OPS.upsample_argmax, upsample_argmax_reference):
        with pytest.raises(RuntimeError) as caught:
            function(X, 4, -1, False)
        assert str(caught.value) == "upsample_argmax: size must be at least 0, got [4, -1]"


@pytest.mark.not_emulated
def test_result_does_not_depend_on_the_number_of_threads():
    arguments = made((3, 19, 24, 40), (96, 160), torch.bfloat16)

    def results():
        return (*both(upsample_cross_entropy, *arguments), upsample_confusion(*arguments))

    everything = results()
    with one_thread():
        torch.testing.assert_close(results(), everything, rtol=0, atol=0)


def test_without_a_gradient_the_loss_has_the_same_bits():
    logits, labels = made()
    with torch.no_grad():
        alone = upsample_cross_entropy(logits.requires_grad_(), labels)
    assert torch.equal(alone, upsample_cross_entropy(logits, labels))


def test_the_kernels_are_loaded_where_the_extension_is_built():
    pytest.importorskip("airank_fast._C")
    for name in ("upsample_cross_entropy", "upsample_argmax", "upsample_confusion"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"airank_fast::{name}", "CPU")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("align_corners", [False, True])
def test_gradcheck(device, align_corners):
    logits, labels = made((1, 2, 2, 3), (5, 4), torch.float64, device)
    assert torch.autograd.gradcheck(
        lambda x: upsample_cross_entropy(x, labels, align_corners=align_corners),
        (logits.requires_grad_(),),
        nondet_tol=0.0,
    )


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    logits, labels = made((2, 3, 2, 3), (4, 5), torch.bfloat16, device, channels_last=True)
    count = torch.ones((), device=device)
    torch.library.opcheck(OPS.upsample_cross_entropy.default, (logits.requires_grad_(), labels, count, 255, True, True))
    logits = logits.detach()
    torch.library.opcheck(OPS.upsample_cross_entropy.default, (logits, labels, None, 255, False, False))
    torch.library.opcheck(OPS.upsample_argmax.default, (logits, 4, 5, False))
    torch.library.opcheck(OPS.upsample_confusion.default, (logits, labels, 255, False))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_without_graph_breaks(device):
    def step(logits, labels):
        return upsample_cross_entropy(logits * 2, labels) * 3

    arguments = made((2, 3, 2, 3), (4, 5), torch.bfloat16, device)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(both(compiled, *arguments), both(step, *arguments), rtol=0, atol=0)
    counts = torch.compile(upsample_confusion, fullgraph=True, backend="aot_eager")
    assert torch.equal(counts(*arguments), upsample_confusion(*arguments))


def test_the_module():
    logits, labels = made((2, 3, 2, 3), (4, 5))
    module = UpsampleCrossEntropyLoss(1, align_corners=True)
    labels[labels == 255] = 1
    for count in (None, 3.0):
        want = upsample_cross_entropy(logits, labels, 1, align_corners=True, count=count)
        assert torch.equal(module(logits, labels, count), want)
    assert repr(module) == "UpsampleCrossEntropyLoss(ignore_index=1, align_corners=True)"


@pytest.mark.gpu
def test_captured_step_sees_new_inputs():
    logits, labels = made((2, 19, 32, 64), (128, 256), device="cuda")
    logits.requires_grad_()

    def step():
        logits.grad = None
        loss = upsample_cross_entropy(logits, labels)
        loss.backward()
        return loss

    side = torch.cuda.Stream()  # autograd needs a warm-up off the default stream
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    captured = logits.grad
    with torch.no_grad():
        logits.copy_(torch.randn(logits.shape))
    graph.replay()
    want = both(upsample_cross_entropy, logits, labels)
    torch.testing.assert_close((loss.detach(), captured), want, rtol=0, atol=0)


@pytest.mark.gpu
def test_another_stream():
    arguments = made((2, 19, 32, 64), (128, 256), device="cuda")
    want = both(upsample_cross_entropy, *arguments)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = both(upsample_cross_entropy, *arguments)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(got, want, rtol=0, atol=0)
