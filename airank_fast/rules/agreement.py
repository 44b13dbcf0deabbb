"""Do the files of a run directory say what its events say? Each is made again from events.jsonl and compared."""

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
from airank_fast.record.formats import events, flagperf
from airank_fast.record.formats.airank import PREFIX, AIRankLog
from airank_fast.record.formats.mlperf import MLPerfLog
from airank_fast.record.lines import Lines
from airank_fast.record.logs import AIRANK_FILE, MLPERF_FILE
from airank_fast.record.metrics import Tally
from airank_fast.rules.findings import ERROR, NOTE, Finding, Rule
from airank_fast.rules.known import Known

FILES = (AIRANK_FILE, MLPERF_FILE, "flagperf.json", "flagperf.md", "summary.json")
_SOURCE = "events.jsonl beside it, from which every log is made"
DISAGREES = Rule(name="run.agreement", severity=ERROR, source=_SOURCE)
NOT_COMPARED = Rule(name="run.not_compared", severity=NOTE, source=_SOURCE)
_NOTHING = "nothing"  # what stands where a file has a line less


class Story:
    """What the events of a run directory say in all, read once."""

    def __init__(self, source: Path):
        self.source = source
        self.tally = Tally()
        self.train_samples: int | None = None
        self.resumed = False
        for event in self.events():
            self.tally.feed(event)
            self.resumed = self.resumed or event["kind"] == "resume"
            if event["kind"] == "data" and self.train_samples is None:
                self.train_samples = event.get("train_samples")

    def events(self) -> Iterator[Event]:
        """All of them, one at a time."""
        return events.parse(Lines(self.source))

    def effective(self) -> Iterable[Event]:
        """Those that stand; of a resumed run a list, without the times of its steps."""
        if not self.resumed:
            return self.events()
        no_times = {name: [] for name in ("loss", "lr", "core_s", "wait_s", "h2d_s")}
        return effective(event | no_times if event["kind"] == "steps" else event for event in self.events())

    def known(self, known: Known) -> Known:
        """What the events say that a log beside them does not carry; what the user says goes first."""
        tally, config = self.tally, self.tally.config
        profile = (config.get("options") or {}).get("airank_profile")
        size = config.get("samples_per_epoch") or self.train_samples
        return replace(
            known,
            profile=known.profile or (profile if isinstance(profile, str) else None),
            task=known.task or tasks.of(config) or tasks.from_facts({"name": config.get("benchmark")}),
            target=tally.target if known.target is None else known.target,
            target_source="events.jsonl" if known.target is None else known.target_source,
            samples_per_epoch=known.samples_per_epoch or size or None,
            epochs=tally.samples / size if size and tally.samples else known.epochs,
            avg_ips=tally.avg_ips()[0] or 0.0,
        )


def differences(story: Story, path: Path) -> Iterator[Finding]:
    """The findings about where one of FILES says other than the events."""
    if path.name == AIRANK_FILE:
        load_data = any("load_data" in line for line in islice(Lines(path), 2) if PREFIX in line)
        yield from _lines(path, _written(AIRankLog("2021-05" if load_data else "2020-12"), story), str.strip)
    elif path.name == MLPERF_FILE:
        yield from _lines(path, _written(MLPerfLog(), story), _without_place)
    elif path.name == "flagperf.md":
        row = flagperf.row(flagperf.columns(story.tally))
        yield from _lines(path, [*flagperf.HEADER.split("\n"), row], str.strip)
    elif path.name == "flagperf.json":
        yield from _fields(path, flagperf.columns(story.tally))
    else:
        yield from _fields(path, story.tally.summary())


def _written(log, story: Story) -> Iterator[str]:
    """The lines that a log has for these events. Those of a run that did not say how it ended are completed."""
    for event in story.effective():
        yield from log.feed(event)
    yield from log.close()


def _without_place(line: str) -> str:
    """A line of the MLPerf log without the place in our sources that wrote it, which may move."""
    try:
        fields = json.loads(line.partition(":::MLLOG")[2])
    except (ValueError, RecursionError):
        return line
    metadata = fields.get("metadata") if isinstance(fields, dict) else None
    if isinstance(metadata, dict):
        fields["metadata"] = {key: value for key, value in metadata.items() if key not in ("file", "lineno")}
    return json.dumps(fields)


def _lines(path: Path, expected: Iterable[str], meaning: Callable[[str], str]) -> Iterator[Finding]:
    """The lines whose meaning differs. One that is missing makes all after it differ."""
    for number, (wanted, line) in enumerate(zip_longest(expected, Lines(path)), 1):
        if wanted == line or (wanted is None and not line.strip()):
            continue
        right, stands = (None if text is None else meaning(text) for text in (wanted, line))
        if right != stands:
            right, stands = (_NOTHING if text is None else quote(text, 200) for text in (right, stands))
            place = number if line is not None else None
            yield DISAGREES.broken(str(path), place, stands, f"{right} is what the events say")


def _fields(path: Path, expected: dict) -> Iterator[Finding]:
    """A JSON object, field by field; fields that only one version of this program writes are passed over."""
    try:
        found = flagperf.parse_json(Lines(path))
    except UserError as error:
        yield DISAGREES.broken(str(path), None, str(error), "the figures of the events are required")
        return
    lines = {}
    for number, line in enumerate(Lines(path), 1):
        lines.setdefault(line.strip().partition(":")[0].strip('" '), number)
    for name, wanted in name_floats(expected).items():
        if name in found and not _same(found[name], wanted):
            stands, right = (quote(json.dumps(value, ensure_ascii=False), 80) for value in (found[name], wanted))
            yield DISAGREES.broken(str(path), lines.get(name), f"{name} {stands}", f"{right} is what the events say")


def _same(a, b) -> bool:
    if type(a) in (int, float) and type(b) in (int, float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)
    return a == b
