"""nn.PatchConv2d against torch's convolution: the product has the same values, gradients and second derivatives."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from airank_fast import processor
from airank_fast.nn import PatchConv2d, PointwiseConv2d, choices

# in, out, kernel, stride, padding, height, width: with taps that meet padding alone, and without.
CASES = [
    (5, 7, 3, 1, 1, 1, 1),
    (5, 7, 3, 2, 1, 2, 2),
    (5, 7, 3, 1, 1, 2, 3),
    (4, 6, 3, 2, 1, 5, 4),
    (4, 6, 3, 1, 0, 4, 6),
    (3, 2, 5, 3, 3, 1, 9),
    (3, 2, 2, 2, 0, 5, 5),
    (3, 8, 7, 2, 3, 8, 8),
    (3, 4, 1, 2, 0, 3, 5),
]


@pytest.fixture
def as_product(monkeypatch):
    """Compute every convolution that can be a product as one; counts them."""
    calls = []

    def is_faster(conv, x):
        with monkeypatch.context() as patch:
            patch.setattr(choices, "limits", lambda: {(str(x.dtype).removeprefix("torch."), k): 1e9 for k in range(9)})
            calls.append(choices.product_is_faster(conv, x))
        return calls[-1]

    monkeypatch.setattr("airank_fast.nn.patch_conv.product_is_faster", is_faster)
    monkeypatch.setattr(choices, "DIRECT_WEIGHTS", 0)
    return calls


def modules(case, dtype):
    torch.manual_seed(0)
    ours = PatchConv2d(*case[:2], case[2], stride=case[3], padding=case[4], bias=False).to(dtype)
    ours = ours.to(memory_format=torch.channels_last)
    x = torch.randn(2, case[0], *case[5:], dtype=dtype).contiguous(memory_format=torch.channels_last)
    return ours, x


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_as_close_to_float64_as_torchs(case, as_product):
    ours, x = modules(case, torch.float32)
    results = {}
    for name, dtype in (("exact", torch.float64), ("torch", torch.float32), ("ours", torch.float32)):
        weight, pixels = (t.detach().to(dtype).requires_grad_() for t in (ours.weight, x))
        if name == "ours":
            ours.weight = nn.Parameter(weight.detach())
            weight = ours.weight
            y = ours(pixels)
            assert y.is_contiguous(memory_format=torch.channels_last)
        else:
            y = F.conv2d(pixels, weight, stride=ours.stride, padding=ours.padding)
        torch.manual_seed(1)
        (y * torch.randn(y.shape, dtype=dtype)).sum().backward()
        results[name] = [y.detach(), pixels.grad, weight.grad]
    assert as_product == [True]
    for exact, torchs, product in zip(*results.values(), strict=True):
        assert product.shape == exact.shape
        error, allowed = ((other - exact).abs().max() for other in (product, torchs))
        assert error <= 2 * allowed + 1e-6 * exact.abs().max()
    assert results["ours"][2].stride() == ours.weight.stride()  # no copy is needed


@pytest.mark.parametrize("case", CASES, ids=str)
def test_first_and_second_derivatives(case, as_product):
    ours, x = modules(case, torch.float64)

    def function(x, weight):
        return torch.func.functional_call(ours, {"weight": weight}, (x,))

    inputs = (x.requires_grad_(), ours.weight.detach().requires_grad_())
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)
    assert all(as_product)


def test_gradients_of_each_sample(as_product):
    ours, x = modules(CASES[3], torch.float64)

    def loss(weight, pixels):
        return torch.func.functional_call(ours, {"weight": weight}, (pixels[None],)).square().sum()

    gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(ours.weight.detach(), x)
    for pixels, gradient in zip(x, gradients, strict=True):
        weight = ours.weight.detach().requires_grad_()
        F.conv2d(pixels[None], weight, stride=2, padding=1).square().sum().backward()
        torch.testing.assert_close(gradient, weight.grad)
    assert not any(as_product)  # but torch's own, which forward mode and exports need


@pytest.mark.parametrize(
    "options",
    [
        {"bias": True},
        {"groups": 2},
        {"dilation": 2},
        {"padding_mode": "reflect"},
        {"padding": "same"},
        {"padding": (1, 0)},
        {"stride": (1, 2)},
        {"kernel_size": (3, 1)},
    ],
    ids=str,
)
def test_what_cannot_be_a_product_is_torchs(options, as_product):
    given = {"kernel_size": 3, "padding": 1, "bias": False} | options
    torch.manual_seed(0)
    ours, torchs = PatchConv2d(4, 4, **given), nn.Conv2d(4, 4, **given)
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(ours(x), torchs(x))
    assert as_product == [False]


def test_an_empty_batch_and_pictures_that_are_too_small(as_product):
    ours, _ = modules(CASES[0], torch.float32)
    y = ours(torch.empty(0, 5, 4, 4))
    y.sum().backward()
    assert y.shape == (0, 7, 4, 4)
    assert ours.weight.grad.count_nonzero() == 0
    with pytest.raises(RuntimeError, match=r"[Kk]ernel size"):
        PatchConv2d(5, 7, 5, bias=False)(torch.empty(1, 5, 3, 3))


@pytest.mark.parametrize(
    ("instructions", "dtype", "kernel", "side", "expected"),
    [
        ("AVX2", torch.float32, 3, 4, True),
        ("AVX2", torch.float32, 3, 400, False),
        ("AVX2", torch.float32, 1, 4, True),
        ("AVX2", torch.bfloat16, 1, 4, False),
        ("AVX512_BF16", torch.float32, 3, 4, False),  # so that earlier runs can be repeated bit for bit
        ("AVX512_BF16", torch.float32, 1, 4, False),
        ("AVX512_BF16", torch.bfloat16, 3, 4, False),
        ("AVX512_BF16", torch.bfloat16, 1, 400, True),
        ("AVX512", torch.bfloat16, 1, 400, True),
        ("AVX512, oneDNN limited to AVX512_CORE", torch.bfloat16, 1, 400, True),
        ("AMX", torch.bfloat16, 1, 400, True),
        ("DEFAULT", torch.float32, 1, 4, False),
    ],
)
def test_the_choice_follows_the_table_of_this_processor(monkeypatch, instructions, dtype, kernel, side, expected):
    monkeypatch.setattr(processor, "instruction_set", lambda: instructions)
    choices.limits.cache_clear()
    try:
        conv = nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=False).to(dtype)
        x = torch.empty(2, 1, side, side, dtype=dtype)
        assert choices.product_is_faster(conv, x) == expected
        with torch.autocast("cpu", torch.bfloat16):
            assert not choices.product_is_faster(conv, x)
    finally:
        choices.limits.cache_clear()


def test_a_pointwise_convolution_follows_the_same_table(monkeypatch):
    ours = PointwiseConv2d(4, 6, stride=2).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 4, 4).contiguous(memory_format=torch.channels_last)
    results = [ours(x)]
    monkeypatch.setattr(choices, "DIRECT_WEIGHTS", 0)
    for faster in (True, False):
        monkeypatch.setattr("airank_fast.nn.pointwise_conv.product_is_faster", lambda conv, x, faster=faster: faster)
        results.append(ours(x))
    torch.testing.assert_close(results[0], results[2])
    torch.testing.assert_close(results[1], results[2])


def test_the_table_is_of_numbers_of_pixels():
    table = json.loads(choices.FILE.read_text())
    assert set(choices.LIKE.values()) <= set(table)
    found = [limit for by_dtype in table.values() for by_kernel in by_dtype.values() for limit in by_kernel.values()]
    assert all(limit is None or (isinstance(limit, int) and limit > 0) for limit in found)
