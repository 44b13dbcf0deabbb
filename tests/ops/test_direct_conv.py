"""airank_fast::direct_conv2d*: torch's convolutions and gradients, whatever the sides, channels and threads."""

from __future__ import annotations

import random

import pytest
import torch
from ops.threads import one_thread

from airank_fast.ops import direct_conv

OPS = torch.ops.airank_fast
# Input's sides, filter's sides, stride, padding, dilation.
SIDES = {
    "3x3": ((9, 11), (3, 3), 1, 1, 1),
    "1x1": ((5, 7), (1, 1), 1, 0, 1),
    "1x1 of every second pixel": ((5, 8), (1, 1), 2, 0, 1),
    "a stem": ((17, 19), (7, 7), 2, 3, 1),
    "stride 2, with pixels that no filter meets": ((8, 10), (2, 3), 2, 0, 1),
    "stride 3": ((10, 9), (4, 2), 3, 2, 1),
    "dilated": ((9, 12), (3, 3), 1, 2, 2),
    "dilated, with a stride": ((11, 9), (3, 2), 2, 3, 3),
    "taps in padding alone": ((1, 2), (3, 5), 1, 2, 1),
    "more padding than taps": ((2, 3), (2, 2), 1, 3, 1),
    "one pixel": ((1, 1), (3, 3), 2, 1, 1),
    "padding in front alone": ((6, 6), (3, 3), 4, 1, 1),
    "padding in front, and as many pixels behind that no filter meets": ((6, 6), (2, 2), 4, 1, 1),
}
CHANNELS = [(1, 1), (3, 16), (16, 3), (5, 7), (24, 17), (97, 33)]


def made(*shape, dtype):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)
    return x.contiguous(memory_format=torch.channels_last)


def arguments_of(sides, channels, dtype, pictures=3):
    """{op: its arguments}."""
    (height, width), kernel, *rest = sides
    x, weight = made(pictures, channels[0], height, width, dtype=dtype), made(*channels[::-1], *kernel, dtype=dtype)
    bias = made(1, channels[1], 1, 1, dtype=dtype).flatten()
    grad = made(*torch.conv2d(x, weight, None, *rest).shape, dtype=dtype)
    return {
        "direct_conv2d": (x, weight, bias, *rest),
        "direct_conv2d_input": (grad, weight, height, width, *rest),
        "direct_conv2d_weight": (grad, x, *kernel, *rest),
    }


REFERENCES = {
    "direct_conv2d": direct_conv.conv2d_reference,
    "direct_conv2d_input": direct_conv.conv2d_input_reference,
    "direct_conv2d_weight": direct_conv.conv2d_weight_reference,
}


def test_a_kernel_is_loaded():
    for name in REFERENCES:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"airank_fast::{name}", "CPU")


@pytest.mark.parametrize("sides", SIDES.values(), ids=SIDES)
@pytest.mark.parametrize("channels", CHANNELS, ids=str)
def test_results_are_torchs(sides, channels):
    for name, arguments in arguments_of(sides, channels, torch.float64).items():
        got, want = getattr(OPS, name)(*arguments), REFERENCES[name](*arguments)
        torch.testing.assert_close(got, want)
        assert got.is_contiguous(memory_format=torch.channels_last)


def test_any_sides():
    choices = random.Random(0)
    tried = 0
    while tried < 300:
        sizes, kernel = [(choices.randint(1, 9), choices.randint(1, 9)) for _ in range(2)]
        stride, padding, dilation = choices.randint(1, 5), choices.randint(0, 5), choices.randint(1, 3)
        if any(size + 2 * padding <= dilation * (taps - 1) for size, taps in zip(sizes, kernel, strict=True)):
            continue
        tried += 1
        sides = sizes, kernel, stride, padding, dilation
        for name, arguments in arguments_of(sides, (3, 5), torch.float64, 2).items():
            got, want = getattr(OPS, name)(*arguments), REFERENCES[name](*arguments)
            torch.testing.assert_close(got, want, msg=lambda text, name=name, sides=sides: f"{name} {sides}: {text}")


@pytest.mark.parametrize("channels", [(3, 16), (97, 33)], ids=str)
@pytest.mark.parametrize("sides", ["3x3", "stride 3", "dilated, with a stride"])
def test_the_error_is_at_most_twice_torchs(sides, channels):
    exact = arguments_of(SIDES[sides], channels, torch.float64)
    for name, arguments in arguments_of(SIDES[sides], channels, torch.float32).items():
        got, torchs = getattr(OPS, name)(*arguments), REFERENCES[name](*arguments)
        want = REFERENCES[name](*(a if isinstance(a, int) else a.double() for a in arguments))
        del exact[name]
        assert (got - want).norm() <= 2 * (torchs - want).norm()
        assert got.dtype == torch.float32
    assert not exact


