"""SparseTable and SparseTableBag: torch.nn.Embedding and EmbeddingBag with sparse gradients, over the fused ops.

The gradient of `weight` is a sparse COO tensor. The optimizers of `airank_fast.optim.sparse_table`, and torch's for
sparse gradients, update the touched rows from it; DistributedDataParallel exchanges these rows and not the table.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from airank_fast.errors import UserError
from airank_fast.nn.tracing import one_call
from airank_fast.ops import sparse_table_bag, sparse_table_lookup


class SparseTable(nn.Embedding):
    """A table of rows that are looked up; arguments, parameter and state dict of torch.nn.Embedding, `sparse` is True.

    Shapes: input ``[...]``, int64 or int32, output ``[..., embedding_dim]`` of the dtype of `weight`. With `slot_sizes`
    the input is ``[..., slots]``: the slots' rows lie one behind the other in the table, and the ids of each count from
    0. So one table, one look-up and one update serve all categorical columns of a data set.

    With sparse=False, max_norm or scale_grad_by_freq the forward pass is torch's.

    Raises:
        UserError: slot_sizes that do not fit the table, or beside padding_idx.
        RuntimeError: from `forward`, "sparse_table_lookup: NAME must be WHAT, got GOT", as for an id that is not in
            its slot.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = True,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        slot_sizes: Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            num_embeddings,
            embedding_dim,
            padding_idx,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            sparse,
            _weight,
            _freeze,
            device,
            dtype,
        )
        self.slot_sizes = None if slot_sizes is None else tuple(slot_sizes)
        self.register_buffer("first_rows", self._first_rows(), persistent=False)

    def _first_rows(self) -> Tensor | None:
        sizes = self.slot_sizes
        if sizes is None:
            return None
        if min(sizes, default=0) < 0 or sum(sizes) != self.num_embeddings:
            required = f"sizes >= 0 with the sum {self.num_embeddings}, the number of rows"
            got = f"{sizes}" if min(sizes, default=0) < 0 else f"a sum of {sum(sizes)}"
            raise UserError(f"SparseTable: slot_sizes must be {required}, got {got}")
        allowed = {"padding_idx": None, "max_norm": None, "scale_grad_by_freq": False, "sparse": True}
        for name, value in allowed.items():
            if getattr(self, name) != value:
                raise UserError(f"SparseTable: {name} must be {value} with slot_sizes, got {getattr(self, name)}")
        first = [0, *itertools.accumulate(sizes)][: len(sizes)]
        return torch.tensor(first, dtype=torch.int64, device=self.weight.device)

    @one_call
    def forward(self, input: Tensor) -> Tensor:
        """The rows of the ids."""
        if not self.sparse or self.max_norm is not None or self.scale_grad_by_freq:
            return super().forward(input)
        return sparse_table_lookup(self.weight, input, self.first_rows, padding_idx=self.padding_idx)


class SparseTableBag(nn.EmbeddingBag):
    """Sums or means of bags of rows; arguments, parameter and state dict of torch.nn.EmbeddingBag, `sparse` is True.

    Shapes: input ``[bags, ids]``, or ``[ids]`` with offsets ``[bags]``; output ``[bags, embedding_dim]`` of the dtype
    of `weight`. Sums of 16-bit rows are in float32.

    With sparse=False, mode="max", max_norm, scale_grad_by_freq, or per_sample_weights that require a gradient, the
    forward pass is torch's.

    Raises:
        RuntimeError: from `forward`, "sparse_table_bag: NAME must be WHAT, got GOT", as for an id outside the table.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = True,
        _weight: Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_embeddings,
            embedding_dim,
            max_norm,
            norm_type,
            scale_grad_by_freq,
            mode,
            sparse,
            _weight,
            include_last_offset,
            padding_idx,
            device,
            dtype,
        )

    @one_call
    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """The sum or mean of each bag."""
        weighted = per_sample_weights is not None and per_sample_weights.requires_grad
        others = self.max_norm is not None or self.scale_grad_by_freq or weighted
        if not self.sparse or self.mode == "max" or others:
            return super().forward(input, offsets, per_sample_weights)
        return sparse_table_bag(
            self.weight,
            input,
            offsets,
            mode=self.mode,
            include_last_offset=self.include_last_offset,
            padding_idx=self.padding_idx,
            per_sample_weights=per_sample_weights,
        )
