"""airank_fast::batch_norm_* against float64, torch's batch norm, their references, and wrong arguments; on the CPU and,
with -m gpu, on CUDA. Rule: at most twice the error of plain torch in the same dtype."""

from __future__ import annotations

import pytest
import torch
from ops.batch_norm_wrong import GOOD, REFERENCES, STATISTICS, WRONG, X, nhwc
from ops.threads import one_thread
from torch.nn import functional as F

from airank_fast.ops import batch_norm_act as act
from airank_fast.ops import batch_norm_finish_, batch_norm_moments, batch_norm_statistics_
from airank_fast.ops.batch_norm_act import (
    act_reference,
    backward_reference,
    finish_reference,
    moments_reference,
    statistics_reference,
    sums_reference,
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
# Each with statistics of the batch or fixed ones.
SHAPES = [
    ((1, 97, 13, 21), True),
    ((2, 1, 3, 5), True),
    ((41, 5, 5, 5), False),
    ((12, 1023, 1, 1), True),
    ((2, 1025, 5, 1), False),
    ((64, 64, 2, 2), True),
    ((11, 64, 3, 3), False),
]
EPS, SLOPE = 1e-5, 0.1
ops = torch.ops.airank_fast


def wide(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


def made(shape, dtype, device="cpu", mean=0.0, std=1.0):
    """x, residual, dy and weight, bias."""
    x, residual, dy = (nhwc(*shape, dtype=dtype, device=device, seed=i) for i in range(3))
    x = nhwc(*shape, dtype=dtype, device=device, mean=mean, std=std)
    weight, bias = (nhwc(1, shape[1], 1, 1, seed=i).flatten().to(device, wide(dtype)) for i in (3, 4))
    return x, residual, dy, weight, bias


def fixed(mean, var):
    """Statistics that are no functions of x."""
    return torch.cat([mean, (var + EPS).rsqrt()])


def ours(x, residual, dy, weight, bias, activation="relu", training=True):
    """Output, gradients of x, residual, weight and bias, running mean and variance."""
    running = [3 + weight, 1 + bias.square()]
    statistics = batch_norm_statistics_(x, *running, None, 0.1, EPS) if training else fixed(*running)
    leaves = [None if t is None else t.clone().requires_grad_() for t in (x, residual, weight, bias)]
    y = act(*leaves, statistics, activation=activation, negative_slope=SLOPE)
    y.backward(dy)
    return [y.detach(), *(leaf.grad for leaf in leaves if leaf is not None), *running]


def torchs(x, residual, dy, weight, bias, activation=None, training=True, passes=None):
    """The same of torch. `passes` is the activation's mask, so that elements next to zero do not count as errors."""
    running = [3 + weight, 1 + bias.square()]
    leaves = [None if t is None else t.clone().requires_grad_() for t in (x, residual, weight, bias)]
    y = F.batch_norm(leaves[0], *running, *leaves[2:], training=training, momentum=0.1, eps=EPS)
    if residual is not None:
        y = y + leaves[1]
    if activation is not None:
        y = torch.where(passes, y, y * SLOPE if activation == "leaky_relu" else 0)
    y.backward(dy)
    return [y.detach(), *(leaf.grad for leaf in leaves if leaf is not None), *running]


def error(got, exact):
    return (got.double() - exact).abs().max().item()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("with_residual", "activation"), [(False, None), (True, None), (True, "relu"), (False, "leaky_relu")]
)
@pytest.mark.parametrize(("shape", "training"), SHAPES, ids=str)
def test_error_is_at_most_twice_torchs(device, dtype, with_residual, activation, shape, training):
    x, residual, dy, weight, bias = made(shape, dtype, device, mean=3.0, std=2.0)
    arguments = (x, residual if with_residual else None, dy, weight, bias)
    got = ours(*arguments, activation, training)
    # Where z is nearly zero, either may pass the activation without an error.
    plain = torchs(*arguments, activation, training, got[0] > 0)
    exact = torchs(*(t if t is None else t.double() for t in arguments), activation, training, got[0] > 0)
    for a, b, c in zip(got, plain, exact, strict=True):
        # Where torch has no error by chance, as of the mean of one channel, one or two roundings are allowed.
        rounding = torch.finfo(wide(dtype)).eps * (1 + c.abs().max().item())
        assert error(a, c) <= 2 * error(b, c) + (2 if dtype != torch.float64 else 40) * rounding


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(8, 64, 16, 16), (40, 24, 1, 1)], ids=str)
def test_a_mean_far_larger_than_the_deviation(device, shape):
    x, _, dy, weight, bias = made(shape, torch.float32, device, mean=1000.0)
    got, plain = (f(x, None, dy, weight, bias, None) for f in (ours, torchs))
    exact = torchs(*(t if t is None else t.double() for t in (x, None, dy, weight, bias)))
    for a, b, c in zip(got, plain, exact, strict=True):
        assert error(a, c) <= 2 * error(b, c) + 1e-6 * c.abs().max().item()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_agree_with_references_part_by_part(device, dtype):
    x, residual, dy, weight, bias = made((3, 77, 9, 5), dtype, device, mean=1.0)
    narrow = {torch.bfloat16: 2e-2, torch.float16: 2e-3}.get(dtype, 1e-5)

    def close(a, b, tolerance=1e-5):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)

    moments, statistics = (
        op(x, *rest) for op, rest in ((batch_norm_moments, []), (batch_norm_statistics_, [None, None, None, 0.1, EPS]))
    )
    close(moments, moments_reference(x))
    close(statistics, statistics_reference(x, None, None, None, 0.1, EPS))
    for z, slope, with_mask in (None, 0.0, True), (residual, SLOPE, True), (residual, 0.0, False), (None, SLOPE, False):
        y, mask = ops.batch_norm_act(x, z, weight, bias, statistics, slope, with_mask)
        expected, passed = act_reference(x, z, weight, bias, statistics, slope, with_mask)
        close(y, expected, narrow)
        assert (mask != passed).sum() <= 1  # z within rounding of zero
        assert y.stride() == x.stride()
        if not with_mask:
            continue
        sums = ops.batch_norm_act_sums(dy, x, mask, statistics, slope)
        close(sums, sums_reference(dy, x, mask, statistics, slope), 1e-4)
        for of_x in ((x, statistics, sums), (None, statistics[:-1], None)):
            arguments = (dy, of_x[0], mask, weight, *of_x[1:], slope, z is not None)
            for a, b in zip(ops.batch_norm_act_backward(*arguments), backward_reference(*arguments), strict=True):
                close(a, b, narrow)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("finish", [batch_norm_finish_, finish_reference])
