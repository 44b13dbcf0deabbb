"""The files that an inference run leaves beside events.jsonl: AI-Rank's and FlagPerf's logs, and summary.json.

Each is written whole, when the run ends or the log is closed; all of them can be made again from the events alone. A
run of an AI-Rank profile has AI-Rank's logs, one of FlagPerf's has FlagPerf's, and every run has a summary.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from airank_fast.errors import require
from airank_fast.record.events import Event, to_json
from airank_fast.record.files import write_whole
from airank_fast.record.formats import airank_inference, flagperf_inference
from airank_fast.record.inference_metrics import InferenceTally

SUMMARY_FILE = "summary.json"
FLAGPERF_FILES = ("flagperf_inference.json", "flagperf_inference.md")
FILES = (SUMMARY_FILE, *airank_inference.FILES.values(), *FLAGPERF_FILES)


class InferenceLogs:
    """A subscriber of the event log that writes these files into `directory`.

    profile: the run's (v6.1, airank-2021-05, flagperf ...); None takes that of infer_config. UserError, at its
    infer_config, for a run of another profile.
    """

    def __init__(self, directory: str | os.PathLike, profile: str | None = None):
        self._directory, self._profile = Path(directory), profile
        self._tally = InferenceTally()
        self._written = False

    def feed(self, event: Event) -> None:
        """Take an event. OSError if the files cannot be written; `close` tries again."""
        self._tally.feed(event)
        self._written = False
        if event["kind"] == "infer_config" and self._profile is not None:
            require(event.get("profile") == self._profile, "profile", self._profile, event.get("profile"))
        if event["kind"] == "process_stop":
            self._write()

    __call__ = feed

    def summary(self) -> dict:
        """The figures so far; see `inference_metrics.summarize`."""
        return self._tally.summary()

    def close(self) -> None:
        """Write the files of the events so far, unless they are written."""
        if not self._written:
            self._write()

    def _write(self) -> None:
        for name, text in texts(self._tally).items():
            write_whole(self._directory / name, text)
        self._written = True


def texts(tally: InferenceTally) -> Mapping[str, str]:
    """The text of each file that the events give, by its name; FLAGPERF_FILES and summary.json as JSON and Markdown."""
    found = {name: "".join(f"{line}\n" for line in lines) for name, lines in airank_inference.logs(tally).items()}
    run = flagperf_inference.columns(tally)
    if run is not None:
        table = f"{flagperf_inference.HEADER}\n{flagperf_inference.row(run)}\n"
        found |= dict(zip(FLAGPERF_FILES, (to_json(run), table), strict=True))
    return found | {SUMMARY_FILE: to_json(tally.summary())}


def write_logs(events: Iterable[Event], directory: str | os.PathLike) -> dict:
    """Write all files again from the events of any run, also one that was cut off; returns the summary."""
    logs = InferenceLogs(directory)
    for event in events:
        logs.feed(event)
    logs.close()
    return logs.summary()
