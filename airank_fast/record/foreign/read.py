"""A run as it lies on disk, whoever wrote it: a run directory, an event log, or a log in a known format."""

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
from airank_fast.record.foreign.detect import detect
from airank_fast.record.formats import airank, dllogger, mlperf, perflog
from airank_fast.record.lines import PACKED, Lines
from airank_fast.record.metrics import Tally

# The better source first.
PARSERS = {"mlperf": mlperf.parse, "airank": airank.parse, "perflog": perflog.parse, "dllogger": dllogger.parse}


_CARDS = re.compile(r"GPUx([1-9]\d{0,5})")


def cards_in_name(path: Path) -> int | None:
    """The number of cards that AI-Rank's name of a log says: 8 of GPUx8.log, packed or not; None of another name."""
    name = path.name.removesuffix(path.suffix) if path.suffix in PACKED else path.name
    match = _CARDS.match(name) if name.endswith(".log") else None
    return int(match[1]) if match else None


@dataclass(frozen=True)
class Run:
    """A run and what was read of it: where from, in which format, its events and their figures."""

    path: Path
    source: Path
    format: str
    events: list[Event] = field(repr=False)
    summary: dict = field(repr=False)  # see metrics.summarize
    absent: dict[str, str] = field(default_factory=dict, repr=False)  # figures that the log does not give: why

    def first(self, kind: str) -> Event:
        """The first event of a kind; {} if there is none."""
        return next((event for event in self.events if event["kind"] == kind), {})


def read_run(path: str | os.PathLike, known: dict | None = None, prefer: str | None = None) -> Run:
    """The run at `path`: a directory with events.jsonl, or one log file.

    `known` holds fields of run_config that the log does not carry (target, unit, samples_per_epoch ...); the
    log's own come first. With them, what follows from the log is completed (see complete.py); what another
    program's log reads out between its evaluations is not kept. `prefer` names the format to read where a file holds
    several. UserError, with the path, if there is no run, or none that can be read.
    """
    source, name = find_log(path, prefer)
    try:
        events = [each for each in LogReader(source, name, known).events() if each["kind"] != "reading"]
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
        raise UserError(f"{path}: must be a log of format {prefer}, got {', '.join(formats) or 'none known'}")
    name = prefer or next((name for name in ("events", *PARSERS) if name in formats), None)
    if name != "events" and name not in PARSERS:
        raise UserError(f"{path}: must be a log of a known format, got {', '.join(formats) or 'none'}")
    return source, name


class LogReader:
    """Reads the completed events of a log in the format `name`, one at a time and as often as they are asked for.

    What is not ours is read once more, the first time, for its outline.
    """

    def __init__(
        self,
        source: Path,
        name: str,
        known: dict | None = None,
        parsers: dict[str, Callable[[Iterable[str]], Iterator[Event]]] | None = None,
    ):
        self._source, self._name, self._known = source, name, known or {}
        self._parse = {**PARSERS, **(parsers or {})}.get(name)
        self._outline: Outline | None = None

    def events(self) -> Iterator[Event]:
        """The events, from the first on."""
        if self._parse is None:
            yield from _in_its_unit(_with_known(_checked(iter_events(self._source)), self._known))
            return
        if self._outline is None:
            events = self._parse(Lines(self._source))
            self._outline = Outline(events, self._known, counts_samples=self._name == "mlperf")
            if not self._outline.kinds:
                wanted = f"a log of a run is required, got no line of format {self._name} that can be read"
                raise UserError(f"{self._source}: {wanted}")
        yield from complete(self._parse(Lines(self._source)), self._outline)


def _checked(events: Iterable[Event]) -> Iterator[Event]:
    """Events of a file, each with all that its maker states: a recorder of ours has a process id, `convert` none."""
    required = REQUIRED
    for event in events:
        if event["kind"] == "process_start" and event.get("pid") is not None:
            required = REQUIRED_OF_OURS
        yield checked(event, required)


def _in_its_unit(events: Iterable[Event]) -> Iterator[Event]:
    """Our own events, whose accuracies are in the unit of the task's metric. UserError for one that is not."""
    metric = None
    for event in events:
        if event["kind"] == "run_config":
            metric = tasks.headline(event)
        elif event["kind"] == "eval_stop" and metric is not None and metric.is_per_cent([event["accuracy"]]):
            raise UserError(f"eval_stop: accuracy must be from 0 to 1, got {event['accuracy']:g}")
        yield event


def _with_known(events: Iterable[Event], known: dict) -> Iterator[Event]:
    """Our own events, with what is known besides in the run_config, which comes before all that is timed."""
    told = not known
    for event in events:
        if not told and event["kind"] == "run_config":
            event, told = {**known, **event}, True
        elif not told and event["kind"] == "run_start":
            yield {"t": event["t"], "kind": "run_config", **known}
            told = True
        yield event
