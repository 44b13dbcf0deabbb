"""airank_fast::lamb_ against float64, against its reference, and against wrong arguments; on the CPU and, with
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
    ONES,
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

from airank_fast.ops import global_norm, lamb_
from airank_fast.ops.lamb import lamb_reference

OPTIONS = {
    "plain": {},
    "no decay": {"weight_decay": 0.0},
    "nvlamb": {"weight_decay": 0.0, "use_nvlamb": True},
    "decay in gradient": {"adam_w_mode": False, "weight_decay": 0.1},
    "no averaging": {"grad_averaging": False, "beta1": 0.5},
    "no correction": {"bias_correction": False},
}
NUM_LISTS = 5


def made(device="cpu", param_dtype=torch.float32, grad_dtype=None, copy_dtype=None, sizes=SIZES):
    """Arguments of the op: five lists, lr and step, as after two steps of training."""
    moment_dtype = torch.promote_types(param_dtype, torch.float32)
    dtypes = (param_dtype, grad_dtype or param_dtype, moment_dtype, moment_dtype)
    params, grads, moments, roots = random_lists(device, sizes, *dtypes)
    return [
        params,
        grads,
        [0.1 * t for t in moments],
        [(0.1 * t).square() for t in roots],
        copies_of(params, copy_dtype),
        torch.tensor(0.01, device=device),
        torch.tensor(3.0, device=device),
    ]


def in_float64(arguments, options):
    """(params, exp_avgs, exp_avg_sqs) after a step in float64."""
    lists = [[t.to(torch.float64, copy=True) for t in part] for part in arguments[:4]]
    lamb_reference(*lists, [], arguments[5].double(), arguments[6].double(), **options)
    return lists[0], lists[2], lists[3]


def python_step(arguments, options):
    """(params, exp_avgs, exp_avg_sqs) after a step written in plain torch, in the parameters' dtype throughout."""
    params, grads, ms, vs, _, lr, step = cloned(arguments)
    o = {
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-6,
        "weight_decay": 0.01,
        "adam_w_mode": True,
        "grad_averaging": True,
        "use_nvlamb": False,
        "bias_correction": True,
    } | options
    correction1, correction2 = (1 - o[b] ** step.item() if o["bias_correction"] else 1 for b in ("beta1", "beta2"))
    clip = o["grad_norm"].item() / o["max_grad_norm"] if "grad_norm" in o else 1
    for i, param in enumerate(params):
        grad, m, v = (t.to(param.dtype) for t in (grads[i], ms[i], vs[i]))
        grad = grad / clip
        if not o["adam_w_mode"]:
            grad = grad + o["weight_decay"] * param
        m.mul_(o["beta1"]).add_(grad, alpha=1 - o["beta1"] if o["grad_averaging"] else 1)
        v.mul_(o["beta2"]).addcmul_(grad, grad, value=1 - o["beta2"])
        update = (m / correction1) / ((v / correction2).sqrt() + o["eps"])
        if o["adam_w_mode"]:
            update = update + o["weight_decay"] * param
        rate = lr.item()
        if o["use_nvlamb"] or o["weight_decay"] != 0:
            param_norm, update_norm = param.norm(), update.norm()
            rate = rate * (param_norm / update_norm if param_norm > 0 and update_norm > 0 else 1)
        param.sub_(rate * update)
        ms[i], vs[i] = m, v
    return params, ms, vs


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize(("param_dtype", "grad_dtype"), DTYPES)
def test_error_is_at_most_twice_that_of_plain_torch(device, options, param_dtype, grad_dtype):
    arguments = made(device, param_dtype, grad_dtype)
    arguments[5] = arguments[5].double()
    exact = in_float64(arguments, options)
    plain = python_step(arguments, options)
    ours = cloned(arguments)
    lamb_(*ours, **options)
    for got, theirs, expected in zip((ours[0], ours[2], ours[3]), plain, exact, strict=True):
        assert_twice_the_error_at_most(got, theirs, expected)
    torch.testing.assert_close(ours[1], arguments[1], rtol=0, atol=0)  # gradients are only read


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("step", [lamb_, lamb_reference])
def test_gradients_are_clipped_by_the_norm_that_is_given(device, step):
    arguments = made(device)
    norm = global_norm(arguments[1])
    options = {"grad_norm": norm, "max_grad_norm": norm.item() / 8}
    clipped, small, unclipped = cloned(arguments), cloned(arguments), cloned(arguments)
    small[1] = [g / 8 for g in small[1]]
    step(*clipped, **options)
    lamb_(*small)
    torch.testing.assert_close(clipped[0], small[0])
    torch.testing.assert_close(clipped[2:4], small[2:4])
    loose = cloned(arguments)
    step(*loose, grad_norm=norm, max_grad_norm=norm.item() * 1.001)
    lamb_(*unclipped)
    torch.testing.assert_close(loose[0], unclipped[0])
    exact, plain = in_float64(arguments, options), python_step(arguments, options)
    for part, got in enumerate((clipped[0], clipped[2], clipped[3])):
        assert_twice_the_error_at_most(got, plain[part], exact[part])


