"""airank_fast::lars_ against float64, against its reference, and against wrong arguments; on the CPU and, with
-m gpu, on CUDA. Rule: at most twice the error of plain torch in the same dtype."""

from __future__ import annotations

import pytest
import torch
from ops.tensor_lists import (
    COPY_DTYPES,
    DEVICES,
    DTYPES,
    HALF,
    LAYOUTS,
    SIZES,
    WRONG_FOR_ALL,
    assert_twice_the_error_at_most,
    assert_written_copies_are_where_a_step_begins,
    cloned,
    copies_of,
    not_aligned,
    random_lists,
    strided,
    three,
)
from ops.threads import one_thread

from airank_fast.ops import lars_
from airank_fast.ops.lars import lars_reference

PLAIN = {"momentum": 0.9, "weight_decay": 0.1, "trust_coefficient": 0.01}
OPTIONS = {
    "plain": {},
    "decay": {"weight_decay": 0.1, "eps": 0.5},
    "momentum": PLAIN,
    "nesterov": PLAIN | {"nesterov": True},
    "not adapted": PLAIN | {"adapt": False},
}


def made(device="cpu", param_dtype=torch.float32, grad_dtype=None, copy_dtype=None, momentum=0.9, sizes=SIZES):
    """Arguments of the op: four lists and lr, of random numbers."""
    dtypes = (param_dtype, grad_dtype or param_dtype, param_dtype if momentum else None)
    lists = random_lists(device, sizes, *dtypes)
    return [*lists, copies_of(lists[0], copy_dtype), torch.tensor(7.0, device=device)]


def in_float64(arguments, options):
    """(params, velocities) after a step in float64."""
    lists = [[t.to(torch.float64, copy=True) for t in part] for part in arguments[:3]]
    lars_reference(*lists, [], arguments[4].double(), **options)
    return lists[0], lists[2]


def python_step(arguments, options):
    """(params, velocities) after a step in plain torch, in the parameters' dtype; MLPerf's formula, written out."""
    params, grads, velocities, _, lr = cloned(arguments)
    o = {"momentum": 0, "weight_decay": 0, "trust_coefficient": 0.001, "eps": 0, "nesterov": False} | options
    for i, w in enumerate(params):
        g = grads[i].to(w.dtype)
        trust = 1.0
        if options.get("adapt", True) and w.numel():
            w_norm, g_norm = w.norm(), g.norm()
            trust = o["trust_coefficient"] * w_norm / (g_norm + o["weight_decay"] * w_norm + o["eps"])
        d = lr.item() * trust * (g + o["weight_decay"] * w)
        if not o["momentum"]:
            w.sub_(d)
            continue
        velocities[i].mul_(o["momentum"]).sub_(d)
        w.add_(velocities[i] * o["momentum"] - d if o["nesterov"] else velocities[i])
    return params, velocities


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize(("param_dtype", "grad_dtype"), DTYPES)
def test_error_is_at_most_twice_that_of_plain_torch(device, options, param_dtype, grad_dtype):
    arguments = made(device, param_dtype, grad_dtype, momentum=options.get("momentum"))
    exact = in_float64(arguments, options)
    plain = python_step(arguments, options)
    ours = cloned(arguments)
    lars_(*ours, **options)
    for got, theirs, expected in zip((ours[0], ours[2]), plain, exact, strict=True):
        assert_twice_the_error_at_most(got, theirs, expected)
    torch.testing.assert_close(ours[1], arguments[1], rtol=0, atol=0)  # gradients are only read


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("step", [lars_, lars_reference])
def test_trust_ratio_of_zero_parameters_and_of_zero_gradients_is_one(device, step):
    zero, one = torch.zeros(4, device=device), torch.ones(4, device=device)
    params, velocities = [zero.clone(), one.clone(), one.clone()], [zero.clone() for _ in range(3)]
    lr = torch.tensor(0.5, device=device)
    step(params, [one, zero, 2 * one], velocities, [], lr, momentum=0.9, weight_decay=0.5, trust_coefficient=0.25)
    assert params[0].tolist() == [-0.5] * 4
    assert params[1].tolist() == [0.75] * 4  # decay alone: 1 - 0.5 * (0 + 0.5 * 1)
    trust = 0.25 * 2 / (4 + 0.5 * 2)
    torch.testing.assert_close(params[2], one - 0.5 * trust * 2.5)
    assert torch.equal(velocities[0], -0.5 * one)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("grad_dtype", "copy_dtype"), COPY_DTYPES)
