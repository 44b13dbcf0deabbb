"""airank_fast::dropout_add_layer_norm against float64, against its reference and against wrong arguments, and its mask
against what random numbers must be; on the CPU and, with -m gpu, on CUDA."""

from __future__ import annotations

import math

import pytest
import torch
from ops.threads import one_thread
from torch.nn import functional as F

from airank_fast.ops import dropout_add_layer_norm, layer_norm
from airank_fast.ops.dropout_add_layer_norm import (
    dropout_add_layer_norm_backward_reference,
    dropout_add_layer_norm_reference,
    dropout_mask_reference,
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
# (x, residual, parameters)
DTYPES = [
    (F32, F32, F32),
    (F64, F64, F64),
    (BF16, BF16, BF16),
    (BF16, BF16, F32),
    (BF16, F32, F32),
    (BF16, F32, BF16),
    (F16, F16, F16),
    (F16, F32, F32),
]
SHAPES = [(37, 1), (50, 97), (30, 1023), (3, 10, 1025), (40, 1024), (6, 8200)]
op = torch.ops.airank_fast


def made(shape, dtypes=(F32, F32, F32), device="cpu", seed=0):
    """(x, residual, weight, bias, seed of the mask, gradient of y)."""
    generator = torch.Generator().manual_seed(seed)

    def random(size, dtype, shift=0.0):
        return (torch.randn(size, generator=generator) + shift).to(device, dtype)

    parameters = [random(shape[-1:], dtypes[2], shift) for shift in (1.0, 0.0)]
    mask_seed = torch.tensor([12345 + seed, -(2**62)], device=device)
    return [random(shape, dtypes[0], 0.5), random(shape, dtypes[1]), *parameters, mask_seed, random(shape, dtypes[0])]


def ours(x, residual, weight, bias, seed, p=0.25, **options):
    return dropout_add_layer_norm(x, residual, x.shape[-1:], weight, bias, p=p, seed=seed, **options)


def plain(x, residual, weight, bias, seed, p=0.25):
    """The same with torch's operations in the tensors' dtypes, and the op's mask."""
    kept = dropout_mask_reference(x.shape, seed, p).to(x.dtype) / (1 - p)
    total = x * kept + residual
    if weight.dtype != total.dtype:
        total, weight, bias = total.float(), weight.float(), bias.float()
    return F.layer_norm(total, x.shape[-1:], weight, bias).to(x.dtype)


def with_gradients(function, arguments):
    """[y, grad_x, grad_residual, grad_weight, grad_bias]."""
    *tensors, seed, grad = arguments
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = function(*leaves, seed)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad.to(y.dtype))]


