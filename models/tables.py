"""The parts that networks on tables share: embeddings of many slots, the linear part, the hidden layers.

A slot is a categorical column. The embeddings of all slots are in one table, which one look-up reads; a state dict has
a table for each slot, under the names of DeepCTR-Torch (https://github.com/shenweichen/DeepCTR-Torch, 0.3.0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.nn import SparseTable


class SlotEmbeddings(SparseTable):
    """Embeddings of several slots in one table, row `offsets[slot] + id`.

    Args:
        slots: the number of ids of each slot, by its name.
        dim: the length of an embedding.
        std: standard deviation of the initial values.
        sparse: whether the gradient is sparse, of the rows that were looked up, for the optimizers that update these
            alone (airank_fast.optim.SparseAdam).

    Input: ids [b, slots], each in [0, size of its slot), which is not checked; with one slot [b, columns], of columns
    that share it. Output: float32 [b, slots or columns, dim].
    The parameter is `weight` [rows, dim]; a state dict has NAME.weight [size, dim] for each slot instead, which are
    views of it.
    """

    offsets: Tensor

    def __init__(self, slots: Mapping[str, int], dim: int, std: float, sparse: bool = False) -> None:
        sizes = torch.tensor(list(slots.values()))
        rows = int(sizes.sum())
        of_slots = slots.values() if sparse and len(slots) > 1 else None
        super().__init__(rows, dim, sparse=sparse, _weight=torch.empty(rows, dim), slot_sizes=of_slots)
        self.slots = dict(slots)
        self.register_buffer("offsets", sizes.cumsum(0) - sizes, persistent=False)
        nn.init.normal_(self.weight, std=std)

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) if self.sparse else F.embedding(ids + self.offsets, self.weight)

    def tables(self) -> dict[str, Tensor]:
        """The embeddings of each slot, [size, dim], as views without gradient."""
        return dict(zip(self.slots, self.weight.detach().split(list(self.slots.values())), strict=True))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination.update({f"{prefix}{name}.weight": table for name, table in self.tables().items()})

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        tables = {f"{prefix}{name}.weight": table for name, table in self.tables().items()}
        for key, table in tables.items():
            if key not in state_dict:
                missing_keys.append(key)
            elif state_dict[key].shape != table.shape:
                shapes = f"{list(table.shape)}, got {list(state_dict[key].shape)}"
                error_msgs.append(f"{key}: must have shape {shapes}")
            else:
                table.copy_(state_dict[key])
        unexpected_keys += [key for key in state_dict if key.startswith(prefix) and key not in tables]


class Linear(nn.Module):
    """The first-order part: the sum of a weight for each id, and of the numbers times theirs; all weights start at 0.

    Input: dense float32 [b, numbers], ids as SlotEmbeddings takes them. Output: float32 [b].
    """

    def __init__(self, slots: Mapping[str, int], num_dense: int, sparse: bool = False) -> None:
        super().__init__()
        self.embedding_dict = SlotEmbeddings(slots, 1, std=0.0, sparse=sparse) if slots else None
        self.weight = nn.Parameter(torch.zeros(num_dense, 1)) if num_dense else None

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        logits = dense.new_zeros(len(dense)) if self.embedding_dict is None else self.embedding_dict(ids).sum((1, 2))
        return logits if self.weight is None else logits + (dense * self.weight.T).sum(1)


class NumberEmbeddings(nn.Module):
    """An embedding of each number: a learned row times its value. [b, numbers] to [b, numbers, dim]."""

    def __init__(self, num_dense: int, dim: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_dense, dim))
        nn.init.normal_(self.weight, std=std)

    def forward(self, dense: Tensor) -> Tensor:
        return dense[:, :, None] * self.weight


class HiddenLayers(nn.Module):
    """Linear layers, each with a ReLU behind it: [b, in_features] to [b, widths[-1]], in the dtype of the weights."""

    def __init__(self, in_features: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(*sizes) for sizes in pairwise([in_features, *widths]))

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.linears[0].weight.dtype)  # mixed precision begins behind the embeddings
        for linear in self.linears:
            x = F.relu(linear(x))
        return x


class Logit(nn.Linear):
    """A linear layer to one number, without bias, in float32, as logits of 16 bits tie: [b, n] to [b]."""

    def __init__(self, in_features: int) -> None:
        super().__init__(in_features, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() * self.weight.float()).sum(1)


class Bias(nn.Module):
    """Adds a learned number, 0 at first."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias
