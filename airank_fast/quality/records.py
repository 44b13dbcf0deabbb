"""Meters that need every sample at once, such as AUC: records by sample, gathered over ranks, duplicates dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from airank_fast.errors import require
from airank_fast.job import Ranks

Column = Tensor | Sequence[Any]


class Records:
    """One record for each sample of the evaluation set, from which `compute` makes the values.

    A subclass implements `record(outputs, batch)` and `compute(columns)`. A sample may come more than once, on one rank
    or on several (as from readers that fill up their last batch): its first record counts, in the order of ranks.
    """

    counts: Mapping[str, int] = {}

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, dict[str, Column]]] = []

    def record(self, outputs: Any, batch: Any) -> tuple[Tensor, dict[str, Column]]:
        """The batch's samples by number, int64 [n], and columns of n entries: tensors [n, ...], or any objects."""
        raise NotImplementedError

    def compute(self, columns: dict[str, np.ndarray]) -> dict[str, float]:
        """{metric: value} of all records, in the order of their samples; objects are in columns of dtype object."""
        raise NotImplementedError

    def update(self, outputs: Any, batch: Any) -> None:
        """Keep a batch's records, on their device; does not wait for it."""
        samples, columns = self.record(outputs, batch)
        for name, column in columns.items():
            assert len(column) == len(samples), f"{name}: must have {len(samples)} entries, got {len(column)}"
        self._parts.append((samples, columns))

    def values(self, ranks: Ranks) -> dict[str, float]:
        """{metric: value} over all ranks; UserError where no rank has a record."""
        mine = [
            (_array(samples), {name: _array(column) for name, column in columns.items()})
            for samples, columns in self._parts
        ]
        parts = [part for of_rank in ranks.gather_objects(mine) for part in of_rank]
        require(sum(len(samples) for samples, _ in parts), "evaluation set", "one with a sample", "none")
        _, first = np.unique(np.concatenate([samples for samples, _ in parts]), return_index=True)
        names = parts[0][1]
        return self.compute({name: np.concatenate([columns[name] for _, columns in parts])[first] for name in names})


def _array(column: Column) -> np.ndarray:
    """A column on the host; 16-bit floats, which numpy lacks, as float32."""
    if isinstance(column, Tensor):
        column = column.float() if column.dtype in (torch.bfloat16, torch.float16) else column
        return column.cpu().numpy()
    array = np.empty(len(column), object)
    for index, entry in enumerate(column):  # one by one: from lists of one length numpy makes two dimensions
        array[index] = entry
    return array
