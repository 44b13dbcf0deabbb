"""Finds files that have no place in a folder of a submission tree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from airank_fast.rules.findings import Finding
from airank_fast.rules.mlperf_inference import rules


def strays(folder: Path, required: Iterable[str], optional: Iterable[str] = ()) -> Iterator[Finding]:
    """A finding for each file that is none of these; none of a folder that is not there."""
    if not folder.is_dir():
        return
    present = {entry.name for entry in folder.iterdir() if entry.is_file()}
    required = list(required)
    for name in sorted(present - {*required, *optional}):
        yield rules.STRAY.broken(str(folder / name), None, f"a file {name}", f"only {', '.join(required)} belong here")
