"""airank_fast::winograd_*: the transforms make a convolution, are adjoint, and kernels do as their references."""

from __future__ import annotations

import pytest
import torch
from ops.threads import one_thread
from torch.nn import functional as F

from airank_fast.ops import winograd

OPS = torch.ops.airank_fast
PAIRS = {
    "winograd_windows": winograd.windows_reference,
    "winograd_windows_backward": winograd.windows_backward_reference,
    "winograd_outputs": winograd.outputs_reference,
    "winograd_outputs_backward": winograd.outputs_backward_reference,
}


def made(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def argument_of(name, pictures=2, channels=5, dtype=torch.float64):
    if name in ("winograd_windows", "winograd_outputs_backward"):
        return made(pictures, 8, 6, channels, dtype=dtype)
    return made(16, pictures, 3, 2, channels, dtype=dtype)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 97])
def test_kernels_do_as_their_references(name, dtype, channels):
    x = argument_of(name, 3, channels, dtype)
    got = getattr(OPS, name)(x)
    torch.testing.assert_close(got, PAIRS[name](x))
    assert got.is_contiguous()
    if channels == 1 and dtype == torch.float32:
        torch.library.opcheck(getattr(OPS, name).default, (x,))
    with one_thread():
        assert torch.equal(getattr(OPS, name)(x), got)


@pytest.mark.parametrize("padding", [0, 1])
def test_the_transforms_make_a_convolution(padding):
    x, weight = made(2, 3, 6, 8), made(4, 3, 3, 3)
    windows = winograd.windows(F.pad(x.permute(0, 2, 3, 1), (0, 0, *(padding,) * 4)).contiguous())
    products = torch.einsum("tnyxc,tkc->tnyxk", windows, winograd.filters(weight)).contiguous()
    y = winograd.outputs(products).permute(0, 3, 1, 2)
    torch.testing.assert_close(y, F.conv2d(x, weight, padding=padding))


@pytest.mark.parametrize(
    ("function", "adjoint", "x"),
    [
        (winograd.windows, winograd.windows_backward, argument_of("winograd_windows")),
        (winograd.outputs, winograd.outputs_backward, argument_of("winograd_outputs")),
        (winograd.filters, winograd.filters_backward, made(4, 3, 3, 3)),
    ],
)
def test_adjoints(function, adjoint, x):
    y = function(x)
    other = made(*y.shape)
    torch.testing.assert_close((y * other).sum(), (x * adjoint(other)).sum())


@pytest.mark.parametrize("name", PAIRS)
def test_no_picture(name):
    x = argument_of(name, 0)
    assert getattr(OPS, name)(x).shape == PAIRS[name](x).shape


SQUARE, SIXTEEN = (
    "x must have shape [N, H, W, C] with H and W even and at least ",
    "x must have shape [16, N, rows, columns, C]",
)
WRONG = [
    ("winograd_windows", made(1, 2, 4, 3), f"{SQUARE}4, got [1, 2, 4, 3]"),
    ("winograd_outputs_backward", made(1, 3, 4, 3), f"{SQUARE}2, got [1, 3, 4, 3]"),
    ("winograd_outputs", made(15, 1, 2, 2, 3), f"{SIXTEEN}, got [15, 1, 2, 2, 3]"),
    ("winograd_windows_backward", made(16, 1, 2, 2), f"{SIXTEEN}, got [16, 1, 2, 2]"),
    ("winograd_windows", made(1, 4, 4, 3).bfloat16(), "x must be float32 or float64, got bfloat16"),
    ("winograd_windows", made(1, 4, 4, 6)[..., ::2], "x must be contiguous, got strides [96, 24, 6, 2]"),
]


@pytest.mark.parametrize(("name", "x", "message"), WRONG)
def test_wrong_arguments_are_named_in_one_line(name, x, message):
    for function in (getattr(OPS, name), PAIRS[name]):
        with pytest.raises(RuntimeError) as caught:
            function(x)
        assert str(caught.value) == f"{name}: {message}"
