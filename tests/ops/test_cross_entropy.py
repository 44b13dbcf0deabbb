"""airank_fast::cross_entropy against float64, against its reference, and against wrong arguments; on the CPU and, with
-m gpu, on CUDA. Rule: at most twice the error of plain torch in the same dtype."""

from __future__ import annotations

import pytest
import torch
from ops.threads import one_thread
from torch.nn import functional as F

from airank_fast.ops import cross_entropy

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
NAN, INF = float("nan"), float("inf")
OPS = torch.ops.airank_fast


def made(rows=7, classes=97, dtype=torch.float32, device="cpu", ignored=(2,), spread=4.0):
    """Logits that require a gradient, and targets of which some are ignored."""
    generator = torch.Generator().manual_seed(rows * 100_003 + classes)
    logits = torch.randn(rows, classes, generator=generator) * spread
    target = torch.randint(classes, (rows,), generator=generator)
    target[[i for i in ignored if i < rows]] = -100
    return logits.to(device, dtype).requires_grad_(), target.to(device)


def both(function, logits, target, weight=None, **options):
    """Loss and gradient of the logits."""
    leaf = logits.detach().clone().requires_grad_()
    loss = function(leaf, target, **options)
    loss.backward(weight)
    return loss.detach(), leaf.grad


def error(got, exact):
    return (got.double() - exact).abs().max().item() if exact.numel() else 0.0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [1, 97, 1000, 1023, 1025, 5001])
def test_error_is_at_most_twice_torchs(device, dtype, smoothing, classes):
    logits, target = made(24, classes, dtype, device)
    for reduction in ("mean", "sum", "none"):
        options = {"label_smoothing": smoothing, "reduction": reduction}
        weight = torch.linspace(0.5, 2, 24, device=device) if reduction == "none" else torch.tensor(3.0, device=device)
        exact = both(F.cross_entropy, logits.double(), target, weight.double(), **options)
        plain = both(F.cross_entropy, logits, target, weight.to(dtype), **options)
        wide = torch.promote_types(dtype, torch.float32)
        ours = both(cross_entropy, logits, target, weight.to(wide), **options)
        assert ours[0].dtype == wide
        assert ours[1].dtype == dtype
        for got, want, of_torch in zip(ours, exact, plain, strict=True):
            # Where torch is exact by chance: half a unit in the last place of the largest term. In float64 it always
            # is, being its own reference, and the sums' rounding remains.
            largest = max(want.abs().max().item(), weight.max().item())
            unit = torch.finfo(got.dtype).eps / 2 * largest * (256 if dtype == torch.float64 else 1)
            assert error(got, want) <= 2 * max(error(of_torch, want), unit)


