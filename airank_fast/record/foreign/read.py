"""Reads a run from disk, whichever program wrote it: a run directory, an event log, or a log of another format."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.record.events import Event, iter_events
from airank_fast.record.foreign.complete import REQUIRED, REQUIRED_OF_OURS, Outline, checked, complete
from airank_fast.record.foreign.detect import INFERENCE_FORMATS, detect
from airank_fast.record.formats import airank, dllogger, mlperf, perflog
from airank_fast.record.lines import PACKED, Lines
from airank_fast.record.metrics import Tally

# The format with the most information first.
PARSERS = {"mlperf": mlperf.parse, "airank": airank.parse, "perflog": perflog.parse, "dllogger": dllogger.parse}


_CARDS = re.compile(r"GPUx([1-9]\d{0,5})")


def cards_in_name(path: Path) -> int | None:
    """The number of cards in a log's name of AI-Rank's form: 8 of GPUx8.log, packed or not; None of another name."""
    name = path.name.removesuffix(path.suffix) if path.suffix in PACKED else path.name
    match = _CARDS.match(name) if name.endswith(".log") else None
    return int(match[1]) if match else None


@dataclass(frozen=True)
class Run:
    """A run that was read: its path and format, its events and their figures."""

    path: Path
    source: Path
    format: str
    events: list[Event] = field(repr=False)
    summary: dict = field(repr=False)  # see metrics.summarize
    absent: dict[str, str] = field(default_factory=dict, repr=False)  # {figure that the log does not give: reason}

    def first(self, kind: str) -> Event:
        """The first event of a kind; {} if there is none."""
        return next((event for event in self.events if event["kind"] == kind), {})


def read_run(path: str | os.PathLike, given: dict | None = None, prefer: str | None = None) -> Run:
    """The run at `path`: a directory with events.jsonl, or one log file.

    `given` holds fields of run_config that the log may lack (target, unit, samples_per_epoch ...); the log's own
    come first. Fields that follow from both are filled in (see complete.py); another program's readings between
    evaluations are dropped. `prefer` names the format to read where a file holds several. UserError, with the path,
    if there is no run, or none that can be read.
    """
    source, name = find_log(path, prefer)
    try:
        events = [each for each in LogReader(source, name, given).events() if each["kind"] != "reading"]
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(str(source)) else f"{source}: {text}") from None
    if not events:
        raise UserError(f"{source}: must be a log of a run, got no event")
    tally = Tally()
    for event in events:
        tally.feed(event)
    return Run(Path(path), source, name, events, tally.summary(), tally.absent())


def find_log(path: str | os.PathLike, prefer: str | None = None) -> tuple[Path, str]:
    """(the log of the run at `path`, its format). UserError if there is none."""
    path = Path(path)
    source = path / "events.jsonl" if path.is_dir() else path
    if not source.is_file():
        raise UserError(f"{path}: must be a run directory with events.jsonl or a log file, got none")
    formats = detect(source)
    if prefer is not None and prefer not in formats:
        raise UserError(f"{path}: must be a log of format {prefer}, got {', '.join(formats) or 'none'}")
    name = prefer or next((name for name in ("events", *PARSERS) if name in formats), None)
    if name is None and formats and set(formats) <= set(INFERENCE_FORMATS):
        raise UserError(f"{path}: must be a log of a training run, got one of inference ({', '.join(formats)})")
    if name != "events" and name not in PARSERS:
        raise UserError(f"{path}: must be a log of a known format, got {', '.join(formats) or 'none'}")
    return source, name


class LogReader:
    """Reads the completed events of a log in the format `name`, one at a time, at each call of `events`.

    The first call reads another program's log once more, for its outline.
    """

    def __init__(
        self,
        source: Path,
        name: str,
        given: dict | None = None,
        parsers: dict[str, Callable[[Iterable[str]], Iterator[Event]]] | None = None,
    ):
        self._source, self._name, self._given = source, name, given or {}
        self._parse = {**PARSERS, **(parsers or {})}.get(name)
        self._outline: Outline | None = None

    def events(self) -> Iterator[Event]:
        """The events, from the first on."""
        if self._parse is None:
            yield from _in_its_unit(_with_given(_checked(iter_events(self._source)), self._given))
            return
        if self._outline is None:
            events = self._parse(Lines(self._source))
            self._outline = Outline(events, self._given, counts_samples=self._name == "mlperf")
            if not self._outline.kinds:
                got = f"got no line of format {self._name} that can be read"
                raise UserError(f"{self._source}: must be a log of a run, {got}")
        yield from complete(self._parse(Lines(self._source)), self._outline)


def _checked(events: Iterable[Event]) -> Iterator[Event]:
    """Events of a file, each with the fields that its writer records. Our recorder has a process id, `convert` none."""
    required = REQUIRED
    for event in events:
        if event["kind"] == "process_start" and event.get("pid") is not None:
            required = REQUIRED_OF_OURS
        yield checked(event, required)


def _in_its_unit(events: Iterable[Event]) -> Iterator[Event]:
    """Our own events; UserError for an accuracy that is not in the unit of the task's metric."""
    metric = None
    for event in events:
        if event["kind"] == "run_config":
            metric = tasks.headline(event)
        elif event["kind"] == "eval_stop" and metric is not None and metric.is_per_cent([event["accuracy"]]):
            raise UserError(f"eval_stop: accuracy must be from 0 to 1, got {event['accuracy']:g}")
        yield event


def _with_given(events: Iterable[Event], given: dict) -> Iterator[Event]:
    """Our own events with the given fields in run_config; one without it gets one before run_start."""
    is_done = not given
    for event in events:
        if not is_done and event["kind"] == "run_config":
            event, is_done = {**given, **event}, True
        elif not is_done and event["kind"] == "run_start":
            yield {"t": event["t"], "kind": "run_config", **given}
            is_done = True
        yield event
