"""nn.TemporalShift against the shift by indexing, as published: values, gradients, layouts, as a copy and folded."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from airank_fast.nn import PointwiseConv2d, TemporalShift, choices

CASES = [  # clips, frames, channels in and out, side, fold_div
    (2, 8, 16, 5, 3, 8),
    (1, 3, 17, 4, 2, 4),
    (3, 2, 4, 6, 1, 2),
    (2, 1, 8, 3, 4, 8),
    (2, 4, 7, 3, 2, 8),  # no channel is shifted
]


def by_indexing(x, num_segments, fold_div):
    """As published: three assignments into zeros."""
    clips = x.unflatten(0, (-1, num_segments))
    fold, out = x.shape[1] // fold_div, torch.zeros_like(clips)
    out[:, :-1, :fold] = clips[:, 1:, :fold]
    out[:, 1:, fold : 2 * fold] = clips[:, :-1, fold : 2 * fold]
    out[:, :, 2 * fold :] = clips[:, :, 2 * fold :]
    return out.flatten(0, 1)


@pytest.fixture(params=["copied", "folded"])
def folded(request, monkeypatch):
    """Whether every convolution is a matrix product."""
    is_folded = request.param == "folded"
    limits = {(dtype, 1): 1e9 for dtype in ("float32", "float64", "bfloat16")} if is_folded else {}
    monkeypatch.setattr(choices, "limits", lambda: limits)
    return is_folded


def results(forward, x, weight, grad):
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = forward(x, weight)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), grad)]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["nhwc", "nchw"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_those_of_indexing(case, layout, folded):
    clips, frames, c_in, c_out, side, fold_div = case
    torch.manual_seed(0)
    x = torch.randn(clips * frames, c_in, side, side).contiguous(memory_format=layout)
    grad = torch.randn(clips * frames, c_out, side, side).contiguous(memory_format=layout)
    shift = TemporalShift(PointwiseConv2d(c_in, c_out), frames, fold_div)

    def plain(x, weight):
        return nn.functional.conv2d(by_indexing(x, frames, fold_div), weight)

    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        shift.to(dtype)
        weight = shift.net.weight
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        theirs = results(plain, x.to(dtype), weight, grad.to(dtype))
        leaf = x.to(dtype).requires_grad_()
        y = shift(leaf)
        found = [y.detach(), *torch.autograd.grad(y, (leaf, weight), grad.to(dtype))]
        assert (type(y.grad_fn).__name__ == "_ShiftedProductBackward") == (folded and c_in >= fold_div)
        for one, other in zip(found, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_the_error_in_16_bits_is_that_of_indexing(folded):
    torch.manual_seed(0)
    shift, x = TemporalShift(PointwiseConv2d(64, 32), 8), torch.randn(16, 64, 4, 4)
    exact = nn.functional.conv2d(by_indexing(x.bfloat16(), 8, 8).double(), shift.net.weight.bfloat16().double())
    shift.bfloat16()
    ours = shift(x.bfloat16()).double()
    theirs = nn.functional.conv2d(by_indexing(x.bfloat16(), 8, 8), shift.net.weight).double()
    assert (ours - exact).norm() <= 2 * (theirs - exact).norm()


def test_the_copy_is_exact_and_can_be_differentiated_twice():
    shift, x = TemporalShift(nn.Identity(), 3, 3), torch.randn(6, 7, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.equal(shift(x), by_indexing(x, 3, 3))
    assert torch.autograd.gradcheck(shift, (x,))
    assert torch.autograd.gradgradcheck(shift, (x,))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["nhwc", "nchw"])
def test_the_layout_is_kept(layout, folded):
    x = torch.randn(8, 16, 4, 4).contiguous(memory_format=layout).requires_grad_()
    y = TemporalShift(PointwiseConv2d(16, 8), 4)(x)
    y.sum().backward()
    assert y.is_contiguous(memory_format=torch.channels_last if folded else layout)
    assert x.grad.is_contiguous(memory_format=layout)


def test_parts_without_a_gradient(folded):
    shift, x = TemporalShift(PointwiseConv2d(8, 4), 2), torch.randn(4, 8, 2, 2)
    shift(x).sum().backward()
    assert shift.net.weight.grad is not None
    shift.net.weight.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    shift(leaf).sum().backward()
    assert leaf.grad is not None


def test_it_compiles_as_one_graph_and_is_one_call_of_a_traced_network():
    shift, x = TemporalShift(PointwiseConv2d(16, 8), 4), torch.randn(8, 16, 4, 4)
    compiled = torch.compile(shift, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), shift(x))
    traced = torch.fx.symbolic_trace(nn.Sequential(shift))
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "output"]
    torch.testing.assert_close(traced(x), shift(x))
