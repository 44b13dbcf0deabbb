"""Which rule book judges what: a path to the findings of every book that concerns it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.record.detect import FORMATS, detect
from airank_fast.record.lines import Lines
from airank_fast.rules import mlperf
from airank_fast.rules.findings import Finding

# Format of a file (see record/detect.py) -> its book: check(lines) yields findings.
BOOKS: dict[str, Callable[[Lines], Iterator[Finding]]] = {"mlperf": mlperf.check}


def verify(path: str | os.PathLike) -> Iterator[Finding]:
    """The findings about a file, a run directory or a submission tree.

    UserError if the path cannot be read or holds nothing that a book knows.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: a file is required, got a directory")
    formats = detect(path)
    if not formats:
        raise UserError(f"{path}: a file in one of the formats {', '.join(FORMATS)} is required, got none of them")
    for name in formats:
        if name in BOOKS:
            yield from BOOKS[name](Lines(path))
