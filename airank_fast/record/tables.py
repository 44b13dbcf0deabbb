"""Tables for a terminal: columns aligned, Chinese headings two columns wide."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table; the first column is flush left, the others flush right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(width, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * wide for wide in widths]
    return [
        "  ".join(
            _pad(cell, wide, index == 0) for index, (cell, wide) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (cells[0], rule, *cells[1:])
    ]


def width(text: str) -> int:
    """Columns of a terminal that the text takes."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _pad(text: str, wide: int, left: bool) -> str:
    space = " " * (wide - width(text))
    return text + space if left else space + text