@pytest.mark.parametrize("device", DEVICES)
def test_trust_ratio_of_zero_parameters_and_of_zero_updates_is_one(device):
    zero, one = torch.zeros(5, device=device), torch.ones(5, device=device)
    lr, step = torch.tensor(0.5, device=device), torch.tensor(1.0, device=device)
    params, moments, squares = [zero.clone(), one.clone()], [zero.clone(), zero.clone()], [zero.clone(), zero.clone()]
    lamb_(params, [one, zero], moments, squares, [], lr, step, weight_decay=0.0, use_nvlamb=True)
    torch.testing.assert_close(params[0], torch.full_like(one, -0.5), rtol=1e-5, atol=0)
    assert torch.equal(params[1], one)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("grad_dtype", "copy_dtype"), COPY_DTYPES)
def test_copies_are_the_parameters_rounded(device, grad_dtype, copy_dtype):
    arguments = made(device, grad_dtype=grad_dtype, copy_dtype=copy_dtype)
    lamb_(*arguments)
    for param, copy in zip(arguments[0], arguments[4], strict=True):
        assert torch.equal(copy, param.to(copy_dtype))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("step", [lamb_, lamb_reference])
@pytest.mark.parametrize("copy_dtype", [torch.bfloat16, torch.float16])
def test_weights_written_into_copies_are_where_the_step_begins(device, step, copy_dtype):
    assert_written_copies_are_where_a_step_begins(step, made(device, copy_dtype=copy_dtype), 4)