def worst_error(got, exact):
    return (got.double() - exact).abs().max().item() if got.numel() else 0.0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_error_is_at_most_twice_torchs(device, dtypes):
    for shape in SHAPES:
        arguments = made(shape, dtypes, device)
        exact = with_gradients(plain, [t.double() if t.is_floating_point() else t for t in arguments])
        torchs, got = with_gradients(plain, arguments), with_gradients(ours, arguments)
        for name, our, their, want in zip(["y", "x", "residual", "weight", "bias"], got, torchs, exact, strict=True):
            assert (our.dtype, our.shape) == (their.dtype, their.shape)
            if shape[-1] == 1 and name in ("weight", "bias"):  # a single sum, which torch may have exact
                torch.testing.assert_close(our, want.to(our.dtype))
            elif dtypes[0] == F64:  # nothing more exact to compare with
                torch.testing.assert_close(our, want, rtol=1e-12, atol=1e-12)
            else:
                # Torch's sums depend on its threads and may be exact by chance: a unit in the last place is allowed.
                unit = torch.finfo(our.dtype).eps * want.abs().max().item()
                assert worst_error(our, want) <= max(2 * worst_error(their, want), unit), (name, shape)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("p", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dtypes", DTYPES, ids=str)
def test_kernels_agree_with_the_reference(device, dtypes, p):
    x, residual, weight, bias, seed, grad = made((6, 50), dtypes, device)
    arguments = (x, residual, weight, bias, seed if p else None, p, 1, 1e-3)
    y, total, mean, rstd = op.dropout_add_layer_norm(*arguments)
    expected = dropout_add_layer_norm_reference(*arguments)
    torch.testing.assert_close((y, total, mean, rstd), expected)
    for grad_sum in (None, made((6, 50), dtypes, device, seed=1)[1]):
        for need_params in (True, False):
            arguments = (grad, grad_sum, total, mean, rstd, weight, seed if p else None, p, 1, need_params)
            expected = dropout_add_layer_norm_backward_reference(*arguments)
            torch.testing.assert_close(op.dropout_add_layer_norm_backward(*arguments), expected)


def kept_by_kernel(shape, seed, p, device):
    """The mask, read off the sum of dropped ones and zeros."""
    ones, zeros = torch.ones(shape, device=device), torch.zeros(shape, device=device)
    total = op.dropout_add_layer_norm(ones, zeros, None, None, seed, p, 1, 1e-5)[1]
    torch.testing.assert_close(total[total != 0], torch.full_like(total[total != 0], 1 / (1 - p)))
    return total != 0


@pytest.mark.parametrize("device", DEVICES)
def test_mask_is_the_references_for_every_alignment_of_rows(device):
    seed = torch.tensor([-1, 2**62 + 12345], device=device)
    for shape in [(1, 1), (9, 1), (5, 2), (7, 3), (4, 97), (3, 1023), (3, 1024), (2, 1025), (2, 8190)]:
        assert torch.equal(kept_by_kernel(shape, seed, 0.3, device), dropout_mask_reference(shape, seed, 0.3))


@pytest.mark.parametrize("device", DEVICES)
def test_mask_depends_on_position_and_seed_alone(device):
    seed = torch.tensor([1, 2], device=device)
    flat = kept_by_kernel((1, 6000), seed, 0.5, device).flatten()
    assert torch.equal(kept_by_kernel((60, 100), seed, 0.5, device).flatten(), flat)
    assert torch.equal(kept_by_kernel((2, 2000), seed, 0.5, device).flatten(), flat[:4000])
    for other in ([0, 2], [1, 3], [1 + 2**32, 2], [1, 2 + 2**32], [2, 1]):
        different = kept_by_kernel((1, 6000), torch.tensor(other, device=device), 0.5, device).flatten()
        assert 0.4 < (different == flat).float().mean().item() < 0.6


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_mask_is_random(device, p):
    """Rates of kept elements, overall, by column, by place in a counter, of neighbours, within 5 standard errors."""
    rows, columns = 512, 64
    kept = kept_by_kernel((rows, columns), torch.tensor([7, 9], device=device), p, device).double()

    def within(rate, expected, num_samples):
        return (rate - expected).abs().max().item() <= 5 * math.sqrt(expected * (1 - expected) / num_samples)

    assert within(kept.mean(), 1 - p, kept.numel())
    assert within(kept.mean(0), 1 - p, rows)
    assert within(kept.mean(1), 1 - p, columns)
    assert within(kept.view(-1, 4).mean(0), 1 - p, kept.numel() / 4)
    flat = kept.flatten()
    for distance in (1, 2, 4, columns):
        both = flat[:-distance] * flat[distance:]
        assert within(both.mean(), (1 - p) ** 2, both.numel() / 2)


@pytest.mark.parametrize("device", DEVICES)
def test_backward_drops_what_forward_dropped(device):
    x, residual, weight, bias, seed, grad = made((30, 129), device=device)
    x, residual = x.abs() + 1, residual.requires_grad_()
    leaf = x.requires_grad_()
    y, total = ours(leaf, residual, weight, bias, seed, p=0.5, return_sum=True)
    dropped = total == residual
    y.backward(grad)
    assert torch.equal(leaf.grad == 0, dropped)
    torch.testing.assert_close(leaf.grad[~dropped], 2 * residual.grad[~dropped])


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_is_dropped_outside_training(device):
    x, residual, weight, bias, _, _ = made((5, 97), device=device)
    expected = layer_norm(x + residual, 97, weight, bias)
    for options in ({"training": False}, {"p": 0.0}):
        torch.testing.assert_close(dropout_add_layer_norm(x, residual, 97, weight, bias, **options), expected)
    state = torch.get_rng_state()
    dropout_add_layer_norm(x, residual, 97, training=False)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("device", DEVICES)
def test_default_seed_is_torchs(device):
    x, residual, *_ = made((5, 97), device=device)

    def drawn(seed):
        torch.manual_seed(seed)
        return [dropout_add_layer_norm(x, residual, 97, p=0.5) for _ in range(2)]

    first, second = drawn(1)
    assert not torch.equal(first, second)
    assert torch.equal(torch.stack(drawn(1)), torch.stack([first, second]))
    assert not torch.equal(drawn(2)[0], first)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_through_the_sum(device):
    """A network that normalises first uses both results; each alone must work too."""
    x, residual, weight, bias, seed, _ = made((4, 33), (F64, F64, F64), device)
    leaves = [t.requires_grad_() for t in (x, residual, weight, bias)]

    def both(*leaves):
        y, total = ours(*leaves, seed, return_sum=True)
        return y * total

    assert torch.autograd.gradcheck(both, leaves)
    _, total = ours(*leaves, seed, return_sum=True)
    grads = torch.autograd.grad(total.sum(), leaves[:2])
    assert torch.equal(grads[1], torch.ones_like(x))
    assert torch.equal(grads[0] != 0, dropout_mask_reference(x.shape, seed, 0.25))


@pytest.mark.parametrize("device", DEVICES)
def test_gradcheck(device):
    *leaves, seed, _ = made((3, 10), (F64, F64, F64), device)
    leaves = [t.requires_grad_() for t in leaves]
    assert torch.autograd.gradcheck(lambda *leaves: ours(*leaves, seed, p=0.4), leaves)
    assert torch.autograd.gradcheck(lambda x, r: dropout_add_layer_norm(x, r, (3, 10), p=0.4, seed=seed), leaves[:2])


@pytest.mark.parametrize("device", DEVICES)
def test_long_rows_are_as_accurate_as_short_ones(device, long_row):
    *tensors, seed, grad = made((2, long_row), device=device)
    arguments = [*(t.abs() for t in tensors), seed, grad.abs()]  # sums that grow with the row
    exact = with_gradients(plain, [t.double() if t.is_floating_point() else t for t in arguments])
    names = ["y", "x", "residual", "weight", "bias"]
    for name, got, want in zip(names, with_gradients(ours, arguments), exact, strict=True):
        assert worst_error(got, want) <= 3 * torch.finfo(F32).eps * want.abs().max().item(), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(0, 33), (4, 0), (0, 0)])