@pytest.mark.parametrize("device", DEVICES)
def test_vocabulary_sized_rows_of_bert(device):
    logits, target = made(2, 30_522, torch.bfloat16, device, ignored=())
    exact = both(F.cross_entropy, logits.double(), target, label_smoothing=0.1)
    plain = both(F.cross_entropy, logits, target, label_smoothing=0.1)
    ours = both(cross_entropy, logits, target, label_smoothing=0.1)
    assert error(ours[0], exact[0]) <= error(plain[0], exact[0])
    assert error(ours[1], exact[1]) <= 2 * error(plain[1], exact[1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shift", [1e3, -1e3])
def test_logits_far_from_zero_lose_nothing(device, smoothing, shift):
    logits, target = made(4, 301, device=device)
    logits = (logits.detach() + shift).requires_grad_()
    exact = both(F.cross_entropy, logits.double(), target, label_smoothing=smoothing)
    plain = both(F.cross_entropy, logits, target, label_smoothing=smoothing)
    ours = both(cross_entropy, logits, target, label_smoothing=smoothing)
    assert error(ours[0], exact[0]) <= 2 * error(plain[0], exact[0]) + 1e-6
    assert error(ours[1], exact[1]) <= 2 * error(plain[1], exact[1]) + 1e-8


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_ignored_rows_count_for_nothing(device, smoothing):
    logits, target = made(6, 50, device=device, ignored=(0, 3, 5))
    poisoned = logits.detach().clone()
    poisoned[[0, 3, 5]] = NAN  # never read
    loss, gradient = both(cross_entropy, poisoned, target, label_smoothing=smoothing)
    want, want_gradient = both(F.cross_entropy, logits, target, label_smoothing=smoothing)
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(gradient, want_gradient)
    assert torch.count_nonzero(gradient[[0, 3, 5]]) == 0


@pytest.mark.parametrize("device", DEVICES)
def test_an_index_within_the_classes_can_be_ignored(device):
    logits, target = made(6, 5, device=device)
    target = target.clamp(min=0)
    torch.testing.assert_close(
        both(cross_entropy, logits, target, ignore_index=int(target[1])),
        both(F.cross_entropy, logits, target, ignore_index=int(target[1])),
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [0, 3])
def test_no_row_that_counts(device, rows):
    logits, target = made(rows, 10, device=device, ignored=range(rows))
    for reduction, want in (("mean", NAN), ("sum", 0.0)):
        loss, gradient = both(cross_entropy, logits, target, reduction=reduction)
        torch.testing.assert_close(loss.cpu(), torch.tensor(want), equal_nan=True)
        assert gradient.shape == logits.shape
        assert torch.count_nonzero(gradient) == 0
    assert cross_entropy(logits, target, reduction="none").tolist() == [0.0] * rows


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nan_and_inf_as_torch(device, dtype, smoothing):
    rows = torch.zeros(8, 40, dtype=torch.float64)
    target = torch.full((8,), 3)
    rows[1, 7] = NAN
    rows[2, 7] = INF  # NaN: inf - inf
    rows[3, 7] = -INF  # a masked class
    rows[4, 3] = -INF  # the target is masked
    rows[5] = -INF
    rows[6, 0] = torch.finfo(dtype).max
    rows[7, 3] = torch.finfo(dtype).max
    rows, target = rows.to(device, dtype), target.to(device)
    wide = rows.to(torch.promote_types(dtype, torch.float32))
    want, _ = both(F.cross_entropy, wide, target, torch.ones(8).to(wide), reduction="none", label_smoothing=smoothing)
    got, gradient = both(
        cross_entropy, rows, target, torch.ones(8).to(wide), reduction="none", label_smoothing=smoothing
    )
    if dtype != torch.float16 and smoothing:
        want[6], want[7] = got[6], got[7]  # the sum over the classes overflows, or not, by the order
    torch.testing.assert_close(got, want, equal_nan=True)
    assert gradient[[1, 2, 5]].isnan().all()
    assert gradient[[0, 3, 4, 6, 7]].isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
def test_a_gradient_too_large_for_float16_is_infinite(device):
    logits, target = made(3, 10, torch.float16, device, ignored=())
    _, gradient = both(cross_entropy, logits, target, torch.tensor(2.0**24, device=device))
    _, want = both(F.cross_entropy, logits.float(), target, torch.tensor(2.0**24, device=device))
    torch.testing.assert_close(gradient, want.half(), rtol=2e-3, atol=0.0)
    assert gradient.isinf().any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("layout", ["rows apart", "odd", "transposed", "every other", "expanded"])
def test_any_strides(device, in_place, layout):
    values, target = made(6, 33, torch.bfloat16, device)
    values = values.detach()
    if layout == "expanded":
        values = values[:1].expand(6, 33).clone()
    leaf = torch.zeros(12, 80, dtype=torch.bfloat16, device=device, requires_grad=True)
    view = {
        "rows apart": lambda wide: wide[::2, 8:41],
        "odd": lambda wide: wide.flatten()[1 : 6 * 33 + 1].view(6, 33),
        "transposed": lambda wide: wide.flatten()[: 6 * 33].view(33, 6).T,
        "every other": lambda wide: wide[:6, :66:2],
        "expanded": lambda wide: wide[:1, :33].expand(6, 33),
    }[layout]
    wide = leaf.detach().clone()
    view(wide)[: 1 if layout == "expanded" else 6].copy_(values[: 1 if layout == "expanded" else 6])
    leaf.data.copy_(wide)
    logits = view(leaf * 1)
    strides = logits.stride()
    cross_entropy(logits, target, inplace_backward=in_place).backward()
    _, want = both(cross_entropy, values, target)
    expected = torch.zeros_like(leaf)
    view(expected)[: 1 if layout == "expanded" else 6].copy_(
        want.float().sum(0, keepdim=True) if layout == "expanded" else want
    )
    torch.testing.assert_close(leaf.grad, expected)
    assert logits.stride() == strides


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(9,), (4, 9), (4, 9, 3), (2, 9, 3, 5), (0, 9, 2)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_dimensions_as_torch(device, shape, reduction):
    torch.manual_seed(0)
    logits = torch.randn(shape, device=device)
    target = torch.randint(9, shape[:1] + shape[2:] if len(shape) > 1 else (), device=device)
    weight = torch.randn(target.shape, device=device) if reduction == "none" else None
    torch.testing.assert_close(
        both(cross_entropy, logits, target, weight, reduction=reduction, label_smoothing=0.1),
        both(F.cross_entropy, logits, target, weight, reduction=reduction, label_smoothing=0.1),
        equal_nan=True,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_inplace_backward_writes_over_the_logits(device, dtype):
    leaf, target = made(6, 97, dtype, device)
    _, want = both(cross_entropy, leaf, target, label_smoothing=0.1)
    logits = leaf * 1
    address = logits.data_ptr()
    seen = []
    logits.register_hook(lambda gradient: seen.append(gradient.data_ptr()))
    cross_entropy(logits, target, 0.1, inplace_backward=True).backward()
    assert seen == [address]
    assert torch.equal(leaf.grad, want)
    assert torch.equal(logits, want)


CHANGED = "modified by an inplace operation"


@pytest.mark.parametrize("device", DEVICES)
def test_inplace_backward_never_changes_what_others_saved(device):
    leaf, target = made(6, 97, device=device)
    logits = leaf.tanh()  # tanh's backward needs its result
    with pytest.raises(RuntimeError, match=CHANGED):
        cross_entropy(logits, target, inplace_backward=True).backward()
    logits = leaf * 1
    loss = logits.square().sum() + cross_entropy(logits, target, inplace_backward=True)
    with pytest.raises(RuntimeError, match=CHANGED):
        loss.backward()  # the square's backward comes second
    logits = leaf * 1
    loss = cross_entropy(logits, target, inplace_backward=True)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=CHANGED):
        loss.backward()
    logits = leaf * 1
    loss = cross_entropy(logits, target)
    logits.add_(1)
    with pytest.raises(RuntimeError, match=CHANGED):
        loss.backward()


@pytest.mark.parametrize("device", DEVICES)
def test_inplace_backward_beside_users_that_are_done(device):
    leaf, target = made(6, 97, device=device)
    logits = leaf * 1
    loss = logits.sum() + cross_entropy(logits, target, inplace_backward=True)
    (loss + logits.square().sum()).backward()  # the square's backward comes first
    got, leaf.grad = leaf.grad, None
    (F.cross_entropy(leaf, target) + leaf.sum() + leaf.square().sum()).backward()
    torch.testing.assert_close(got, leaf.grad)


def test_inplace_backward_spares_parameters():
    leaf, target = made()
    with pytest.raises(ValueError, match="must have logits that were computed, got a leaf"):
        cross_entropy(leaf, target, inplace_backward=True)


def test_a_target_outside_of_the_classes_is_named():
    logits, target = made(4, 10)
    for wrong in (10, -1):
        target[1] = wrong
        for function in (cross_entropy, reference):
            with pytest.raises(RuntimeError) as caught:
                function(logits, target)
            assert str(caught.value) == (
                f"cross_entropy: target[1] must be in [0, 10) or the ignore_index -100, got {wrong}"
            )


@pytest.mark.gpu
def test_a_target_outside_of_the_classes_is_nan_on_a_gpu():
    logits, target = made(4, 10, device="cuda")
    target[1] = 10
    losses, gradient = both(cross_entropy, logits, target, torch.ones(4, device="cuda"), reduction="none")
    assert losses.isnan().tolist() == [False, True, False, False]
    assert gradient.isnan().any(1).tolist() == [False, True, False, False]


def reference(logits, target, label_smoothing=0.0, ignore_index=-100, reduction=1):
    from airank_fast.ops.cross_entropy import cross_entropy_reference

    return cross_entropy_reference(logits, target, label_smoothing, ignore_index, reduction, False)


ONES, AT = torch.ones(3, 4), torch.zeros(3, dtype=torch.int64)
WRONG = {
    "logits must have shape [rows, classes] with at least one class, got [3, 0]": (torch.ones(3, 0), AT),
    "logits must be float32, float64, bfloat16 or float16, got int64": (ONES.long(), AT),
    "target must be on cpu, got meta": (ONES, AT.to("meta")),
    "target must be int64, got int32": (ONES, AT.int()),
    "target must be int64, got float32": (ONES, ONES),
    "target must have shape [3], got [4]": (ONES, torch.zeros(4, dtype=torch.int64)),
    "target must have shape [3], got [3, 1]": (ONES, AT[:, None]),
    "label_smoothing must be in [0, 1], got 1.5": (ONES, AT, 1.5),
    "label_smoothing must be in [0, 1], got -0.5": (ONES, AT, -0.5),
}


@pytest.mark.parametrize("function", [cross_entropy, reference])
@pytest.mark.parametrize(("message", "arguments"), WRONG.items(), ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(function, message, arguments):
    with pytest.raises(RuntimeError) as caught:
        function(*arguments)
    assert str(caught.value) == "cross_entropy: " + message


def test_wrong_arguments_of_the_face():
    with pytest.raises(ValueError, match=r"^cross_entropy: reduction must be none, mean or sum, got 'max'$"):
        cross_entropy(ONES, AT, reduction="max")
    with pytest.raises(RuntimeError, match=r"^cross_entropy: target must have shape \[3, 2\], got \[3\]$"):
        cross_entropy(torch.ones(3, 4, 2), AT)


WRONG_BACKWARD = {
    "grad must be float32, got float64": {"grad": torch.ones((), dtype=torch.float64)},
    "grad must have shape [] or [3], got [4]": {"grad": torch.ones(4)},
    "statistics must have shape [3, 2], got [3]": {"statistics": torch.ones(3)},
    "scale must have shape [], got [1]": {"scale": torch.ones(1)},
    "scale must be on cpu, got meta": {"scale": torch.ones((), device="meta")},
}


@pytest.mark.parametrize(("message", "changes"), WRONG_BACKWARD.items(), ids=range(len(WRONG_BACKWARD)))
def test_wrong_arguments_of_the_backward(message, changes):
    from airank_fast.ops.cross_entropy import cross_entropy_backward_reference

    good = {
        "grad": torch.ones(()),
        "logits": ONES,
        "target": AT,
        "statistics": torch.ones(3, 2),
        "scale": torch.ones(()),
        "label_smoothing": 0.0,
        "ignore_index": -100,
    }
    for function in (OPS.cross_entropy_backward, cross_entropy_backward_reference):
        with pytest.raises(RuntimeError) as caught:
            function(**(good | changes))
        assert str(caught.value) == "cross_entropy_backward: " + message


@pytest.mark.not_emulated
def test_result_does_not_depend_on_the_number_of_threads():
    logits, target = made(300, 1025, torch.bfloat16)
    everything = both(cross_entropy, logits, target, label_smoothing=0.1)
    with one_thread():
        alone = both(cross_entropy, logits, target, label_smoothing=0.1)
    torch.testing.assert_close(everything, alone, rtol=0, atol=0)


def test_the_kernels_are_loaded_where_the_extension_is_built():
    pytest.importorskip("airank_fast._C")
    for name in ("cross_entropy", "cross_entropy_backward", "cross_entropy_backward_"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"airank_fast::{name}", "CPU")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck(device, smoothing, reduction):
    logits, target = made(4, 7, torch.float64, device)
    assert torch.autograd.gradcheck(
        lambda x: cross_entropy(x, target, smoothing, reduction=reduction), (logits,), nondet_tol=0.0
    )


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    logits, target = made(4, 33, torch.bfloat16, device)
    for reduction in (0, 1):
        torch.library.opcheck(OPS.cross_entropy.default, (logits, target, 0.1, -100, reduction, False))
    loss, statistics, scale = OPS.cross_entropy(logits.detach(), target, 0.1, -100, 1, False)
    rest = (target, statistics, scale, 0.1, -100)
    torch.library.opcheck(OPS.cross_entropy_backward.default, (loss, logits.detach(), *rest))
    torch.library.opcheck(OPS.cross_entropy_backward_.default, (logits.detach().clone(), loss, *rest))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("in_place", [False, True])
def test_compiles_without_graph_breaks(device, in_place):
    def step(leaf, target):
        loss = cross_entropy(leaf * 2, target, 0.1, inplace_backward=in_place)
        return loss * 3

    logits, target = made(4, 33, torch.bfloat16, device)
    compiled = both(torch.compile(step, fullgraph=True, backend="aot_eager"), logits, target)
    torch.testing.assert_close(compiled, both(step, logits, target), rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("in_place", [False, True])
def test_captured_step_sees_new_logits(in_place):
    leaf, target = made(64, 1000, torch.bfloat16, "cuda")

    def step():
        leaf.grad = None
        loss = cross_entropy(leaf * 1, target, 0.1, inplace_backward=in_place)
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
    captured = leaf.grad
    for seed in range(3):
        torch.manual_seed(seed)
        with torch.no_grad():
            leaf.copy_(torch.randn(64, 1000))
        target.copy_(torch.randint(1000, (64,)))
        graph.replay()
        want, want_gradient = both(cross_entropy, leaf, target, label_smoothing=0.1)
        torch.testing.assert_close(loss, want)
        torch.testing.assert_close(captured, want_gradient)


@pytest.mark.gpu
def test_another_stream():
    logits, target = made(64, 1000, torch.bfloat16, "cuda")
    want = both(cross_entropy, logits, target)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        got = both(cross_entropy, logits, target)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("in_place", [False, True])
def test_memory_peak_is_at_most_half_of_torchs(in_place):
    def peak(function, **options):
        torch.cuda.empty_cache()
        leaf = torch.zeros(1, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        target = torch.zeros(512, dtype=torch.int64, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        logits = torch.zeros(512, 30_528, device="cuda", dtype=torch.bfloat16).add_(leaf)
        function(logits, target, **options).backward()
        return torch.cuda.max_memory_allocated() - before

    # torch: logits, their log-softmax and a gradient of each; a few KB are what belongs to rows
    assert peak(cross_entropy, inplace_backward=in_place) <= peak(F.cross_entropy) / (4 if in_place else 2) + 2**16
