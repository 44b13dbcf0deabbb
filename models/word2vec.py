"""Word2Vec's skip-gram: a vector of each word as it is looked up, and one as it is predicted.

Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality", 2013. The names are
word2vec.c's and gensim's: syn0 has the word vectors, syn1neg those of the prediction by negative sampling.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from airank_fast.nn import SparseTable


class SkipGram(nn.Module):
    """Both tables, [vocab_size, dim] each: syn0 uniform in [-0.5, 0.5) / dim, syn1neg zeros, as word2vec.c has them."""

    def __init__(self, vocab_size: int, dim: int = 300) -> None:
        super().__init__()
        self.syn0 = SparseTable(vocab_size, dim, _weight=(torch.rand(vocab_size, dim) - 0.5) / dim)
        self.syn1neg = SparseTable(vocab_size, dim, _weight=torch.zeros(vocab_size, dim))

    def forward(self, words: Tensor, contexts: Tensor) -> Tensor:
        """The logits that words, any shape, have these contexts, of the same shape: products of both vectors."""
        return (self.syn0(words) * self.syn1neg(contexts)).sum(-1)
