"""airank_fast::layer_norm against float64, against torch's and against wrong arguments; on the CPU and, with -m gpu,
on CUDA. Rule: at most twice the error of plain torch in the same dtype."""

from __future__ import annotations

import pytest
import torch
from ops.threads import one_thread
from torch.nn import functional as F

from airank_fast.ops import layer_norm
from airank_fast.ops.layer_norm import layer_norm_backward_reference, layer_norm_reference

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
# (x, parameters, result)
DTYPES = [
    (F32, F32, F32),
    (F32, F32, BF16),
    (F32, F32, F16),
    (F64, F64, F64),
    (BF16, BF16, BF16),
    (BF16, F32, BF16),
    (F16, F16, F16),
    (F16, F32, F16),
]
# So many rows that one exact rounding of a row's statistics does not decide.
SHAPES = [(37, 1), (50, 97), (30, 1023), (3, 10, 1025), (67, 64), (40, 1024), (300, 24), (6, 8200)]
op = torch.ops.airank_fast


def made(shape, dtypes=(F32, F32, F32), device="cpu", affine="both", seed=0, offset=0.5):
    """(x, weight, bias, grad): random numbers, x of a mean that is not zero."""
    generator = torch.Generator().manual_seed(seed)

    def random(size, dtype, shift):
        return (torch.randn(size, generator=generator) + shift).to(device, dtype)

    weight = random(shape[-1:], dtypes[1], 1.0) if affine != "none" else None
    bias = random(shape[-1:], dtypes[1], 0.0) if affine == "both" else None
    return random(shape, dtypes[0], offset), weight, bias, random(shape, dtypes[2], 0.0)


