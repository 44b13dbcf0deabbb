"""Recognised lines of text: the share that match exactly, and how near the others come by edit distance."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from airank_fast.quality.records import Column, Records


class TextMatch(Records):
    """exact_match and one_minus_ned, exact over all ranks. Outputs: int [b, T], the class of each step, 0 for none.

    The batch has `samples`, int64 [b], and `targets.each()`, the classes of each text. exact_match is the share of
    lines whose classes are the text's; one_minus_ned is 1 - the mean of edit distance / length of the longer of both.
    """

    def record(self, outputs: Tensor, batch: Any) -> tuple[Tensor, dict[str, Column]]:
        """What each line was read as, and its text."""
        return batch.samples, {"path": outputs, "text": batch.targets.each()}

    def compute(self, columns: dict[str, np.ndarray]) -> dict[str, float]:
        """Of all lines; each counts, also one of more characters than steps."""
        correct, distance, num = 0, 0.0, len(columns["text"])
        for path, text in zip(columns["path"], columns["text"], strict=True):
            read = tuple(path[path != 0].tolist())
            if read == text:
                correct += 1
            else:
                distance += edit_distance(read, text) / max(len(read), len(text))
        self.counts = {"correct": correct, "counted": num}
        return {"exact_match": correct / num, "one_minus_ned": 1 - distance / num}


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """The fewest insertions, deletions and replacements that make `a` of `b` (Levenshtein).

    Bit-parallel: bit i of `up` (`down`) is set where the distance grows (falls) by 1 from a[:i] to a[:i + 1]; see
    Hyyrö, "A Bit-Vector Algorithm for Computing Levenshtein and Damerau Edit Distances", 2003.
    """
    if not a:
        return len(b)
    places: dict[Hashable, int] = {}
    for i, each in enumerate(a):
        places[each] = places.get(each, 0) | 1 << i
    every, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    up, down, distance = every, 0, len(a)
    for each in b:
        equal = places.get(each, 0) | down
        diagonal = ((((equal & up) + up) ^ up) | equal) & every  # where it stays from a[:i], b[:j] to the next of both
        right_up, right_down = (down | ~(diagonal | up)) & every, up & diagonal
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = (right_up << 1 | 1) & every, (right_down << 1) & every
        up, down = (right_down | ~(diagonal | right_up)) & every, right_up & diagonal
    return distance