def test_moments_of_parts_combine_to_those_of_the_whole(device, finish):
    x = nhwc(8, 13, 3, 3, device=device, mean=5.0)
    parts = torch.stack([batch_norm_moments(part) for part in (x[:1], x[1:4], x[4:4], x[4:])])
    whole = finish(parts, None, None, None, 0.1, EPS)
    torch.testing.assert_close(whole, statistics_reference(x, None, None, None, 0.1, EPS), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("momentum", [0.1, 1.0, 0.0, None])
@pytest.mark.parametrize("step", [batch_norm_statistics_, statistics_reference])
def test_running_statistics_are_torchs(device, momentum, step):
    bn = torch.nn.BatchNorm2d(7, momentum=momentum, device=device)
    mean, var = bn.running_mean.clone(), bn.running_var.clone()
    count = bn.num_batches_tracked.clone()
    for seed in range(3):
        x = nhwc(3, 7, 2, 2, device=device, seed=seed, mean=2.0)
        bn(x)
        step(x, mean, var, count, momentum, EPS)
    torch.testing.assert_close(mean, bn.running_mean)
    torch.testing.assert_close(var, bn.running_var)
    assert count == 3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_nan_and_inf_stay_in_their_channel_or_element(device, activation):
    x = nhwc(40, 3, 2, 2, device=device)
    x[5, 0, 0, 0], x[6, 1, 1, 1], x[7, 1, 1, 1] = float("nan"), float("inf"), -float("inf")
    statistics = batch_norm_statistics_(x, None, None, None, 0.1, EPS)
    y = act(x, None, None, None, statistics, activation=activation)
    assert y[:, :2].isnan().all()
    assert y[:, 2].isfinite().all()
    dy = x.flip(0).nan_to_num(posinf=torch.inf, neginf=-torch.inf)
    leaf, torchs_leaf = (x.clone().requires_grad_() for _ in range(2))
    statistics = torch.tensor([0.0, 0, 0, 1, 1, 1], device=device)
    y = act(leaf, None, None, None, statistics, activation=activation, negative_slope=SLOPE)
    y.backward(dy)
    expected = F.relu(torchs_leaf) if activation == "relu" else F.leaky_relu(torchs_leaf, SLOPE)
    expected.backward(dy)
    torch.testing.assert_close(y, expected, equal_nan=True)
    numbers = ~x.isnan()
    torch.testing.assert_close(leaf.grad[numbers], torchs_leaf.grad[numbers])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 4, 2, 2), (3, 0, 2, 2)])
