"""Wide & Deep: a linear model of ids and of their combinations, and a network on their embeddings, added.

Cheng et al., "Wide & Deep Learning for Recommender Systems", 2016. Parameter names are those of DeepCTR-Torch's WDL, in
which combined columns are further slots of the linear part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from airank_fast.models.tables import Bias, HiddenLayers, Linear, Logit, SlotEmbeddings


class WideDeep(nn.Module):
    """Logits of label 1.

    Args:
        slots: the number of ids of each embedded column, by its name, in the order of the ids.
        num_dense: number columns.
        embedding_dim: the length of an embedding.
        hidden: widths of the hidden layers.
        crosses: likewise of the columns that the wide part alone has, behind the others.
        embedding_std: standard deviation of the initial embeddings.
        columns: the columns that share the one slot, as hashed ids do; default: each slot is a column.
        wide_ids: whether the wide part has a weight for each id; else it has weights of the numbers alone.
        sparse: whether the gradient of the embeddings is sparse; see SlotEmbeddings.

    Input: dense float32 [b, num_dense]; ids, integers [b, columns and crosses]. Output: logits float32 [b].
    """

    def __init__(
        self,
        slots: Mapping[str, int],
        num_dense: int,
        *,
        embedding_dim: int,
        hidden: Sequence[int],
        crosses: Mapping[str, int] | None = None,
        embedding_std: float = 0.01,
        columns: int | None = None,
        wide_ids: bool = True,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.num_columns = columns or len(slots)
        self.linear_model = Linear({**slots, **(crosses or {})} if wide_ids else {}, num_dense)
        self.embedding_dict = SlotEmbeddings(slots, embedding_dim, embedding_std, sparse)
        self.dnn = HiddenLayers(self.num_columns * embedding_dim + num_dense, hidden)
        self.dnn_linear = Logit(hidden[-1])
        self.out = Bias()

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        embedded = self.embedding_dict(ids[:, : self.num_columns])
        hidden = self.dnn(torch.cat([embedded.flatten(1), dense], 1))
        return self.out(self.linear_model(dense, ids) + self.dnn_linear(hidden))
