"""airank_fast::sgd_ against float64, against its reference, and against wrong arguments; on the CPU and, with
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

from airank_fast.ops import sgd_
from airank_fast.ops.sgd import sgd_reference

PLAIN = {"momentum": 0.9, "weight_decay": 5e-5}
OPTIONS = {
    "plain": {},
    "decay": {"weight_decay": 0.1},
    "momentum": PLAIN,
    "nesterov": PLAIN | {"nesterov": True},
    "dampening": PLAIN | {"dampening": 0.3},
    "maximize": PLAIN | {"maximize": True},
}


def made(device="cpu", param_dtype=torch.float32, grad_dtype=None, copy_dtype=None, momentum=0.9, sizes=SIZES):
    """Arguments of the op: four lists and lr, of random numbers."""
    dtypes = (param_dtype, grad_dtype or param_dtype, param_dtype if momentum else None)
    lists = random_lists(device, sizes, *dtypes)
    return [*lists, copies_of(lists[0], copy_dtype), torch.tensor(0.1, device=device)]


def in_float64(arguments, options):
    """(params, momentum_buffers) after a step in float64."""
    params, grads, buffers, _, lr = arguments
    params, grads, buffers = ([t.to(torch.float64, copy=True) for t in part] for part in (params, grads, buffers))
    sgd_reference(params, grads, buffers, [], lr.double(), **options)
    return params, buffers


def torch_step(arguments, options):
    """(params, momentum_buffers) after a step of torch's SGD in the parameters' dtype. Not by its fused
    kernel: in torch 2.13 that is wrong for 16-bit parameters on the CPU."""
    params, grads, buffers, _, lr = cloned(arguments)
    optimizer = torch.optim.SGD(params, lr=lr.item(), foreach=False, **options)
    for i, param in enumerate(params):
        param.grad = grads[i].to(param.dtype)
        if buffers:
            optimizer.state[param]["momentum_buffer"] = buffers[i]
    optimizer.step()
    return params, buffers


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize(("param_dtype", "grad_dtype"), DTYPES)
def test_error_is_at_most_twice_torchs(device, options, param_dtype, grad_dtype):
    arguments = made(device, param_dtype, grad_dtype, momentum=options.get("momentum"))
    arguments[4] = arguments[4].double()
    exact = in_float64(arguments, options)
    plain = torch_step(arguments, options)
    ours = cloned(arguments)
    sgd_(*ours, **options)
    for part, got in enumerate((ours[0], ours[2])):
        if got:
            assert_twice_the_error_at_most(got, plain[part], exact[part])
    torch.testing.assert_close(ours[1], arguments[1], rtol=0, atol=0)  # gradients are only read


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("grad_dtype", "copy_dtype"), COPY_DTYPES)
def test_copies_are_the_parameters_rounded(device, grad_dtype, copy_dtype):
    arguments = made(device, grad_dtype=grad_dtype, copy_dtype=copy_dtype)
    sgd_(*arguments, **PLAIN)
    for param, copy in zip(arguments[0], arguments[3], strict=True):
        assert torch.equal(copy, param.to(copy_dtype))


def every_16_bit_pattern(dtype):
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_number_is_read_exactly(device, dtype):
    grad = every_16_bit_pattern(dtype).to(device)
    param = torch.zeros(grad.shape, device=device)
    sgd_([param], [grad], [], [], torch.tensor(1.0, device=device), maximize=True)
    torch.testing.assert_close(param, grad.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_kind_of_float32_is_rounded_as_torch_does(device, dtype):
    low_halves = torch.tensor([0, 1, 0x0FFF, 0x1000, 0x1001, 0x2000, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    bits = (torch.arange(-(2**15), 2**15)[:, None] * 2**16 + low_halves).to(torch.int32).flatten()
    values = bits.view(torch.float32).to(device)
    param, copy, lr = torch.zeros_like(values), torch.zeros_like(values, dtype=dtype), torch.tensor(1.0, device=device)
    sgd_([param], [-values], [], [copy], lr)
    torch.testing.assert_close(param, values, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(copy, values.to(dtype), rtol=0, atol=0, equal_nan=True)
    sgd_([param], [torch.zeros_like(values)], [], [copy], lr)  # and none of them counts as written by other code
    torch.testing.assert_close(param, values, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("step", [sgd_, sgd_reference])
@pytest.mark.parametrize("copy_dtype", [torch.bfloat16, torch.float16])
def test_weights_written_into_copies_are_where_the_step_begins(device, step, copy_dtype):
    assert_written_copies_are_where_a_step_begins(step, made(device, copy_dtype=copy_dtype), 3, **PLAIN)


@pytest.mark.parametrize("device", DEVICES)
def test_nan_and_inf_propagate(device):
    nan, inf = float("nan"), float("inf")
    param = torch.tensor([1.0, 1.0, inf, nan, 1.0], device=device)
    grad = torch.tensor([nan, inf, 1.0, 1.0, 1.0], device=device)
    buffer, copy = torch.zeros_like(param), param.bfloat16()
    sgd_([param], [grad], [buffer], [copy], torch.tensor(1.0, device=device), momentum=0.9)
    expected = torch.tensor([nan, -inf, inf, nan, 0.0], device=device)
    torch.testing.assert_close(param, expected, equal_nan=True)
    torch.testing.assert_close(copy.float(), expected, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("step", [sgd_, sgd_reference])
def test_grad_scale_divides_and_found_inf_writes_nothing(device, step):
    arguments = made(device, grad_dtype=torch.float16, copy_dtype=torch.float16)
    unscaled, scaled, skipped = cloned(arguments), cloned(arguments), cloned(arguments)
    scaled[1] = [g * 4 for g in scaled[1]]
    four, zero = torch.full((1,), 4.0, device=device), torch.zeros(1, device=device)
    sgd_(*unscaled, **PLAIN)
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
    sgd_(*ours, **PLAIN)
    sgd_(*expected, **PLAIN)
    for got, want in zip(ours[:4], expected[:4], strict=True):
        assert torch.equal(got[0], want[0])
    assert strides == [ours[i][0].stride() for i in range(4)]


def test_equal_strides_are_walked_without_copies():
    def weights(format_of_1x1=torch.channels_last):
        return [strided("channels_last", 0), torch.empty(8, 4, 1, 1, memory_format=format_of_1x1)]

    arguments = [weights(), weights(torch.contiguous_format), weights(), [], torch.tensor(0.1)]
    # A 1x1 convolution is contiguous and channels_last at once, though its strides are written differently.
    assert arguments[0][1].stride() != arguments[1][1].stride()
    with torch.profiler.profile() as profile:
        sgd_(*arguments, **PLAIN)
    assert not {"aten::contiguous", "aten::copy_", "aten::clone"} & {event.key for event in profile.key_averages()}


def test_the_kernel_is_loaded_where_the_extension_is_built():
    pytest.importorskip("airank_fast._C")
    assert torch._C._dispatch_has_kernel_for_dispatch_key("airank_fast::sgd_", "CPU")


def test_holes_between_elements_are_left_alone():
    wide = torch.full((50,), 7.0)
    sgd_([wide[::2]], [torch.ones(25)], [], [], torch.tensor(1.0))
    assert torch.equal(wide, torch.tensor([6.0, 7.0] * 25))


def test_result_does_not_depend_on_the_number_of_threads():
    arguments = made(sizes=[100_003, 5, 70_001], copy_dtype=torch.bfloat16)
    one, all_threads = cloned(arguments), cloned(arguments)
    sgd_(*all_threads, **PLAIN)
    with one_thread():
        sgd_(*one, **PLAIN)
    torch.testing.assert_close(one[:4], all_threads[:4], rtol=0, atol=0)


@pytest.mark.parametrize("device", DEVICES)
def test_more_tensors_than_one_launch_holds(device):
    arguments = made(device, sizes=[i % 7 for i in range(400)], copy_dtype=torch.bfloat16)
    expected = cloned(arguments)
    sgd_(*arguments, **PLAIN)
    sgd_reference(*expected, **PLAIN)
    torch.testing.assert_close(arguments[:4], expected[:4])


def test_views_that_are_not_aligned():
    flat = made(sizes=[2001, 2001], copy_dtype=torch.bfloat16)
    odd = not_aligned(flat)
    sgd_(*flat, **PLAIN)
    sgd_(*odd, **PLAIN)
    torch.testing.assert_close(flat[:4], odd[:4], rtol=0, atol=0)


@pytest.mark.parametrize("step", [sgd_, sgd_reference])
def test_empty_lists_and_empty_tensors(step):
    step([], [], [], [], torch.tensor(0.1), **PLAIN)
    step([torch.empty(0, 3)], [torch.empty(0, 3)], [torch.empty(0, 3)], [], torch.tensor(0.1), **PLAIN)


def wrong(**changes):
    """Keyword arguments of the op for three tensors of [4, 3], with changes."""
    good = {
        "params": three(),
        "grads": three(),
        "momentum_buffers": three(),
        "copies": [],
        "lr": torch.tensor(0.1),
        "momentum": 0.9,
    }
    return good | changes


WRONG = WRONG_FOR_ALL | {
    "grads must be float64, got float32": {"params": [ONES.double()] * 3, "momentum_buffers": [ONES.double()] * 3},
    "momentum_buffers must be float32, got float16": {"momentum_buffers": [HALF] * 3},
    "momentum_buffers must have as many tensors as params (3), got 0": {"momentum_buffers": []},
    "momentum_buffers must be empty without momentum, got 3": {"momentum": 0.0},
}


@pytest.mark.parametrize("step", [sgd_, sgd_reference])
@pytest.mark.parametrize(("message", "changes"), WRONG.items(), ids=range(len(WRONG)))
def test_wrong_arguments_are_named_in_one_line(step, message, changes):
    with pytest.raises(RuntimeError) as caught:
        step(**wrong(**changes))
    assert str(caught.value) == "sgd: " + message


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", [{}, PLAIN], ids=["plain", "momentum"])
def test_opcheck(device, options):
    arguments = made(device, momentum=options.get("momentum"), sizes=[5, 0, 33], copy_dtype=torch.bfloat16)
    torch.library.opcheck(torch.ops.airank_fast.sgd_.default, tuple(arguments), options)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_without_graph_breaks(device):
    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(params, grads, buffers, copies, lr):
        sgd_(params, [g * 2 for g in grads], buffers, copies, lr, **PLAIN)
        return params[1] + 1

    compiled, eager = (made(device, sizes=[5, 7], copy_dtype=torch.bfloat16) for _ in range(2))
    returned = step(*compiled)
    sgd_(eager[0], [g * 2 for g in eager[1]], *eager[2:], **PLAIN)
    for got, want in zip(compiled[:4], eager[:4], strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    assert torch.equal(returned, eager[0][1] + 1)


@pytest.mark.gpu
def test_captured_step_sees_new_scalars():
    arguments = made("cuda", copy_dtype=torch.bfloat16)
    expected = cloned(arguments)
    scale, found_inf = torch.ones((), device="cuda"), torch.zeros((), device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sgd_(*arguments, **PLAIN, grad_scale=scale, found_inf=found_inf)
    for lr, skip in [(0.1, 0), (0.5, 0), (0.2, 1), (0.3, 0)]:
        arguments[4].fill_(lr)
        found_inf.fill_(skip)
        scale.fill_(1 + lr)
        graph.replay()
        sgd_reference(*expected[:4], arguments[4], **PLAIN, grad_scale=scale, found_inf=found_inf)
    for got, want in zip(arguments[0], expected[0], strict=True):
        torch.testing.assert_close(got, want)
