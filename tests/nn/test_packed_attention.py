"""Attention over sequences that lie one behind the other, against SDPA on each of them."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch.nn import functional as F

from airank_fast.errors import UserError
from airank_fast.nn import PackedSequences, packed_attention
from airank_fast.nn.packed_attention import _jagged

module = importlib.import_module("airank_fast.nn.packed_attention")  # nn has a function of this name

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
    got, expected = _jagged(q, k, v, sequences, sequences, 0.0, False), one_by_one(q, k, v, [5, 13])
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)
    grad = torch.randn_like(got)
    for ours, theirs in zip(*(torch.autograd.grad(y, (q, k, v), grad) for y in (got, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def by_definition(q, k, v, queries, keys, causal):
    """Softmax attention of each pair, written out."""
    outputs = []
    for one_q, one_k, one_v in zip(q.split(queries), k.split(keys), v.split(keys), strict=True):
        scores = torch.einsum("qhd,khd->hqk", one_q, one_k) / math.sqrt(WIDTH)
        if causal:
            later = torch.arange(len(one_k)) > torch.arange(len(one_q))[:, None]
            scores = scores.masked_fill(later.to(q.device), -math.inf)
        outputs.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), one_v))
    return torch.cat(outputs)


LAYOUTS = {"apart": (0, 0), "together": (10**9, 0), "some of each": (60, 0)}  # costs of a call and of copies
FORMS = {
    "causal": ([1, 7, 7, 2, 5], None),
    "causal, one length": ([4, 4], None),
    "cross": ([3, 3, 3, 6, 1], [5, 5, 2, 9, 4]),
    "cross, queries of one length": ([4, 4, 4], [2, 7, 7]),
    "cross, keys of one length": ([1, 6, 2], [3, 3, 3]),
    "self": ([5, 4, 9, 9], None),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("form", FORMS)
def test_causal_and_cross_attention_by_their_definition(form, layout, device, monkeypatch):
    """In groups that are padded, in groups of equal lengths, and in both."""
    call, copies = LAYOUTS[layout]
    monkeypatch.setattr(module, "_CALL", call)
    monkeypatch.setattr(module, "_COPIES", copies)
    queries, keys = FORMS[form]
    causal = form.startswith("causal")
    dtype = torch.float32 if device == "cuda" else torch.float64
    q = made(sum(queries), dtype, device)[0]
    k, v = made(sum(keys or queries), dtype, device)[1:]
    key_sequences = None if keys is None else PackedSequences(keys, device)
    got = packed_attention(q, k, v, PackedSequences(queries, device), causal=causal, key_sequences=key_sequences)
    expected = by_definition(q, k, v, queries, keys or queries, causal)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if device == "cuda" else {"rtol": 1e-11, "atol": 1e-13}
    torch.testing.assert_close(got, expected, **tolerance)
    grad = torch.randn_like(got)
    for ours, theirs in zip(*(torch.autograd.grad(y, (q, k, v), grad) for y in (got, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


def test_groups_are_padded_where_a_call_costs_more():
    def groups(lengths, call):
        module._layout.cache_clear()
        its = module._layout(tuple(lengths), tuple(lengths), False, call)
        return [count for count, _ in its.groups], its.queries.sizes

    assert groups([4, 4, 5, 5, 6], 0) == ([2, 2, 1], [8, 10, 6])
    assert groups([4, 4, 5, 5, 6], 1000) == ([5], [30])
    assert groups([4, 4, 5, 5, 6, 50], 2000) == ([5, 1], [30, 50])
    assert groups([4, 4, 5, 5, 6], 300) == ([2, 2, 1], [8, 10, 6])  # the copies of 48 tokens cost more than two calls


@pytest.mark.parametrize("form", ["causal", "cross"])
def test_derivatives_of_padded_groups(form, monkeypatch):
    monkeypatch.setattr(module, "_CALL", 10**9)
    queries, keys = ([2, 3], None) if form == "causal" else ([2, 3], [1, 2])
    q, k, v = made(5)[0], *made(sum(keys or queries))[1:]
    key_sequences = None if keys is None else PackedSequences(keys)

    def function(q, k, v):
        return packed_attention(q, k, v, PackedSequences(queries), causal=form == "causal", key_sequences=key_sequences)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the flash kernel has no second one
        assert torch.autograd.gradcheck(function, (q, k, v), fast_mode=True)
        assert torch.autograd.gradgradcheck(function, (q, k, v), fast_mode=True)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_cross_attention_on_cuda_takes_the_lengths_of_queries_and_keys():
    """What runs there, on a CPU; a causal one has a kernel on CUDA alone."""
    queries, keys = [3, 6, 1], [5, 2, 9]
    q, k, v = made(10)[0], *made(16)[1:]
    got = _jagged(q, k, v, PackedSequences(queries), PackedSequences(keys), 0.0, False)
    torch.testing.assert_close(got, by_definition(q, k, v, queries, keys, False), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("form", ["causal", "cross"])
def test_dropout_of_causal_and_cross_attention_keeps_the_mean(form, monkeypatch):
    """Over 2,000 copies of the sequences in one padded call."""
    monkeypatch.setattr(module, "_CALL", 10**9)
    queries, keys = ([3, 5, 5], None) if form == "causal" else ([3, 5, 5], [6, 2, 4])
    q, k, v = made(13)[0], *made(sum(keys or queries))[1:]
    copies = [tensor.detach().repeat(2000, 1, 1) for tensor in (q, k, v)]
    key_sequences = None if keys is None else PackedSequences(keys * 2000)
    torch.manual_seed(3)
    got = packed_attention(
        *copies, PackedSequences(queries * 2000), 0.5, causal=form == "causal", key_sequences=key_sequences
    ).unflatten(0, (2000, 13))
    assert not torch.equal(got[0], got[1])
    expected = by_definition(q, k, v, queries, keys or queries, form == "causal")
    torch.testing.assert_close(got.mean(0), expected, rtol=0, atol=0.25)


def test_keys_that_do_not_fit():
    q, k, v = made(5)
    with pytest.raises(UserError, match="causal must be without key_sequences, got both"):
        packed_attention(q, k, v, PackedSequences([5]), causal=True, key_sequences=PackedSequences([5]))
    with pytest.raises(UserError, match="key_sequences must be as many as sequences, 1, got 2"):
        packed_attention(q, k, v, PackedSequences([5]), key_sequences=PackedSequences([2, 3]))


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
