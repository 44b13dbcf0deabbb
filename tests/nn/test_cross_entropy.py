"""nn.CrossEntropyLoss and nn.cross_entropy in place of torch's."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.nn import functional as F

from airank_fast.nn import CrossEntropyLoss, cross_entropy


def made(dtype=torch.float32):
    torch.manual_seed(0)
    return torch.randn(8, 10, dtype=torch.float32).to(dtype).requires_grad_(), torch.randint(10, (8,))


@pytest.mark.parametrize(
    "options",
    [{}, {"reduction": "sum"}, {"reduction": "none", "label_smoothing": 0.1}, {"ignore_index": 3}],
    ids=str,
)
def test_drop_in(options):
    logits, target = made()
    want = F.cross_entropy(logits, target, **options)
    torch.testing.assert_close(torch.nn.CrossEntropyLoss(**options)(logits, target), want)
    torch.testing.assert_close(CrossEntropyLoss(**options)(logits, target), want)
    torch.testing.assert_close(cross_entropy(logits, target, **options), want)


def test_arguments_come_in_torchs_order():
    for ours, theirs in (
        (cross_entropy, F.cross_entropy),
        (CrossEntropyLoss.__init__, torch.nn.CrossEntropyLoss.__init__),
    ):
        theirs, ours = inspect.signature(theirs).parameters, inspect.signature(ours).parameters
        assert [*ours][: len(theirs)] == [*theirs]
        assert [p.default for p in ours.values()][: len(theirs)] == [p.default for p in theirs.values()]
        assert [*ours][len(theirs) :] == ["inplace_backward"]


def test_the_loss_of_16_bit_logits_is_float32():
    logits, target = made(torch.bfloat16)
    loss = cross_entropy(logits, target)
    loss.backward()
    assert loss.dtype == torch.float32
    assert logits.grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss, F.cross_entropy(logits.float(), target))


def test_under_autocast_and_a_gradient_scaler():
    logits, target = made(torch.float16)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with torch.autocast("cpu", torch.float16):
        loss = CrossEntropyLoss(label_smoothing=0.1)(logits, target)
    scaler.scale(loss).backward()
    wide = logits.detach().float().requires_grad_()
    (1024 * F.cross_entropy(wide, target, label_smoothing=0.1)).backward()
    torch.testing.assert_close(logits.grad, wide.grad.half())


def test_inplace_backward():
    logits, target = made()
    CrossEntropyLoss()(logits, target).backward()
    want, logits.grad = logits.grad, None
    computed = logits * 1
    CrossEntropyLoss(inplace_backward=True)(computed, target).backward()
    assert torch.equal(logits.grad, want)
    assert torch.equal(computed, want)


def test_what_it_cannot_do_is_an_error():
    logits, target = made()
    with pytest.raises(ValueError, match=r"^CrossEntropyLoss: weight must be None, got tensor"):
        CrossEntropyLoss(torch.ones(10))
    with pytest.raises(ValueError, match=r"^cross_entropy: weight must be None, got tensor"):
        cross_entropy(logits, target, torch.ones(10))
    with pytest.raises(ValueError, match=r"^CrossEntropyLoss: reduce must be None, got True$"):
        CrossEntropyLoss(reduce=True)
    with pytest.raises(RuntimeError, match=r"^cross_entropy: target must be int64, got float32$"):
        cross_entropy(logits, logits.detach().softmax(1))


def test_label_smoothing_of_a_vocabulary_is_fairseqs_by_a_factor():
    """fairseq's definition gives a wrong token eps / (V - 1), torch's eps / V and the rest to the right one.

    So fairseq's eps is torch's eps V / (V - 1). At WMT's 33,708 tokens; the sum over micro-batches is that over all.
    """
    size, eps = 33_708, 0.1
    torch.manual_seed(0)
    logits, target = torch.randn(12, size, requires_grad=True), torch.randint(size, (12,))
    log_p = logits.double().log_softmax(1)
    right = log_p.gather(1, target[:, None]).sum()
    expected = -(1 - eps - eps / (size - 1)) * right - eps / (size - 1) * log_p.sum()
    parts = [
        cross_entropy(*part, reduction="sum", label_smoothing=eps * size / (size - 1)) / len(target)
        for part in zip(logits.split([5, 7]), target.split([5, 7]), strict=True)
    ]
    torch.testing.assert_close(sum(parts).double(), expected / len(target), rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(expected / len(target), logits)
    (got,) = torch.autograd.grad(sum(parts), logits)
    torch.testing.assert_close(got, gradient, rtol=1e-4, atol=1e-9)
