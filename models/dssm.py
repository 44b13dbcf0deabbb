"""DSSM: two towers over bags of letter trigrams, which give vectors of length 1 whose product is the cosine.

Huang et al., "Learning Deep Structured Semantic Models for Web Search using Clickthrough Data", 2013, with a shortcut
from the bag to the vector. The last layer begins at zero, so that the cosine of a new network is about that of the
weighted bags themselves (a random projection): it begins as a lexical match and learns the rest.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.nn import SparseTableBag

TensorBags: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Buckets, int64 [T], their weights, float32 [T], and the start of each of b bags, and T: int64 [b + 1]."""


class Tower(nn.Module):
    """A bag's weighted sum of its buckets' rows, tanh layers above it, and the sum of both: [b, width].

    dropout: of buckets, in training. sparse: the table's gradient is sparse, of the rows in the bags.
    """

    def __init__(self, num_buckets: int, width: int, num_layers: int, dropout: float, sparse: bool = False) -> None:
        super().__init__()
        empty = torch.empty(num_buckets, width)
        self.table = SparseTableBag(
            num_buckets, width, mode="sum", include_last_offset=True, sparse=sparse, _weight=empty
        )
        self.bias = nn.Parameter(torch.zeros(width))
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(num_layers))
        self.dropout = dropout
        nn.init.normal_(self.table.weight, std=width**-0.5)
        for layer in self.layers:
            last = layer is self.layers[-1]
            nn.init.zeros_(layer.bias)
            nn.init.zeros_(layer.weight) if last else nn.init.xavier_uniform_(layer.weight)

    def forward(self, bags: TensorBags) -> Tensor:
        """Vectors of length 1, float32 [b, width]; a text without trigrams has that of the biases, or 0."""
        ids, weights, offsets = bags
        weights = F.dropout(weights, self.dropout, self.training)
        bag = self.table(ids, offsets, weights)
        hidden = torch.tanh(bag + self.bias).to(self.layers[0].weight.dtype)  # mixed precision begins behind the table
        for layer in self.layers[:-1]:
            hidden = torch.tanh(layer(hidden))
        return F.normalize((bag + self.layers[-1](hidden)).float(), dim=1)


class DSSM(nn.Module):
    """The tower of queries and that of documents; with `shared` they are one network."""

    def __init__(
        self,
        num_buckets: int = 20_000,
        width: int = 512,
        num_layers: int = 2,
        *,
        dropout: float = 0.0,
        shared: bool = True,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        sizes = num_buckets, width, num_layers
        self.towers = nn.ModuleList(Tower(*sizes, dropout, sparse) for _ in range(1 if shared else 2))
        if not shared:  # they begin as equals, as the cosine of two random projections is noise
            self.towers[1].load_state_dict(self.towers[0].state_dict())

    def forward(self, queries: TensorBags, documents: TensorBags) -> tuple[Tensor, Tensor]:
        """Vectors of length 1: float32 [b, width] of the queries, [c, width] of the documents."""
        if len(self.towers) > 1:
            return self.towers[0](queries), self.towers[1](documents)
        num_queries, offsets = len(queries[2]) - 1, (queries[2], documents[2][1:] + queries[2][-1])
        texts = (torch.cat(pair) for pair in (*zip(queries[:2], documents[:2], strict=True), offsets))
        vectors = self.towers[0](tuple(texts))
        return vectors[:num_queries], vectors[num_queries:]