def test_nothing_to_normalise(device, shape):
    arguments = made(shape, device=device)
    got = with_gradients(ours, arguments)
    assert [tuple(t.shape) for t in got] == [shape] * 3 + [shape[-1:]] * 2
    assert torch.equal(got[3], torch.zeros(shape[-1:], device=device))


@pytest.mark.parametrize("device", DEVICES)
def test_any_strides_and_alignment(device):
    def transposed(t):
        return t.transpose(0, -1).contiguous().transpose(0, -1) if t.dim() > 1 else t

    def unaligned(t):
        return torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape)

    for dtypes in ((F32, F32, F32), (BF16, BF16, F32)):
        arguments = made((6, 96), dtypes, device)
        expected = with_gradients(ours, arguments)
        for view in (transposed, unaligned):
            for got, want in zip(with_gradients(ours, [view(t) for t in arguments]), expected, strict=True):
                # sums in another order may round to the next number of 16 bits
                torch.testing.assert_close(got, want, rtol=2**-7 if got.dtype == BF16 else 1e-6, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_nan_and_inf_propagate(device):
    nan, inf = float("nan"), float("inf")
    x, residual = torch.zeros(4, 96, device=device), torch.zeros(4, 96, device=device)
    x[0, 1], residual[1, 2], x[2, :] = nan, nan, inf  # a dropped infinity is NaN too
    y = dropout_add_layer_norm(x, residual, 96, p=0.5)
    assert y[:3].isnan().all()
    assert torch.equal(y[3], torch.zeros(96, device=device))


@pytest.mark.not_emulated
def test_result_does_not_depend_on_the_number_of_threads():
    arguments = made((5000, 40))
    all_threads = with_gradients(ours, arguments)
    with one_thread():
        one = with_gradients(ours, arguments)
    assert all(torch.equal(a, b) for a, b in zip(one, all_threads, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_under_autocast_results_are_16_bit(device):
    x, residual, weight, bias, seed, _ = made((5, 96), device=device)
    with torch.autocast(device, dtype=BF16):
        y, total = ours(x, residual, weight, bias, seed, return_sum=True)
        assert (y.dtype, total.dtype) == (BF16, F32)
        y, total = ours(x.bfloat16(), residual.bfloat16(), weight, bias, seed, return_sum=True)
        assert (y.dtype, total.dtype) == (BF16, BF16)


def test_the_kernels_are_loaded_where_the_extension_is_built():
    pytest.importorskip("airank_fast._C")
    for name in ("dropout_add_layer_norm", "dropout_add_layer_norm_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"airank_fast::{name}", "CPU")


ONES, SEED = torch.ones(4, 3), torch.tensor([1, 2])
GOOD = {
    "x": ONES,
    "residual": ONES,
    "weight": ONES[0],
    "bias": ONES[0],
    "seed": SEED,
    "p": 0.5,
    "num_dims": 1,
    "eps": 1e-5,
}
WRONG = {
    "x must be float32, float64, bfloat16 or float16, got bool": {"x": ONES.bool()},
    "num_dims must be from 1 to the 2 dimensions of x, got 3": {"num_dims": 3},
    "residual must be on cpu, got meta": {"residual": ONES.to("meta")},
    "residual must have shape [4, 3], got [3]": {"residual": ONES[0]},
    "residual must be float32, got bfloat16": {"residual": ONES.bfloat16()},
    "residual must be bfloat16 or float32, got float16": {"x": ONES.bfloat16(), "residual": ONES.half()},
    "weight must have shape [3], got [4]": {"weight": ONES[:, 0]},
    "bias must be float32, got float64": {"bias": ONES[0].double()},
    "p must be from 0 to 1, got 1.5": {"p": 1.5},
    "p must be from 0 to 1, got nan": {"p": float("nan")},
    "seed must be given where p > 0, and only there, got no seed with p = 0.5": {"seed": None},
    "seed must be given where p > 0, and only there, got a seed with p = 0": {"p": 0.0},
    "seed must be int64, got int32": {"seed": SEED.int()},
    "seed must have shape [2], got [1]": {"seed": SEED[:1]},
}


@pytest.mark.parametrize("function", [op.dropout_add_layer_norm, dropout_add_layer_norm_reference])
@pytest.mark.parametrize(("message", "changes"), WRONG.items(), ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(function, message, changes):
    with pytest.raises(RuntimeError) as caught:
        function(**GOOD | changes)
    assert str(caught.value) == "dropout_add_layer_norm: " + message


GOOD_BACKWARD = {
    "grad": ONES,
    "grad_sum": ONES,
    "sum": ONES,
    "mean": ONES[:, 0],
    "rstd": ONES[:, 0],
    "weight": ONES[0],
    "seed": SEED,
    "p": 0.5,
    "num_dims": 1,
    "need_params": True,
}
WRONG_BACKWARD = {
    "sum must have shape [4, 3], got [3, 4]": {"sum": ONES.T},
    "grad_sum must be float32, got float16": {"grad_sum": ONES.half()},
    "mean must have shape [4], got [3]": {"mean": ONES[0]},
    "rstd must be float32, got float64": {"rstd": ONES[:, 0].double()},
    "seed must be int64, got float32": {"seed": ONES[0, :2]},
}


@pytest.mark.parametrize("function", [op.dropout_add_layer_norm_backward, dropout_add_layer_norm_backward_reference])
@pytest.mark.parametrize(("message", "changes"), WRONG_BACKWARD.items(), ids=range(len(WRONG_BACKWARD)))
def test_wrong_arguments_of_the_backward_op(function, message, changes):
    with pytest.raises(RuntimeError) as caught:
        function(*(GOOD_BACKWARD | changes).values())
    assert str(caught.value) == "dropout_add_layer_norm: " + message


def test_wrong_arguments_of_the_function():
    with pytest.raises(RuntimeError) as caught:
        dropout_add_layer_norm(ONES, ONES, 4)
    assert str(caught.value) == "dropout_add_layer_norm: x must have shape [..., 4], got [4, 3]"
    with pytest.raises(RuntimeError) as caught:
        dropout_add_layer_norm(ONES, ONES, 3, p=-0.1, training=False)
    assert str(caught.value) == "dropout_add_layer_norm: p must be from 0 to 1, got -0.1"


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    for dtypes in [(F32, F32, F32), (BF16, F32, F32)]:
        *tensors, seed, grad = made((4, 9), dtypes, device)
        leaves = [t.requires_grad_() for t in tensors]
        torch.library.opcheck(op.dropout_add_layer_norm.default, (*leaves, seed, 0.5, 1, 1e-5))
        x, residual, weight, _ = (t.detach() for t in leaves)
        _, total, mean, rstd = op.dropout_add_layer_norm(x, residual, weight, None, None, 0.0, 1, 1e-5)
        for grad_sum, extra in ((None, (seed, 0.5)), (residual, (None, 0.0))):
            arguments = (grad, grad_sum, total, mean, rstd, weight, *extra, 1, True)
            torch.library.opcheck(op.dropout_add_layer_norm_backward.default, arguments)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_without_graph_breaks(device):
    def step(x, residual, weight, bias, seed):
        y, total = ours(x * 2, residual, weight, bias, seed, return_sum=True)
        return y * total

    arguments = made((5, 96), device=device)
    eager = with_gradients(step, arguments)
    compiled = with_gradients(torch.compile(step, fullgraph=True, backend="aot_eager"), arguments)
    for got, want in zip(compiled, eager, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    # With the seed drawn inside.
    drawn = torch.compile(lambda x: dropout_add_layer_norm(x, x, 96), fullgraph=True, backend="aot_eager")
    assert drawn(arguments[0]).isfinite().all()


@pytest.mark.gpu
def test_captured_step_drops_other_elements_at_each_replay():
    x, residual, weight, bias, _, grad = made((64, 1024), (BF16, BF16, F32), "cuda")
    ours(x, residual, weight, bias, None)  # warm-up
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        seed = torch.randint(-(2**63), 2**63 - 1, (2,), device="cuda")
        y, total, mean, rstd = op.dropout_add_layer_norm(x, residual, weight, bias, seed, 0.5, 1, 1e-5)
        grads = op.dropout_add_layer_norm_backward(grad, None, total, mean, rstd, weight, seed, 0.5, 1, True)
    seen = []
    for _ in range(2):
        graph.replay()
        seen.append(total.clone())
        expected = op.dropout_add_layer_norm(x, residual, weight, bias, seed, 0.5, 1, 1e-5)
        torch.testing.assert_close((y, total, mean, rstd), expected, rtol=0, atol=0)
        arguments = (grad, None, total, mean, rstd, weight, seed, 0.5, 1, True)
        torch.testing.assert_close(grads, op.dropout_add_layer_norm_backward(*arguments), rtol=0, atol=0)
    assert not torch.equal(*seen)


@pytest.mark.gpu
def test_runs_on_the_current_stream_and_does_not_wait():
    x, residual, weight, bias, seed, _ = made((4096, 1024), device="cuda")
    expected = ours(x, residual, weight, bias, seed)
    stream = torch.cuda.Stream()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            stream.wait_stream(torch.cuda.default_stream())
            torch.cuda._sleep(10_000_000)
            late = x * 1  # is there only after the sleep
            got = ours(late, residual, weight, bias, seed)
            dropout_add_layer_norm(late, residual, 1024)
        torch.cuda.default_stream().wait_stream(stream)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(got, expected)
