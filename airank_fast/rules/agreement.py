"""Compares the logs of a run directory with its events: each log is written again from events.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.record.entries import quote
from airank_fast.record.events import Event, effective, name_floats
from airank_fast.record.formats import events, flagperf, mlperf
from airank_fast.record.formats.airank import PREFIX, AIRankLog
from airank_fast.record.formats.mlperf import MLPerfLog
from airank_fast.record.lines import Lines
from airank_fast.record.logs import AIRANK_FILE, MLPERF_FILE
from airank_fast.record.metrics import Tally
from airank_fast.rules.facts import Facts
from airank_fast.rules.findings import ERROR, NOTE, WARNING, Finding, Rule

FILES = (AIRANK_FILE, MLPERF_FILE, "flagperf.json", "flagperf.md", "summary.json")
SOURCE = "events.jsonl beside it, from which every log is made"
DISAGREES = Rule(name="run.agreement", severity=ERROR, source=SOURCE)
NOT_COMPARED = Rule(name="run.not_compared", severity=NOTE, source=SOURCE)
MISSING = Rule(name="run.missing", severity=ERROR, source=SOURCE)
_NOTHING = "nothing"  # shown for a line that one side lacks


class RunEvents:
    """The events of a run directory and their totals, read once."""

    def __init__(self, source: Path):
        self.source = source
        self.tally = Tally()
        self.train_samples: int | None = None
        self.resumed = False
        self.is_closed = False
        """Whether the run has written all its files: a process that is killed has not."""
        for event in self.events():
            self.tally.feed(event)
            self.resumed = self.resumed or event["kind"] == "resume"
            self.is_closed = event["kind"] == "process_stop" or (self.is_closed and event["kind"] != "resume")
            if event["kind"] == "data" and self.train_samples is None:
                self.train_samples = event.get("train_samples")

    def events(self) -> Iterator[Event]:
        """All of them, one at a time."""
        return events.parse(Lines(self.source))

    def effective(self) -> Iterable[Event]:
        """The events that a resume did not make void; the steps of a resumed run are without losses and times."""
        if not self.resumed:
            return self.events()
        no_times = {name: [] for name in ("loss", "lr", "core_s", "wait_s", "h2d_s")}
        return effective(event | no_times if event["kind"] == "steps" else event for event in self.events())

    def facts(self, given: Facts) -> Facts:
        """The facts in the events that a log beside them lacks; those that the user gives take precedence."""
        tally, config = self.tally, self.tally.config
        profile = (config.get("options") or {}).get("airank_profile")
        size = config.get("samples_per_epoch") or self.train_samples
        return replace(
            given,
            profile=given.profile or (profile if isinstance(profile, str) else None),
            task=given.task or tasks.of(config) or tasks.from_facts({"name": config.get("benchmark")}),
            target=tally.target if given.target is None else given.target,
            target_source="events.jsonl" if given.target is None else given.target_source,
            samples_per_epoch=given.samples_per_epoch or size or None,
            units_per_sample=tally.units_per_sample or 1.0,
            epochs=tally.samples / size if size and tally.samples else given.epochs,
            avg_ips=tally.avg_ips()[0] or 0.0,
        )

    def facts_of(self, path: Path, facts: Facts) -> Facts:
        """The facts for one log: the same for each."""
        return facts


def files_in(directory: Path) -> list[Path]:
    """The logs of a training run that are there."""
    return [path for path in (directory / name for name in FILES) if path.is_file()]


def named(run: RunEvents, directory: Path) -> Iterator[Finding]:
    """The findings about files of FILES that the events give and that are missing; they can be made of them again."""
    left_out = () if mlperf.has_benchmark(run.tally.config) else (MLPERF_FILE,)
    for name in FILES if run.is_closed else ():
        if name not in left_out and not (directory / name).is_file():
            yield MISSING.broken(str(directory / name), None, "no such file", "the events give it", WARNING)


def differences(run: RunEvents, path: Path) -> Iterator[Finding]:
    """The findings about lines and fields of one of FILES that differ from the events."""
    if path.name == AIRANK_FILE:
        load_data = any("load_data" in line for line in islice(Lines(path), 2) if PREFIX in line)
        yield from of_lines(path, _written(AIRankLog("2021-05" if load_data else "2020-12"), run), str.strip)
    elif path.name == MLPERF_FILE:
        yield from of_lines(path, _written(MLPerfLog(), run), _without_place)
    elif path.name == "flagperf.md":
        row = flagperf.row(flagperf.columns(run.tally))
        yield from of_lines(path, [*flagperf.HEADER.split("\n"), row], str.strip)
    elif path.name == "flagperf.json":
        yield from of_fields(path, flagperf.columns(run.tally))
    else:
        yield from of_fields(path, run.tally.summary())


def _written(log, run: RunEvents) -> Iterator[str]:
    """The lines of a log of these events; the closing lines are added for a run without run_stop."""
    for event in run.effective():
        yield from log.feed(event)
    yield from log.close()


def _without_place(line: str) -> str:
    """A line of the MLPerf log without file and lineno, which differ between versions of this program."""
    try:
        fields = json.loads(line.partition(":::MLLOG")[2])
    except (ValueError, RecursionError):
        return line
    metadata = fields.get("metadata") if isinstance(fields, dict) else None
    if isinstance(metadata, dict):
        fields["metadata"] = {key: value for key, value in metadata.items() if key not in ("file", "lineno")}
    return json.dumps(fields)


def of_lines(path: Path, expected: Iterable[str], meaning: Callable[[str], str]) -> Iterator[Finding]:
    """The findings about lines that differ in meaning. After a missing line all later lines differ."""
    for number, (expected_line, line) in enumerate(zip_longest(expected, Lines(path)), 1):
        if expected_line == line or (expected_line is None and not line.strip()):
            continue
        required, found = (None if text is None else meaning(text) for text in (expected_line, line))
        if required != found:
            required, found = (_NOTHING if text is None else quote(text, 200) for text in (required, found))
            place = number if line is not None else None
            yield DISAGREES.broken(str(path), place, found, f"{required} is required by the events")


def of_fields(path: Path, expected: dict) -> Iterator[Finding]:
    """The findings about fields of a JSON object that differ; those that only one version writes are ignored."""
    try:
        found = flagperf.parse_json(Lines(path))
    except UserError as error:
        yield DISAGREES.broken(str(path), None, str(error), "the figures of the events are required")
        return
    lines = {}
    for number, line in enumerate(Lines(path), 1):
        lines.setdefault(line.strip().partition(":")[0].strip('" '), number)
    if not expected.keys() & found.keys():
        yield DISAGREES.broken(str(path), None, "none of the figures", "those of the events are required")
    for name, value in name_floats(expected).items():
        if name in found and not same(found[name], value):
            shown, required = (quote(json.dumps(each, ensure_ascii=False), 80) for each in (found[name], value))
            yield DISAGREES.broken(
                str(path), lines.get(name), f"{name} {shown}", f"{required} is required by the events"
            )


def same(a, b) -> bool:
    """Whether two values of JSON are the same; numbers up to a rounding error."""
    if type(a) in (int, float) and type(b) in (int, float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
    return a == b