def test_empty(device, dtype, shape):
    x, residual, dy, weight, bias = made(shape, dtype, device)
    for training in (True, False):
        got = ours(x, residual, dy, weight, bias, training=training)
        assert got[0].shape == got[1].shape == shape
        assert not got[3].any()
        assert not got[4].any()
        assert torch.equal(got[5], 3 + weight)
        assert torch.equal(got[6], 1 + bias.square())


@pytest.mark.parametrize("device", DEVICES)
def test_what_is_kept_of_x(device):
    """With fixed statistics nothing but the activation's bits, unless the weight has a gradient."""
    x, residual, dy, weight, bias = made((3, 8, 5, 2), torch.float32, device)
    for trained in (False, True):
        leaves = x.clone().requires_grad_(), residual.clone().requires_grad_()
        kept = []

        def keep(tensor, kept=kept):
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            y = act(
                *leaves, weight.requires_grad_(trained), bias, fixed(bias, weight.detach().square()), activation="relu"
            )
        y.backward(dy)
        assert (x.shape in [t.shape for t in kept]) == trained
        assert {t.dtype for t in kept} == {torch.float32, torch.uint8}
        dz = torch.where(y > 0, dy, 0)
        torch.testing.assert_close(leaves[1].grad, dz)
        scale = weight.detach() / (weight.detach().square() + EPS).sqrt()
        torch.testing.assert_close(leaves[0].grad, dz * scale[:, None, None])


def test_result_does_not_depend_on_the_number_of_threads():
    arguments = made((5, 70, 31, 31), torch.float32)
    all_threads = ours(*arguments)
    with one_thread():
        one = ours(*arguments)
    torch.testing.assert_close(one, all_threads, rtol=0, atol=0)


