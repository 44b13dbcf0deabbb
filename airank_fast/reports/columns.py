"""Tables of several runs or settings side by side, and tables of plain cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from airank_fast.reports.groups import flat, split
from airank_fast.reports.texts import Texts

MAX_ROWS = 500  # of a recipe or a system


class Columns:
    """Tables of several runs or settings: the items that all share, and the others with a column for each.

    `names` are those of the columns; columns with the same items are one, with all their names.
    """

    def __init__(self, names: Sequence[str], columns: list[dict], t: Texts):
        distinct: dict[str, tuple[list[str], dict]] = {}
        for name, column in zip(names, columns, strict=True):
            flattened = dict(islice(flat(column).items(), MAX_ROWS))
            distinct.setdefault(repr(flattened), ([], flattened))[0].append(name)
        self.names = [", ".join(labels) for labels, _ in distinct.values()]
        self.common, self.different = split([column for _, column in distinct.values()])
        self.is_empty = not self.common and not self.different
        self.has_one = len(distinct) == 1
        self.unknown = t("unknown")


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, and "good" or "bad" where a reader must see it at once."""

    text: str
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table: its title, a heading for each column with whether it has numbers, rows of cells, and a note."""

    title: str
    columns: list[tuple[str, bool]]
    rows: list[list[Cell]]
    note: str = ""
