"""Reads an inference run from disk: a run directory, or its events.jsonl."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.record.events import iter_events
from airank_fast.record.foreign.detect import detect
from airank_fast.record.inference_metrics import InferenceTally

_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True)
class InferenceRun:
    """An inference run that was read: its path, its events' totals, and its figures (`inference_metrics.summarize`)."""

    path: Path
    tally: InferenceTally = field(repr=False)
    summary: dict = field(repr=False)


def is_inference(path: str | os.PathLike) -> bool:
    """Whether a run directory or an event log is of an inference run; False for what cannot be read."""
    source = _source(Path(path))
    try:
        return source.is_file() and "inference_events" in detect(source)
    except UserError:
        return False


def read_inference(path: str | os.PathLike) -> InferenceRun:
    """The inference run at `path`. UserError, with the path, for one whose events lack fields of their kinds."""
    tally, source = InferenceTally(), _source(Path(path))
    try:
        for event in iter_events(source):
            tally.feed(event)
        return InferenceRun(Path(path), tally, tally.summary())
    except UserError:
        raise
    except _MALFORMED as error:
        required = "must have events with the fields of their kinds"
        raise UserError(f"{path}: {required}, got {type(error).__name__}: {error}") from None


def _source(path: Path) -> Path:
    return path / "events.jsonl" if path.is_dir() else path
