"""Attention over sequences that lie one behind the other, against SDPA on each of them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from airank_fast.errors import UserError
from airank_fast.nn import PackedSequences, packed_attention
from airank_fast.nn.packed_attention import _jagged

HEADS, WIDTH = 3, 8
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def made(num_tokens: int, dtype=torch.float64, device="cpu") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (num_tokens, HEADS, WIDTH)
    return [torch.randn(shape, generator=generator, dtype=dtype).to(device).requires_grad_() for _ in range(3)]


def one_by_one(q, k, v, lengths):
    parts = zip(*(tensor.split(lengths) for tensor in (q, k, v)), strict=True)
    return torch.cat(
        [F.scaled_dot_product_attention(*(part.transpose(0, 1) for part in qkv)).transpose(0, 1) for qkv in parts]
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("lengths", [[5], [4, 4, 4], [1, 7, 7, 2, 7], [1], [97, 130]])
def test_each_sequence_sees_only_itself(lengths, device):
    dtype = torch.float32 if device == "cuda" else torch.float64
    q, k, v = made(sum(lengths), dtype, device)
    sequences = PackedSequences(lengths, device)
    got, expected = packed_attention(q, k, v, sequences), one_by_one(q, k, v, lengths)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if device == "cuda" else {"rtol": 1e-11, "atol": 1e-13}
    torch.testing.assert_close(got, expected, **tolerance)
    grad = torch.randn_like(got)
    for ours, theirs in zip(*(torch.autograd.grad(y, (q, k, v), grad) for y in (got, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)
    assert sequences.num_tokens == sum(lengths)
    assert sequences.offsets.tolist() == [sum(lengths[:i]) for i in range(len(lengths) + 1)]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_runs_on_cuda_reads_the_lengths_on_the_device_where_a_longest_is_given():
    """As a captured step must, which is replayed with other lengths than those that the host saw."""
    q, k, v = made(18)
    sequences = PackedSequences([9, 9], offsets=torch.tensor([0, 5, 18]), longest=16)
    got, expected = _jagged(q, k, v, sequences, 0.0), one_by_one(q, k, v, [5, 13])
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)
    grad = torch.randn_like(got)
    for ours, theirs in zip(*(torch.autograd.grad(y, (q, k, v), grad) for y in (got, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("lengths", [[6, 6], [3, 5, 5]])
def test_dropout_keeps_the_mean_and_follows_the_seed(lengths, device):
    dtype = torch.float16 if device == "cuda" else torch.float64
    q, k, v = made(sum(lengths), dtype, device)
    sequences = PackedSequences(lengths, device)
    torch.manual_seed(3)
    draws = [packed_attention(q, k, v, sequences, 0.5).detach() for _ in range(400)]
    assert not torch.equal(draws[0], draws[1])
    mean = sum(draw.double() for draw in draws) / len(draws)
    torch.testing.assert_close(mean, one_by_one(q, k, v, lengths).double(), rtol=0, atol=0.25)
    torch.manual_seed(3)
    assert torch.equal(packed_attention(q, k, v, sequences, 0.5), draws[0])


@pytest.mark.parametrize("lengths", [[], [3, 0]])
def test_lengths_that_cannot_be(lengths):
    with pytest.raises(UserError, match="sequences: must have lengths of at least 1"):
        PackedSequences(lengths)
