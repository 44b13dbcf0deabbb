"""A run as it lies on disk, whoever wrote it: a run directory, an event log, or a log in a known format."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from airank_fast.errors import UserError
from airank_fast.record.detect import detect
from airank_fast.record.events import Event, iter_events
from airank_fast.record.formats import airank, mlperf
from airank_fast.record.lines import Lines
from airank_fast.record.metrics import summarize

PARSERS = {"mlperf": mlperf.parse, "airank": airank.parse}  # the better source first


@dataclass(frozen=True)
class Run:
    """A run and what was read of it: where from, in which format, its events and their figures."""

    path: Path
    source: Path
    format: str
    events: list[Event] = field(repr=False)
    summary: dict = field(repr=False)  # see metrics.summarize

    def first(self, kind: str) -> Event:
        """The first event of a kind; {} if there is none."""
        return next((event for event in self.events if event["kind"] == kind), {})


def read_run(path: str | os.PathLike, known: dict | None = None, prefer: str | None = None) -> Run:
    """The run at `path`: a directory with events.jsonl, or one log file.

    `known` holds fields of run_config that the log does not carry (target, unit, samples_per_epoch ...); the
    log's own come first. `prefer` names the format to read where a file holds several. UserError if there is no
    run, or none that can be read.
    """
    path = Path(path)
    source = path / "events.jsonl" if path.is_dir() else path
    if not source.is_file():
        raise UserError(f"{path}: a run directory with events.jsonl or a log file is required, got none")
    formats = detect(source)
    if prefer is not None and prefer not in formats:
        raise UserError(f"{path}: a log of format {prefer} is required, got {', '.join(formats) or 'none known'}")
    name = prefer or next((name for name in ("events", *PARSERS) if name in formats), None)
    if name is None:
        raise UserError(f"{path}: a log of a known format is required, got {', '.join(formats) or 'none'}")
    events = list(_complete(iter_events(source) if name == "events" else PARSERS[name](Lines(source)), known or {}))
    return Run(path, source, name, events, summarize(events))


def _complete(events: Iterable[Event], known: dict) -> Iterator[Event]:
    """The events, with what is known besides in the run_config, which comes before all that is timed."""
    told = not known
    for event in events:
        if not told and event["kind"] == "run_config":
            event, told = {**known, **event}, True
        elif not told and event["kind"] == "run_start":
            yield {"t": event["t"], "kind": "run_config", **known}
            told = True
        yield event
