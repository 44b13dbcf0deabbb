"""nn.LinearGELU in place of nn.Linear and nn.GELU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from airank_fast.nn import LinearGELU


def pair(approximate="none", bias=True, dtype=torch.float32):
    """The module and torch's with the same parameters."""
    torch.manual_seed(0)
    ours = LinearGELU(24, 40, bias=bias, approximate=approximate, dtype=dtype)
    theirs = nn.Sequential(nn.Linear(24, 40, bias=bias, dtype=dtype), nn.GELU(approximate))
    theirs[0].load_state_dict(ours.state_dict())
    return ours, theirs


def results(module, x):
    x = x.detach().requires_grad_()
    y = module(x)
    y.float().square().sum().backward()
    gradients = [x.grad, *(p.grad.clone() for p in module.parameters())]
    module.zero_grad()
    return [y.detach(), *gradients]


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("bias", [True, False])
def test_drop_in(approximate, bias):
    ours, theirs = pair(approximate, bias)
    x = torch.randn(2, 5, 24)
    for got, want in zip(results(ours, x), results(theirs, x), strict=True):
        torch.testing.assert_close(got, want)
    assert list(ours.state_dict()) == ["weight", "bias"][: 1 + bias]


@pytest.mark.parametrize("how", ["autocast", "16-bit parameters"])
def test_error_in_bfloat16_is_at_most_twice_torchs(how):
    ours, theirs = pair()
    x = torch.randn(64, 24)
    exact = results(nn.Sequential(theirs[0].double(), theirs[1]), x.double())
    ours, theirs = pair()
    if how == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            got, of_torch = results(ours, x), results(theirs, x)
        assert [g.dtype for g in got] == [torch.bfloat16, *[torch.float32] * 3]
    else:
        got, of_torch = (results(module.bfloat16(), x.bfloat16()) for module in (ours, theirs))
        assert {g.dtype for g in got} == {torch.bfloat16}
    for a, b, want in zip(got, of_torch, exact, strict=True):
        unit = torch.finfo(torch.bfloat16).eps / 2 * want.abs().max()
        assert (a.double() - want).abs().max() <= 2 * torch.maximum((b.double() - want).abs().max(), unit)


def test_repr():
    assert repr(LinearGELU(2, 3, approximate="tanh")) == (
        "LinearGELU(in_features=2, out_features=3, bias=True, approximate='tanh')"
    )
    with pytest.raises(ValueError, match=r"^LinearGELU: approximate must be none or tanh, got 'erf'$"):
        LinearGELU(2, 3, approximate="erf")