def test_copies_are_the_parameters_rounded(device, grad_dtype, copy_dtype):
    arguments = made(device, grad_dtype=grad_dtype, copy_dtype=copy_dtype)
    lars_(*arguments, **PLAIN)
    for param, copy in zip(arguments[0], arguments[3], strict=True):
        assert torch.equal(copy, param.to(copy_dtype))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("step", [lars_, lars_reference])
@pytest.mark.parametrize("copy_dtype", [torch.bfloat16, torch.float16])
def test_weights_written_into_copies_are_where_the_step_begins(device, step, copy_dtype):
    assert_written_copies_are_where_a_step_begins(step, made(device, copy_dtype=copy_dtype), 3, **PLAIN)


@pytest.mark.parametrize("device", DEVICES)
def test_nan_and_inf_propagate(device):
    nan, inf = float("nan"), float("inf")
    param = torch.tensor([1.0, 1.0, inf, nan, 1.0], device=device)
    grad = torch.tensor([nan, inf, 1.0, 1.0, 1.0], device=device)
    velocity, copy = torch.zeros_like(param), param.bfloat16()
    lr = torch.tensor(1.0, device=device)
    lars_([param], [grad], [velocity], [copy], lr, momentum=0.9, adapt=False)
    expected = torch.tensor([nan, -inf, inf, nan, 0.0], device=device)
    torch.testing.assert_close(param, expected, equal_nan=True)
    torch.testing.assert_close(copy.float(), expected, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("step", [lars_, lars_reference])
def test_grad_scale_divides_and_found_inf_writes_nothing(device, step):
    arguments = made(device, grad_dtype=torch.float16, copy_dtype=torch.float16)
    unscaled, scaled, skipped = cloned(arguments), cloned(arguments), cloned(arguments)
    scaled[1] = [g * 4 for g in scaled[1]]
    four, zero = torch.full((1,), 4.0, device=device), torch.zeros(1, device=device)
    lars_(*unscaled, **PLAIN)
    # The reference divides each gradient before it takes the norm, the kernel the norm: the same except for rounding.
    step(*scaled, **PLAIN, grad_scale=four, found_inf=zero)
    step(*skipped, **PLAIN, grad_scale=four, found_inf=zero + 1)
    for part in (0, 2, 3):
        torch.testing.assert_close(scaled[part], unscaled[part])
    torch.testing.assert_close(skipped[:4], arguments[:4], rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("param_layout", LAYOUTS)
def test_any_strides(device, param_layout, grad_layout):
    def lists(param, grad):
        return [
            [strided(param, 1, device=device)],
            [strided(grad, 2, device=device)],
            [strided(param, 3, device=device)],
            [strided(grad, 4, torch.bfloat16, device)],
            torch.tensor(0.1, device=device),
        ]

    ours, expected = lists(param_layout, grad_layout), lists("contiguous", "contiguous")
    strides = [ours[i][0].stride() for i in range(4)]
    lars_(*ours, **PLAIN)
    lars_(*expected, **PLAIN)
    for got, want in zip(ours[:4], expected[:4], strict=True):
        torch.testing.assert_close(got[0], want[0])  # the order of a norm's sum follows memory
    assert strides == [ours[i][0].stride() for i in range(4)]


def test_the_kernel_is_loaded_where_the_extension_is_built():
    pytest.importorskip("airank_fast._C")
    assert torch._C._dispatch_has_kernel_for_dispatch_key("airank_fast::lars_", "CPU")


def test_result_does_not_depend_on_the_number_of_threads():
    arguments = made(sizes=[100_003, 5, 70_001, 1_100_000], copy_dtype=torch.bfloat16)
    one, all_threads = cloned(arguments), cloned(arguments)
    lars_(*all_threads, **PLAIN)
    with one_thread():
        lars_(*one, **PLAIN)
    torch.testing.assert_close(one[:4], all_threads[:4], rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_more_tensors_than_one_launch_holds(device):
    arguments = made(device, sizes=[i % 7 for i in range(1200)], copy_dtype=torch.bfloat16)
    expected = cloned(arguments)
    lars_(*arguments, **PLAIN)
    lars_reference(*expected, **PLAIN)
    torch.testing.assert_close(arguments[:3], expected[:3])


def test_views_that_are_not_aligned():
    flat = made(sizes=[2001, 2001], copy_dtype=torch.bfloat16)
    odd = not_aligned(flat)
    lars_(*flat, **PLAIN)
    lars_(*odd, **PLAIN)
    torch.testing.assert_close(flat[:4], odd[:4])


@pytest.mark.parametrize("step", [lars_, lars_reference])
def test_empty_lists_and_empty_tensors(step):
    step([], [], [], [], torch.tensor(0.1), **PLAIN)
    step([torch.empty(0, 3)], [torch.empty(0, 3)], [torch.empty(0, 3)], [], torch.tensor(0.1), **PLAIN)


def wrong(**changes):
    """Keyword arguments of the op for three tensors of [4, 3], with changes."""
    good = {
        "params": three(),
        "grads": three(),
        "velocities": three(),
        "copies": [],
        "lr": torch.tensor(0.1),
        "momentum": 0.9,
    }
    return good | changes


WRONG = WRONG_FOR_ALL | {
    "velocities must be float32, got float16": {"velocities": [HALF] * 3},
    "velocities must have as many tensors as params (3), got 0": {"velocities": []},
    "velocities must be empty without momentum, got 3": {"momentum": 0.0},
}


@pytest.mark.parametrize("step", [lars_, lars_reference])
@pytest.mark.parametrize(("message", "changes"), WRONG.items(), ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(step, message, changes):
    with pytest.raises(RuntimeError) as caught:
        step(**wrong(**changes))
    assert str(caught.value) == "lars: " + message


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", [{}, PLAIN], ids=["plain", "momentum"])
def test_opcheck(device, options):
    arguments = made(device, momentum=options.get("momentum"), sizes=[5, 0, 33], copy_dtype=torch.bfloat16)
    torch.library.opcheck(torch.ops.airank_fast.lars_.default, tuple(arguments), options)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_without_graph_breaks(device):
    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(params, grads, velocities, copies, lr):
        lars_(params, [g * 2 for g in grads], velocities, copies, lr, **PLAIN)
        return params[1] + 1

    compiled, eager = (made(device, sizes=[5, 7], copy_dtype=torch.bfloat16) for _ in range(2))
    returned = step(*compiled)
    lars_(eager[0], [g * 2 for g in eager[1]], *eager[2:], **PLAIN)
    for got, want in zip(compiled[:4], eager[:4], strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert torch.equal(returned, eager[0][1] + 1)


@pytest.mark.gpu
@pytest.mark.parametrize("stream", ["default", "other"])
def test_captured_step_sees_new_scalars(stream):
    arguments = made("cuda", copy_dtype=torch.bfloat16)
    expected = cloned(arguments)
    scale, found_inf = torch.ones((), device="cuda"), torch.zeros((), device="cuda")
    with torch.cuda.stream(torch.cuda.current_stream() if stream == "default" else torch.cuda.Stream()):
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            lars_(*arguments, **PLAIN, grad_scale=scale, found_inf=found_inf)
        for lr, skip in [(0.1, 0), (0.5, 0), (0.2, 1), (0.3, 0)]:
            arguments[4].fill_(lr)
            found_inf.fill_(skip)
            scale.fill_(1 + lr)
            graph.replay()
            lars_reference(*expected[:4], arguments[4], **PLAIN, grad_scale=scale, found_inf=found_inf)
        torch.testing.assert_close(arguments[0], expected[0])
        torch.cuda.synchronize()
