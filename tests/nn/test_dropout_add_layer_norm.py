"""nn.DropoutAddLayerNorm: its three operations, its state, and its random numbers."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from airank_fast.errors import UserError
from airank_fast.nn import DropoutAddLayerNorm


def test_outside_training_it_is_an_addition_and_torchs_layer_norm():
    ours, torchs = DropoutAddLayerNorm(16, p=0.5, eps=1e-3).eval(), torch.nn.LayerNorm(16, eps=1e-3)
    torch.nn.init.normal_(torchs.weight)
    ours.load_state_dict(torchs.state_dict())
    x, residual = torch.randn(2, 5, 16)
    torch.testing.assert_close(ours(x, residual), torchs(x + residual))


def test_while_training_elements_are_dropped_by_torchs_generator():
    module = DropoutAddLayerNorm(1000, p=0.25, elementwise_affine=False, return_sum=True)
    x, residual = torch.ones(4, 1000), torch.zeros(4, 1000)
    torch.manual_seed(3)
    first, second = module(x, residual)[1], module(x, residual)[1]
    torch.manual_seed(3)
    assert torch.equal(module(x, residual)[1], first)
    assert not torch.equal(first, second)
    assert 0.2 < (first == 0).float().mean().item() < 0.3
    assert (first[first != 0] == 1 / 0.75).all()


def test_a_checkpointed_layer_is_recomputed_with_the_same_mask():
    module = DropoutAddLayerNorm(64, p=0.5)
    x = torch.randn(8, 64, requires_grad=True)
    grads = []
    for recompute in (False, True):
        torch.manual_seed(0)
        y = checkpoint(module, x, x, use_reentrant=False) if recompute else module(x, x)
        grads.append(torch.autograd.grad(y.square().sum(), [x, *module.parameters()]))
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)


def test_repr_and_wrong_p():
    text = repr(DropoutAddLayerNorm(8, p=0.2))
    assert text.startswith("DropoutAddLayerNorm((8,), eps=1e-05, elementwise_affine=True, ")  # torch's arguments first
    assert text.endswith(", p=0.2, return_sum=False)")
    with pytest.raises(UserError, match="DropoutAddLayerNorm: p must be from 0 to 1, got 2"):
        DropoutAddLayerNorm(8, p=2)