@pytest.mark.parametrize("device", DEVICES)
def test_nan_and_inf_propagate(device):
    nan, inf = float("nan"), float("inf")
    grad = torch.tensor([nan, inf, 1.0], device=device)
    param, m, v = torch.ones_like(grad), torch.zeros_like(grad), torch.zeros_like(grad)
    lr, step = torch.tensor(0.5, device=device), torch.tensor(1.0, device=device)
    copy = param.bfloat16()
    lamb_([param], [grad], [m], [v], [copy], lr, step)
    assert param.isnan().all()  # through the tensor's norm, as in apex
    assert copy.isnan().all()
    assert m.tolist() == pytest.approx([nan, inf, 0.1], nan_ok=True)
    param = torch.tensor([inf, 1.0, nan], device=device)
    lamb_([param], [torch.ones_like(grad)], [m.zero_()], [v.zero_()], [], lr, step, weight_decay=0.0)
    torch.testing.assert_close(param, torch.tensor([inf, 0.5, nan], device=device), equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("step", [lamb_, lamb_reference])
def test_grad_scale_divides_and_found_inf_writes_nothing(device, step):
    arguments = made(device, grad_dtype=torch.float16, copy_dtype=torch.float16)
    unscaled, scaled, skipped = cloned(arguments), cloned(arguments), cloned(arguments)
    scaled[1] = [g * 4 for g in scaled[1]]
    four, zero = torch.full((1,), 4.0, device=device), torch.zeros(1, device=device)
    clip = {"grad_norm": global_norm(unscaled[1]), "max_grad_norm": 3.0}
    lamb_(*unscaled, **clip)
    clip["grad_norm"] = global_norm(scaled[1])
    step(*scaled, **clip, grad_scale=four, found_inf=zero)
    step(*skipped, **clip, grad_scale=four, found_inf=zero + 1)
    for part in (0, 2, 3, 4):
        torch.testing.assert_close(scaled[part], unscaled[part])
    torch.testing.assert_close(skipped[:NUM_LISTS], arguments[:NUM_LISTS], rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("param_layout", LAYOUTS)
def test_any_strides(device, param_layout, grad_layout):
    def lists(param, grad):
        layouts = (param, grad, param, grad)
        tensors = [[strided(layout, seed, device=device)] for seed, layout in enumerate(layouts)]
        tensors[3][0].abs_()  # means of squares
        return [*tensors, [strided(grad, 4, torch.bfloat16, device)], *made(device, sizes=[])[5:]]

    ours, expected = lists(param_layout, grad_layout), lists("contiguous", "contiguous")
    strides = [ours[i][0].stride() for i in range(NUM_LISTS)]
    lamb_(*ours)
    lamb_(*expected)
    for got, want in zip(ours[:NUM_LISTS], expected[:NUM_LISTS], strict=True):
        torch.testing.assert_close(got, want)  # the order of a norm's sum follows memory
    assert strides == [ours[i][0].stride() for i in range(NUM_LISTS)]


def test_the_kernel_is_loaded_where_the_extension_is_built():
    pytest.importorskip("airank_fast._C")
    for op in ("lamb_", "global_norm"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"airank_fast::{op}", "CPU")


def test_result_does_not_depend_on_the_number_of_threads():
    arguments = made(sizes=[100_003, 5, 70_001, 1_100_000], copy_dtype=torch.bfloat16)
    one, all_threads = cloned(arguments), cloned(arguments)
    lamb_(*all_threads, grad_norm=global_norm(all_threads[1]))
    with one_thread():
        lamb_(*one, grad_norm=global_norm(one[1]))
    torch.testing.assert_close(one[:NUM_LISTS], all_threads[:NUM_LISTS], rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_more_tensors_than_one_launch_holds(device):
    arguments = made(device, sizes=[i % 7 for i in range(1200)], copy_dtype=torch.bfloat16)
    expected = cloned(arguments)
    norm = global_norm(arguments[1])
    lamb_(*arguments, grad_norm=norm)
    lamb_reference(*expected, grad_norm=norm)
    torch.testing.assert_close(arguments[:4], expected[:4])


def test_views_that_are_not_aligned():
    flat = made(sizes=[2001, 2001], copy_dtype=torch.bfloat16)
    odd = not_aligned(flat)
    lamb_(*flat)
    lamb_(*odd)
    torch.testing.assert_close(flat[:NUM_LISTS], odd[:NUM_LISTS])


@pytest.mark.parametrize("step", [lamb_, lamb_reference])
def test_empty_lists_and_empty_tensors(step):
    step([], [], [], [], [], torch.tensor(0.1), torch.tensor(1.0))
    step(*[[torch.empty(0, 3)]] * 4, [], torch.tensor(0.1), torch.tensor(1.0))


def wrong(**changes):
    """Keyword arguments of the op for three tensors of [4, 3], with changes."""
    good = {
        "params": three(),
        "grads": three(),
        "exp_avgs": three(),
        "exp_avg_sqs": three(),
        "copies": [],
        "lr": torch.tensor(0.1),
        "step": torch.tensor(1.0),
    }
    return good | changes


WRONG = WRONG_FOR_ALL | {
    "grads must be float16, got float32": {"params": [HALF] * 3},
    "exp_avgs must be float32, got float16": {"exp_avgs": [HALF] * 3},
    "exp_avg_sqs must be float32, got float64": {"exp_avg_sqs": [ONES.double()] * 3},
    "exp_avgs must be float64, got float32": {"params": [ONES.double()] * 3, "grads": [ONES.double()] * 3},
    "exp_avgs must have as many tensors as params (3), got 0": {"exp_avgs": []},
    "exp_avg_sqs[0] must have shape [4, 3], got [4]": {"exp_avg_sqs": [ONES[:, 0]] * 3},
    "step must be one float32 or float64 number on cpu, got int64 of shape [] on cpu": {"step": torch.tensor(1)},
    "grad_norm must be one float32 or float64 number on cpu, got float32 of shape [0] on cpu": {
        "grad_norm": torch.empty(0)
    },
}


@pytest.mark.parametrize("step", [lamb_, lamb_reference])
@pytest.mark.parametrize(("message", "changes"), WRONG.items(), ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(step, message, changes):
    with pytest.raises(RuntimeError) as caught:
        step(**wrong(**changes))
    assert str(caught.value) == "lamb: " + message


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    arguments = made(device, sizes=[5, 0, 33], copy_dtype=torch.bfloat16)
    options = {"grad_norm": global_norm(arguments[1]), "weight_decay": 0.1}
    torch.library.opcheck(torch.ops.airank_fast.lamb_.default, tuple(arguments), options)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_without_graph_breaks(device):
    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(params, grads, *rest):
        grads = [g * 2 for g in grads]
        lamb_(params, grads, *rest, grad_norm=global_norm(grads))
        return params[1] + 1

    compiled, eager = (made(device, sizes=[5, 7], copy_dtype=torch.bfloat16) for _ in range(2))
    returned = step(*compiled)
    doubled = [g * 2 for g in eager[1]]
    lamb_(eager[0], doubled, *eager[2:], grad_norm=global_norm(doubled))
    for got, want in zip(compiled[:NUM_LISTS], eager[:NUM_LISTS], strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert torch.equal(returned, eager[0][1] + 1)


@pytest.mark.gpu
@pytest.mark.parametrize("stream", ["default", "other"])
def test_captured_step_sees_new_scalars(stream):
    arguments = made("cuda", copy_dtype=torch.bfloat16)
    expected = cloned(arguments)
    lr, step = arguments[5:]
    scale, found_inf = torch.ones((), device="cuda"), torch.zeros((), device="cuda")
    with torch.cuda.stream(torch.cuda.current_stream() if stream == "default" else torch.cuda.Stream()):
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            lamb_(*arguments, grad_norm=global_norm(arguments[1]), grad_scale=scale, found_inf=found_inf)
        for rate, skip in [(0.1, 0), (0.5, 0), (0.2, 1), (0.3, 0)]:
            lr.fill_(rate)
            step.add_(1 - skip)
            found_inf.fill_(skip)
            scale.fill_(1 + rate)
            graph.replay()
            norm = global_norm(expected[1])
            lamb_reference(*expected, grad_norm=norm, grad_scale=scale, found_inf=found_inf)
        torch.testing.assert_close(arguments[0], expected[0])
        torch.cuda.synchronize()