def test_the_kernels_are_loaded_where_the_extension_is_built():
    pytest.importorskip("airank_fast._C")
    for name in ("moments", "finish_", "statistics_", "act", "act_sums", "act_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"airank_fast::batch_norm_{name}", "CPU")


@pytest.mark.parametrize("device", DEVICES)
def test_views_that_are_not_aligned(device):
    arguments = made((2, 64, 3, 3), torch.bfloat16, device)
    shifted = []
    for tensor in arguments:
        memory = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device=device)[1:]
        shifted.append(memory.as_strided(tensor.shape, tensor.stride(), memory.storage_offset()).copy_(tensor))
    for a, b in zip(ours(*arguments), ours(*shifted), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("of", ["kernel", "reference"])
@pytest.mark.parametrize(("op", "changes", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(of, op, changes, message):
    call = REFERENCES[op] if of == "reference" else getattr(ops, f"batch_norm_{op}")
    with pytest.raises(RuntimeError) as caught:
        call(**(GOOD[op] | changes))
    assert str(caught.value) == f"batch_norm_{op}: {message}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("op", "changes"),
    [*((op, {}) for op in GOOD), ("act_backward", {"x": None, "statistics": torch.ones(8), "sums": None})],
)
def test_opcheck(device, op, changes):
    arguments = GOOD[op] | changes
    arguments = {k: v.clone().to(device) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    torch.library.opcheck(getattr(ops, f"batch_norm_{op}").default, (), arguments)


def test_activations_that_do_not_exist():
    with pytest.raises(
        ValueError, match=r"^batch_norm_act: activation must be None, 'relu' or 'leaky_relu', got 'gelu'$"
    ):
        act(X, None, None, None, STATISTICS, activation="gelu")
    for slope in (0.0, -0.1, torch.inf, torch.nan):
        required = r"negative_slope must be above 0 and finite \(0 is activation 'relu'\)"
        with pytest.raises(ValueError, match=f"^batch_norm_act: {required}, got {slope}$"):
            act(X, None, None, None, STATISTICS, activation="leaky_relu", negative_slope=slope)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("activation", "training"), [(None, True), ("relu", True), ("leaky_relu", True), ("leaky_relu", False)]
)
def test_gradcheck(device, activation, training):
    x, residual, _, weight, bias = (t.requires_grad_() for t in made((3, 5, 2, 2), torch.float64, device))
    of_running = fixed(bias.detach(), weight.detach().square())

    def function(x, residual, weight, bias):
        statistics = batch_norm_statistics_(x.detach(), None, None, None, 0.1, EPS) if training else of_running
        return act(x, residual, weight, bias, statistics, activation=activation)

    assert torch.autograd.gradcheck(function, (x, residual, weight, bias))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_without_graph_breaks(device):
    def step(x, residual, weight, bias, running_mean, running_var, count):
        statistics = batch_norm_statistics_((2 * x).detach(), running_mean, running_var, count, 0.1, EPS)
        return act(2 * x, residual, weight, bias, statistics, activation="relu").sum()

    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        x, residual, _, weight, bias = made((2, 8, 3, 3), torch.float32, device)
        leaves = [t.requires_grad_() for t in (x, residual, weight, bias)]
        running = torch.zeros(8, device=device), torch.ones(8, device=device), torch.tensor(0, device=device)
        loss = function(*leaves, *running)
        loss.backward()
        results.append([loss, *running, *(leaf.grad for leaf in leaves)])
    torch.testing.assert_close(*results)


@pytest.mark.gpu
def test_capture_and_replay_on_another_stream():
    x, residual, dy, weight, bias = made((4, 64, 7, 7), torch.bfloat16, "cuda")
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        ours(x, residual, dy, weight, bias)  # warm-up
        with torch.cuda.graph(graph, stream=stream):
            captured = ours(x, residual, dy, weight, bias)
        for seed in (7, 8):
            x.copy_(nhwc(4, 64, 7, 7, dtype=x.dtype, device="cuda", seed=seed))
            graph.replay()
            for a, b in zip(captured, ours(x, residual, dy, weight, bias), strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_results_past_the_cache_have_the_bits_of_small_ones(dtype):
    generator = torch.Generator().manual_seed(0)
    x, residual, dy = (  # 6 MB and more, and a group that is not whole at the end
        torch.randn(52, 64, 31, 31, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)
        for _ in range(3)
    )
    wide = torch.promote_types(dtype, torch.float32)
    weight, bias = torch.randn(2, 64, generator=generator, dtype=wide)
    statistics = torch.cat([torch.randn(64, generator=generator), torch.rand(65, generator=generator) + 0.5]).to(wide)
    sums = torch.randn(2, 64, generator=generator).to(wide)

    def run(part):
        y, mask = ops.batch_norm_act(x[part], residual[part], weight, bias, statistics, 0.0, True, "")
        dx, dresidual = ops.batch_norm_act_backward(dy[part], x[part], mask, weight, statistics, sums, 0.0, True)
        fixed = ops.batch_norm_act_backward(dy[part], None, mask, weight, statistics[:-1], None, 0.0, True)
        return y, dx, dresidual, *fixed

    whole = run(slice(None))
    assert whole[0].nbytes > 6e6
    parts = [run(slice(first, first + 4)) for first in range(0, 52, 4)]
    for got, expected in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(got, torch.cat(expected))
