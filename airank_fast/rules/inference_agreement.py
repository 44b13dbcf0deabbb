"""Compares the files of an inference run's directory with its events: each is written again from events.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from airank_fast import tasks
from airank_fast.record.events import dictionary
from airank_fast.record.formats import events
from airank_fast.record.inference_logs import FILES, texts
from airank_fast.record.inference_metrics import InferenceTally
from airank_fast.record.lines import Lines
from airank_fast.rules import agreement
from airank_fast.rules.facts import Facts
from airank_fast.rules.findings import Finding


class RunEvents:
    """The events of a run directory's figures, and the files that they give."""

    def __init__(self, source: Path):
        self.tally = InferenceTally()
        for event in events.parse(Lines(source)):
            self.tally.feed(event)
        self.texts = texts(self.tally)

    def facts(self, given: Facts) -> Facts:
        """The facts in the events that a log beside them lacks; those that the user gives take precedence.

        The accuracy required is the run's own, which the book of the events compares with the profile's.
        """
        config = self.tally.config
        profile = str(config.get("profile")).removeprefix("airank-")
        required = next((event["required"] for event in self.tally.accuracies.values()), None)
        return replace(
            given,
            profile=given.profile or (profile if profile in ("2020-12", "2021-05") else None),
            task=given.task or tasks.of(config),
            target=required if given.target is None else given.target,
            target_source="events.jsonl" if given.target is None else given.target_source,
        )


def files_in(directory: Path) -> list[Path]:
    """The files of an inference run that are there, except events.jsonl."""
    return [path for path in (directory / name for name in FILES) if path.is_file()]


def differences(run: RunEvents, path: Path) -> Iterator[Finding]:
    """The findings about lines and fields of one of FILES that differ from the events."""
    text = run.texts.get(path.name)
    if text is None:
        found = f"{path.name}, of which the events say nothing"
        yield agreement.DISAGREES.broken(str(path), None, found, "no such file is required by the events")
    elif path.suffix == ".json":
        yield from agreement.of_fields(path, dictionary(json.loads(text)))
    else:
        yield from agreement.of_lines(path, text.splitlines(), str.strip)
