"""Skip-gram's tables: word2vec.c's initial values, and logits whose gradient is the loss's, pair by pair."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from airank_fast.models.word2vec import SkipGram
from airank_fast.nn.skip_gram import negative_table, skip_gram_loss


def test_initial_values_are_word2vec_s():
    model = SkipGram(500, 50)
    assert {name: list(tensor.shape) for name, tensor in model.state_dict().items()} == {
        "syn0.weight": [500, 50],
        "syn1neg.weight": [500, 50],
    }
    assert -0.01 <= model.syn0.weight.min() < -0.0099 < 0.0099 < model.syn0.weight.max() < 0.01
    assert not model.syn1neg.weight.any()


def test_the_loss_of_one_window_is_that_of_its_logits():
    """Of two words each is the other's context; the second window begins from what the first has moved by lr."""
    torch.manual_seed(0)
    model = SkipGram(7, 4)
    torch.nn.init.normal_(model.syn0.weight)
    torch.nn.init.normal_(model.syn1neg.weight)
    words, offsets = torch.tensor([2, 5]), torch.tensor([0, 2])
    options = {"lr": 1e-3, "window": 1, "num_negatives": 0, "seed": 0}
    tables = model.syn0.weight, model.syn1neg.weight
    loss = skip_gram_loss(*tables, words, offsets, negative_table([1] * 7), **options)
    loss.backward()
    ours = [table.grad.to_dense() for table in tables]
    model.zero_grad()
    logits = model(words, words.flip(0))
    expected = F.binary_cross_entropy_with_logits(logits, torch.ones(2), reduction="sum")
    torch.testing.assert_close(loss, expected.detach() / 2, atol=0, rtol=1e-2)
    expected.backward()
    for mine, table in zip(ours, tables, strict=True):
        torch.testing.assert_close(mine, table.grad.to_dense(), atol=5e-3, rtol=0)
