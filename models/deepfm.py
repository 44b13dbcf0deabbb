"""DeepFM: a factorisation machine and a network on the same embeddings, added.

Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", 2017. Parameter names are those
of DeepCTR-Torch's DeepFM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from airank_fast.models.tables import Bias, HiddenLayers, Linear, Logit, NumberEmbeddings, SlotEmbeddings
from airank_fast.nn import FactorizationMachine


class DeepFM(nn.Module):
    """Logits of label 1.

    Args:
        slots: the number of ids of each categorical column, by its name, in the order of the ids.
        num_dense: number columns; they are in the first-order part and the hidden layers.
        embedding_dim: the length of an embedding.
        hidden: widths of the hidden layers.
        embedding_std: standard deviation of the initial embeddings.
        columns: the columns that share the one slot, as hashed ids do; default: each slot is a column.
        embed_numbers: whether a number has an embedding too, a row times its value, in place of itself in the hidden
            layers.
        sparse: whether the gradients of the tables are sparse; see SlotEmbeddings.
        fused: use airank_fast.nn's operators; without, the same network in torch's own.

    Input: dense float32 [b, num_dense]; ids, integers [b, columns]. Output: logits float32 [b].
    """

    def __init__(
        self,
        slots: Mapping[str, int],
        num_dense: int,
        *,
        embedding_dim: int,
        hidden: Sequence[int],
        embedding_std: float = 0.01,
        columns: int | None = None,
        embed_numbers: bool = False,
        sparse: bool = False,
        fused: bool = True,
    ) -> None:
        super().__init__()
        self.linear_model = Linear(slots, num_dense, sparse)
        self.embedding_dict = SlotEmbeddings(slots, embedding_dim, embedding_std, sparse)
        self.fm = FactorizationMachine() if fused else PlainFactorizationMachine()
        self.number_embedding = NumberEmbeddings(num_dense, embedding_dim, embedding_std) if embed_numbers else None
        per_number = embedding_dim if embed_numbers else 1
        self.dnn = HiddenLayers((columns or len(slots)) * embedding_dim + num_dense * per_number, hidden)
        self.dnn_linear = Logit(hidden[-1])
        self.out = Bias()

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        embedded = self.embedding_dict(ids)
        if self.number_embedding is None:
            hidden = self.dnn(torch.cat([embedded.flatten(1), dense], 1))
        else:
            embedded = torch.cat([embedded, self.number_embedding(dense)], 1)
            hidden = self.dnn(embedded.flatten(1))
        return self.out(self.linear_model(dense, ids) + self.fm(embedded) + self.dnn_linear(hidden))


class PlainFactorizationMachine(nn.Module):
    """The sum over all pairs of slots of their embeddings' dot product: [b, slots, dim] to [b].

    By 2 * sum of pairs = (sum)^2 - sum of squares, in each dimension (Rendle, 2010).
    """

    def forward(self, embedded: Tensor) -> Tensor:
        return 0.5 * (embedded.sum(1).square() - embedded.square().sum(1)).sum(1)