@pytest.mark.parametrize(("pictures", "side"), [(2, 33), (3, 70)])
def test_results_do_not_depend_on_the_number_of_threads(pictures, side):
    """Of one part of the pixels and of several, of several blocks."""
    sides = (side, side), (3, 3), 1, 1, 1
    for name, arguments in arguments_of(sides, (20, 40), torch.float32, pictures).items():
        got = getattr(OPS, name)(*arguments)
        with one_thread():
            assert torch.equal(getattr(OPS, name)(*arguments), got)
        torch.testing.assert_close(got, REFERENCES[name](*arguments), rtol=1e-4, atol=1e-3)


def test_no_picture_and_no_bias():
    for name, arguments in arguments_of(SIDES["3x3"], (4, 6), torch.float32, pictures=0).items():
        torch.testing.assert_close(getattr(OPS, name)(*arguments), REFERENCES[name](*arguments))
    x, weight, _, *rest = arguments_of(SIDES["3x3"], (4, 6), torch.float64)["direct_conv2d"]
    torch.testing.assert_close(direct_conv.conv2d(x, weight, None, *rest), torch.conv2d(x, weight, None, *rest))


def test_infinities_and_nans_stay_where_they_are():
    """Lines that fill up a tile, and channels that fill up a vector, must not reach any result."""
    x = torch.zeros(1, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    x[0, :, 4, 4] = torch.inf
    weight = torch.ones(9, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    y = direct_conv.conv2d(x, weight, None, 1, 1, 1)
    assert torch.equal(y.isinf(), torch.conv2d(x, weight, None, 1, 1).isinf())
    grad = torch.zeros_like(y)
    grad[0, 8, 4, 4] = torch.nan
    found = direct_conv.conv2d_weight(grad, torch.ones_like(x), 3, 3, 1, 1, 1)
    assert not found[:8].isnan().any()
    assert found[8].isnan().sum() >= 3 * 4


@pytest.mark.parametrize("name", REFERENCES)
def test_opcheck(name):
    arguments = arguments_of(SIDES["stride 3"], (5, 7), torch.float32)[name]
    torch.library.opcheck(getattr(OPS, name).default, arguments)


LAST = torch.channels_last
X, W = made(1, 4, 5, 5, dtype=torch.float32), made(6, 4, 3, 3, dtype=torch.float32)
Y = made(1, 6, 5, 5, dtype=torch.float32)
WRONG = [
    (
        "direct_conv2d",
        (X[0], W, None, 1, 1, 1),
        "x must have 4 dimensions, all but the first at least 1, got [4, 5, 5]",
    ),
    ("direct_conv2d", (X.bfloat16(), W, None, 1, 1, 1), "x must be float32 or float64, got bfloat16"),
    ("direct_conv2d", (X, W.double(), None, 1, 1, 1), "weight must be float32, got float64"),
    ("direct_conv2d", (X.contiguous(), W, None, 1, 1, 1), "x must be channels_last, got strides [100, 25, 5, 1]"),
    ("direct_conv2d", (X, Y, None, 1, 1, 1), "weight must have 4 channels, got 6"),
    (
        "direct_conv2d",
        (X, W, torch.zeros(5), 1, 1, 1),
        "bias must be contiguous float32 [6], got float32 [5] with strides [1]",
    ),
    ("direct_conv2d", (X, W, None, 0, 1, 1), "stride must be at least 1, got 0"),
    ("direct_conv2d", (X, W, None, 1, -1, 1), "padding must be at least 0, got -1"),
    ("direct_conv2d", (X, W, None, 1, 1, 0), "dilation must be at least 1, got 0"),
    ("direct_conv2d", (X, W, None, 1, 0, 3), "padded pictures must be as large as the filters, got [5, 5]"),
    ("direct_conv2d_input", (Y, W, 5, 6, 1, 1, 1), "grad must have shape [1, 6, 5, 6], got [1, 6, 5, 5]"),
    ("direct_conv2d_input", (Y, W, 0, 5, 1, 1, 1), "padded pictures must be as large as the filters, got [0, 5]"),
    ("direct_conv2d_weight", (Y, X, 3, 0, 1, 1, 1), "filters must have at least one tap, got [3, 0]"),
    ("direct_conv2d_weight", (Y, X, 5, 3, 1, 1, 1), "grad must have shape [1, 6, 3, 5], got [1, 6, 5, 5]"),
    ("direct_conv2d_weight", (Y, X.double(), 3, 3, 1, 1, 1), "x must be float32, got float64"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), WRONG)
def test_wrong_arguments_are_named_in_one_line(name, arguments, message):
    for function in (getattr(OPS, name), REFERENCES[name]):
        with pytest.raises(RuntimeError) as caught:
            function(*arguments)
        assert str(caught.value) == f"{name}: {message}"