def with_gradients(function, x, weight, bias, grad):
    """[y, grad_x, grad_weight, grad_bias] of function(x, weight, bias), without those of missing arguments."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, bias) if t is not None]
    given = iter(leaves)
    y = function(*(next(given) if t is not None else None for t in (x, weight, bias)))
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype))]


def worst_error(got, exact):
    return (got.double() - exact).abs().max().item() if got.numel() else 0.0


def in_float64(x, weight, bias, grad):
    wide = [t if t is None else t.double() for t in (x, weight, bias, grad)]
    return with_gradients(lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b), *wide)


def in_torch(x, weight, bias, grad):
    """Plain torch in x's dtype, the result rounded to grad's; beside mixed parameters in float32, as under autocast."""

    def plain(x, weight, bias):
        if weight is not None and weight.dtype != x.dtype:
            return F.layer_norm(x.float(), x.shape[-1:], weight, bias).to(grad.dtype)
        return F.layer_norm(x, x.shape[-1:], weight, bias).to(grad.dtype)

    return with_gradients(plain, x, weight, bias, grad)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("affine", ["both", "no bias", "none"])
@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_error_is_at_most_twice_torchs(device, dtypes, affine):
    for shape in SHAPES if affine == "both" else SHAPES[1:4]:
        arguments = made(shape, dtypes, device, affine)
        if arguments[0].numel() == 0:
            continue
        exact, plain = in_float64(*arguments), in_torch(*arguments)
        ours = with_gradients(lambda x, w, b: layer_norm(x, x.shape[-1:], w, b, dtype=dtypes[2]), *arguments)
        for name, got, torchs, want in zip(["y", "x", "weight", "bias"], ours, plain, exact, strict=False):
            assert (got.dtype, got.shape) == (torchs.dtype, torchs.shape)
            if shape[-1] == 1 and name in ("weight", "bias"):  # a single sum, which torch may have exact
                torch.testing.assert_close(got, want.to(got.dtype))
            elif dtypes[0] == F64:  # nothing more exact to compare with
                torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
            else:
                # Torch's sums depend on its threads and may be exact by chance: a unit in the last place is allowed.
                unit = torch.finfo(got.dtype).eps * want.abs().max().item()
                assert worst_error(got, want) <= max(2 * worst_error(torchs, want), unit), (name, shape)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(0, 33), (4, 0), (0, 0), (3, 0, 5)])
def test_nothing_to_normalise(device, shape):
    arguments = made(shape, device=device)
    y, grad_x, grad_weight, grad_bias = with_gradients(lambda x, w, b: layer_norm(x, shape[-1:], w, b), *arguments)
    assert y.shape == grad_x.shape == shape
    assert torch.equal(grad_weight, torch.zeros(shape[-1:], device=device))
    assert torch.equal(grad_bias, torch.zeros(shape[-1:], device=device))


@pytest.mark.parametrize("device", DEVICES)
def test_rows_of_several_dimensions(device):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(size, generator=generator).to(device) for size in ((3, 2, 4, 5, 6), (4, 5, 6), (4, 5, 6))
    )
    torch.testing.assert_close(layer_norm(x, (4, 5, 6), weight, bias), F.layer_norm(x, (4, 5, 6), weight, bias))
    for got, want in zip(
        with_gradients(lambda x, w, b: layer_norm(x, (4, 5, 6), w, b), x, weight, bias, x),
        with_gradients(lambda x, w, b: F.layer_norm(x, (4, 5, 6), w, b), x, weight, bias, x),
        strict=True,
    ):
        torch.testing.assert_close(got, want)
    # The row is the whole tensor: no leading dimensions at all.
    whole = layer_norm(x, x.shape)
    torch.testing.assert_close(whole, F.layer_norm(x, x.shape))
    leaf = x[0, 0].clone().requires_grad_()
    layer_norm(leaf, leaf.shape, weight.requires_grad_(), bias).sum().backward()
    assert weight.grad.shape == weight.shape


@pytest.mark.parametrize("device", DEVICES)
def test_bias_without_weight(device):
    x, _, bias, grad = made((5, 97), device=device)
    ours = with_gradients(lambda x, w, b: layer_norm(x, 97, w, b), x, None, bias, grad)
    plain = with_gradients(lambda x, w, b: F.layer_norm(x, (97,), w, b), x, None, bias, grad)
    for got, want in zip(ours, plain, strict=True):
        torch.testing.assert_close(got, want)


def strided(kind, tensor):
    """The same numbers in another layout."""
    if kind == "transposed":
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if kind == "every_other":
        wide = torch.zeros(*tensor.shape[:-1], 2 * tensor.shape[-1], dtype=tensor.dtype, device=tensor.device)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    # Not aligned: begins one element into its memory.
    return torch.cat([tensor.flatten()[:1], tensor.flatten()])[1:].view(tensor.shape)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["transposed", "every_other", "not_aligned"])
def test_any_strides(device, kind):
    # sums in another order may round to the next number of 16 bits
    for dtype, rtol in ((F32, 1e-6), (BF16, 2**-7)):
        x, weight, bias, grad = made((6, 5, 96), (dtype, dtype, dtype), device)
        y, mean, rstd = op.layer_norm(x, weight, bias, 1, 1e-5)
        got = op.layer_norm(strided(kind, x), strided(kind, weight), strided(kind, bias), 1, 1e-5)
        assert got[0].is_contiguous()
        torch.testing.assert_close(got, (y, mean, rstd), rtol=rtol, atol=0 if dtype == BF16 else 1e-6)
        expected = op.layer_norm_backward(grad, x, mean, rstd, weight, 1, True)
        views = [strided(kind, t) for t in (grad, x, mean, rstd, weight)]
        got = op.layer_norm_backward(*views, 1, True)
        torch.testing.assert_close(got, expected, rtol=rtol, atol=0 if dtype == BF16 else 1e-5)
    leaf = made((4, 97), device=device)[0].requires_grad_()
    layer_norm(leaf, 97).sum().backward()  # an expanded gradient
    torch.testing.assert_close(leaf.grad, torch.zeros_like(leaf), rtol=0, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [F32, F64, BF16, F16])
def test_nan_inf_and_constant_rows(device, dtype):
    nan, inf = float("nan"), float("inf")
    x = torch.zeros(5, 96, dtype=dtype, device=device)
    x[0, 3], x[1, 95], x[2, 0] = nan, inf, -inf
    x[4] = 3.0
    ones = torch.ones(96, dtype=dtype, device=device)
    y = layer_norm(x, 96, ones, ones)
    assert y[:3].isnan().all()
    assert torch.equal(y[3:], torch.ones_like(y[3:]))  # no variance: eps alone is under the root
    leaf = x.clone().requires_grad_()
    layer_norm(leaf, 96, ones, ones).backward(torch.ones_like(y))
    assert leaf.grad[:3].isnan().all()
    assert leaf.grad[3:].isfinite().all()
    weight = torch.full_like(ones, nan)
    assert layer_norm(x[3:], 96, weight).isnan().all()
    # A NaN with all bits set must not be rounded up into a number.
    all_bits = torch.full((1,), -1, dtype=torch.int32, device=device).view(F32).expand(96)
    for weight, bias in ((all_bits, None), (None, all_bits), (-all_bits, all_bits.abs())):
        given = [p if p is None or dtype != F64 else p.double() for p in (weight, bias)]
        assert layer_norm(x[3:], 96, *given).isnan().all()
    if dtype in (BF16, F16):
        row = torch.full((1, 96), -1, dtype=torch.int16, device=device).view(dtype)
        assert layer_norm(row, 96).isnan().all()


@pytest.mark.parametrize("device", DEVICES)
def test_float16_overflows_only_where_the_result_does(device):
    x = torch.full((2, 64), 60000.0, device=device, dtype=F16)
    x[:, ::2] = -60000.0  # squares and sums are far beyond float16
    weight = torch.full((64,), 100.0, device=device, dtype=F16)
    y = layer_norm(x, 64, weight)
    torch.testing.assert_close(y.abs(), torch.full_like(y, 100.0))
    assert layer_norm(x, 64, weight * 600, weight * 600)[:, 1].isinf().all()


@pytest.mark.parametrize("device", DEVICES)
def test_a_large_mean_does_not_cancel(device):
    x, weight, bias, grad = made((5, 1024), device=device, offset=1000.0)
    exact, plain = in_float64(x, weight, bias, grad), in_torch(x, weight, bias, grad)
    ours = with_gradients(lambda x, w, b: layer_norm(x, 1024, w, b), x, weight, bias, grad)
    for got, torchs, want in zip(ours, plain, exact, strict=True):
        unit = torch.finfo(F32).eps * want.abs().max().item()
        assert worst_error(got, want) <= 2 * max(worst_error(torchs, want), unit)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("more", [0, 1])  # packs, no packs
def test_long_rows_are_as_accurate_as_short_ones(device, long_row, more):
    columns = long_row + more
    arguments = [t.abs() for t in made((2, columns), device=device)]  # sums that grow with the row
    exact = in_float64(*arguments)
    ours = with_gradients(lambda x, w, b: layer_norm(x, columns, w, b), *arguments)
    for name, got, want in zip(["y", "x", "weight", "bias"], ours, exact, strict=True):
        assert worst_error(got, want) <= 3 * torch.finfo(F32).eps * want.abs().max().item(), name


@pytest.mark.parametrize("device", DEVICES)
def test_roundings_that_do_not_cancel_stay_few(device, long_row):
    """The roundings of a partial sum of two alternating numbers all have the same sign."""
    x = torch.tensor([0.1, 0.7], device=device).repeat(2, long_row // 2)
    exact = F.layer_norm(x.double(), (long_row,))
    assert worst_error(layer_norm(x, long_row), exact) <= 16 * torch.finfo(F32).eps  # of one sum over the row: 1650


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_bits_every_time(device):
    x, weight, bias, grad = made((1000, 96), (BF16, F32, BF16), device)
    first, second = (with_gradients(lambda x, w, b: layer_norm(x, 96, w, b), x, weight, bias, grad) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.not_emulated
def test_result_does_not_depend_on_the_number_of_threads():
    arguments = made((5000, 40))
    all_threads = with_gradients(lambda x, w, b: layer_norm(x, 40, w, b), *arguments)
    with one_thread():
        one = with_gradients(lambda x, w, b: layer_norm(x, 40, w, b), *arguments)
    assert all(torch.equal(a, b) for a, b in zip(one, all_threads, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_kernels_agree_with_the_reference(device, dtypes):
    x, weight, bias, grad = made((6, 50), dtypes, device)
    ours = op.layer_norm(x, weight, bias, 1, 1e-3, dtypes[2])
    torch.testing.assert_close(ours, layer_norm_reference(x, weight, bias, 1, 1e-3, dtypes[2]))
    for need_params in (True, False):
        arguments = (grad, x, *ours[1:], weight, 1, need_params)
        torch.testing.assert_close(op.layer_norm_backward(*arguments), layer_norm_backward_reference(*arguments))


@pytest.mark.parametrize("device", DEVICES)
def test_under_autocast_results_are_16_bit(device):
    x, weight, bias, _ = made((5, 96), device=device)
    with torch.autocast(device, dtype=BF16):
        assert layer_norm(x, 96, weight, bias).dtype == BF16
        assert layer_norm(x.bfloat16(), 96, weight, bias).dtype == BF16
        assert layer_norm(x.half(), 96, weight, bias).dtype == F16
        assert layer_norm(x.double(), 96).dtype == F64
        assert layer_norm(x, 96, weight, bias, dtype=F32).dtype == F32
        leaf = x.clone().requires_grad_()
        layer_norm(leaf, 96, weight, bias).sum().backward()
        assert leaf.grad.dtype == F32
    assert layer_norm(x, 96, weight, bias).dtype == F32


def test_the_kernels_are_loaded_where_the_extension_is_built():
    pytest.importorskip("airank_fast._C")
    for name in ("layer_norm", "layer_norm_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"airank_fast::{name}", "CPU")


ONES = torch.ones(4, 3)
GOOD = {"x": ONES, "weight": ONES[0], "bias": ONES[0], "num_dims": 1, "eps": 1e-5}
WRONG = {
    "x must be float32, float64, bfloat16 or float16, got int64": {"x": ONES.long()},
    "x must be dense, got a sparse tensor": {"x": ONES.to_sparse()},
    "num_dims must be from 1 to the 2 dimensions of x, got 0": {"num_dims": 0},
    "num_dims must be from 1 to the 2 dimensions of x, got 3": {"num_dims": 3},
    "weight must be on cpu, got meta": {"weight": ONES[0].to("meta")},
    "weight must be dense, got a sparse tensor": {"weight": ONES[0].to_sparse()},
    "weight must be float32, got bfloat16": {"weight": ONES[0].bfloat16()},
    "weight must be float16 or float32, got float64": {"x": ONES.half(), "weight": ONES[0].double()},
    "weight must have shape [3], got [4]": {"weight": ONES[:, 0]},
    "weight must have shape [4, 3], got [3]": {"num_dims": 2},
    "bias must be bfloat16, got float32": {"x": ONES.bfloat16(), "weight": ONES[0].bfloat16()},
    "bias must have shape [3], got [1, 3]": {"bias": ONES[:1]},
    "dtype must be float32 or bfloat16 or float16, got float64": {"dtype": F64},
    "dtype must be float64, got float32": {
        "x": ONES.double(),
        "weight": ONES[0].double(),
        "bias": ONES[0].double(),
        "dtype": F32,
    },
}


@pytest.mark.parametrize("function", [op.layer_norm, layer_norm_reference])
@pytest.mark.parametrize(("message", "changes"), WRONG.items(), ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(function, message, changes):
    with pytest.raises(RuntimeError) as caught:
        function(**GOOD | changes)
    assert str(caught.value) == "layer_norm: " + message


GOOD_BACKWARD = {
    "grad": ONES,
    "x": ONES,
    "mean": ONES[:, 0],
    "rstd": ONES[:, 0],
    "weight": ONES[0],
    "num_dims": 1,
    "need_params": True,
}
WRONG_BACKWARD = {
    "grad must be float32 or bfloat16 or float16, got float64": {"grad": ONES.double()},
    "grad must have shape [4, 3], got [3, 4]": {"grad": ONES.T},
    "mean must have shape [4], got [3]": {"mean": ONES[0]},
    "rstd must be float32, got float16": {"rstd": ONES[:, 0].half()},
}


@pytest.mark.parametrize("function", [op.layer_norm_backward, layer_norm_backward_reference])
@pytest.mark.parametrize(("message", "changes"), WRONG_BACKWARD.items(), ids=range(len(WRONG_BACKWARD)))
def test_wrong_arguments_of_the_backward_op(function, message, changes):
    with pytest.raises(RuntimeError) as caught:
        function(**GOOD_BACKWARD | changes)
    assert str(caught.value) == "layer_norm: " + message


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((), "normalized_shape must have at least one dimension, got []"),
        (4, "x must have shape [..., 4], got [4, 3]"),
        ((1, 4, 3), "x must have shape [..., 1, 4, 3], got [4, 3]"),
    ],
)
def test_normalized_shape_must_fit(shape, message):
    with pytest.raises(RuntimeError) as caught:
        layer_norm(ONES, shape)
    assert str(caught.value) == "layer_norm: " + message


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    for dtypes, shape in [((F32, F32, F32), (4, 9)), ((F32, F32, BF16), (3, 8)), ((BF16, F32, BF16), (2, 3, 16))]:
        x, weight, bias, grad = made(shape, dtypes, device)
        leaves = [t.requires_grad_() for t in (x, weight, bias)]
        torch.library.opcheck(op.layer_norm.default, (*leaves, 1, 1e-5, dtypes[2]))
        x, weight = x.detach(), weight.detach()
        _, mean, rstd = op.layer_norm(x, weight, None, 1, 1e-5)
        torch.library.opcheck(op.layer_norm_backward.default, (grad, x, mean, rstd, weight, 1, True))
    torch.library.opcheck(op.layer_norm.default, (x.mT, None, None, 1, 1e-5))


@pytest.mark.parametrize("device", DEVICES)
def test_gradcheck(device):
    leaves = [t.requires_grad_() for t in made((3, 7), (F64, F64, F64), device)[:3]]
    assert torch.autograd.gradcheck(lambda x, w, b: layer_norm(x, 7, w, b), leaves)
    assert torch.autograd.gradcheck(lambda x: layer_norm(x, (3, 7)), leaves[:1])


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_without_graph_breaks(device):
    def step(x, weight, bias):
        with torch.autocast(device, dtype=BF16):
            return layer_norm(x * 2, 96, weight, bias).float() + 1

    arguments = made((5, 96), device=device)
    eager = with_gradients(step, *arguments)
    compiled = with_gradients(torch.compile(step, fullgraph=True, backend="aot_eager"), *arguments)
    for got, want in zip(compiled, eager, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.gpu
def test_captured_forward_and_backward_are_replayed():
    x, weight, bias, grad = made((64, 1024), (BF16, F32, BF16), "cuda")
    with_gradients(lambda x, w, b: layer_norm(x, 1024, w, b), x, weight, bias, grad)  # warm-up
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, mean, rstd = op.layer_norm(x, weight, bias, 1, 1e-5)
        grads = op.layer_norm_backward(grad, x, mean, rstd, weight, 1, True)
    for seed in (1, 2):
        new = made((64, 1024), (BF16, F32, BF16), "cuda", seed=seed)
        for old, value in zip((x, weight, bias, grad), new, strict=True):
            old.copy_(value)
        graph.replay()
        expected = op.layer_norm(x, weight, bias, 1, 1e-5)
        torch.testing.assert_close((y, mean, rstd), expected, rtol=0, atol=0)
        expected = op.layer_norm_backward(grad, x, mean, rstd, weight, 1, True)
        torch.testing.assert_close(grads, expected, rtol=0, atol=0)


@pytest.mark.gpu
def test_runs_on_the_current_stream():
    x, weight, bias, _ = made((4096, 1024), device="cuda")
    expected = layer_norm(x, 1024, weight, bias)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        stream.wait_stream(torch.cuda.default_stream())
        torch.cuda._sleep(10_000_000)
        late = x * 1  # is there only after the sleep
        got = layer_norm(late, 1024, weight, bias)
    torch.cuda.default_stream().wait_stream(stream)
    assert torch.equal(got, expected)
