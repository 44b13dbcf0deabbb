"""Several meters of one evaluation as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airank_fast.job import Meter, Ranks


class Several:
    """The values of all meters together; `counts` are those of the first, whose metric is the task's headline."""

    counts: Mapping[str, int] = {}

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = meters

    def update(self, outputs: Any, batch: Any) -> None:
        """Add a batch to each."""
        for meter in self._meters:
            meter.update(outputs, batch)

    def values(self, ranks: Ranks) -> dict[str, float]:
        """{metric: value} of all meters."""
        values = {name: value for meter in self._meters for name, value in meter.values(ranks).items()}
        self.counts = self._meters[0].counts
        return values
