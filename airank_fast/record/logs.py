"""The files that a run leaves beside events.jsonl: AI-Rank, MLPerf and FlagPerf logs, and summary.json.

Logs grow while the run does; the reports (summary.json, flagperf.json, flagperf.md) are written when it ends.
All of them can be made again from the events alone. A task that MLPerf does not have gets no mlperf.log.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from airank_fast.record.events import Event, EventLog, effective, iter_events, to_json
from airank_fast.record.files import LineFile, encoded, write_whole
from airank_fast.record.formats import flagperf, mlperf
from airank_fast.record.formats.airank import AIRankLog
from airank_fast.record.metrics import Tally

AIRANK_FILE, MLPERF_FILE = "airank.log", "mlperf.log"


def attach_logs(event_log: EventLog, directory: str | os.PathLike, airank_profile: str = "2020-12") -> "Logs":
    """Write airank.log, mlperf.log and the reports into `directory` as `event_log` takes events.

    On a resumed log they are made anew from the effective events when the `resume` event comes; until then
    the files of the earlier process stay as they are.
    """
    logs = Logs(directory, airank_profile, resumes=event_log.path if event_log.history else None)
    event_log.subscribe(logs)
    return logs


def write_logs(events: Iterable[Event], directory: str | os.PathLike, airank_profile: str = "2020-12") -> dict:
    """Write all files again from the events of any log, also one that was cut off; returns the summary."""
    events = list(events)
    logs = Logs(directory, airank_profile)
    logs.replay(events)
    logs.close()
    return logs.summary()


class Logs:
    """A subscriber of the event log; see `attach_logs`."""

    def __init__(self, directory: str | os.PathLike, airank_profile: str, resumes: str | None = None):
        self._directory = Path(directory)
        self._profile = airank_profile
        self._resumes = resumes  # the event log to start again from, until its `resume` event has come
        self._reported = self._closed = False
        self._start()

    def _start(self) -> None:
        self._tally = Tally()
        self._formats = {AIRANK_FILE: AIRankLog(self._profile), MLPERF_FILE: mlperf.MLPerfLog()}
        self._files: dict[str, LineFile] = {}
        if self._resumes is None:
            self._files = {name: LineFile(self._directory / name, truncate=True) for name in self._formats}

    def __call__(self, event: Event) -> None:
        """Take an event. OSError when the disk is full; the lines wait for the next event or `close`."""
        if self._resumes is not None:
            if event["kind"] == "resume":
                events, self._resumes = list(iter_events(self._resumes)), None
                self._start()
                self.replay(events)
            return
        self._tally.feed(event)
        self._reported = False
        self._feed(event)
        if event["kind"] == "process_stop":
            self._report()

    def replay(self, events: list[Event]) -> None:
        """Take the events of a whole log, superseded ones included."""
        for event in events:
            self._tally.feed(event)
        for event in effective(events):
            self._feed(event)

    def summary(self) -> dict:
        """The figures so far; see `metrics.summarize`."""
        return self._tally.summary()

    def close(self) -> None:
        """Complete the logs of a run without run_stop, write the reports, close the files."""
        if self._closed:
            return
        self._closed = True
        if self._resumes is not None:
            return
        with suppress(OSError):
            self._write({name: log.close() for name, log in self._formats.items()})
        for file in self._files.values():
            file.close()
        if not self._reported:
            self._report()

    def _feed(self, event: Event) -> None:
        if event["kind"] == "run_config" and not mlperf.has_benchmark(event) and MLPERF_FILE in self._files:
            file = self._files.pop(MLPERF_FILE)
            file.close()
            os.unlink(file.path)
        self._write({name: log.feed(event) for name, log in self._formats.items()})

    def _write(self, lines: dict[str, list[str]]) -> None:
        trouble = None
        for name, file in self._files.items():
            file.waiting.extend(encoded(line) + b"\n" for line in lines[name])
            try:
                file.retry()
            except OSError as error:  # the other file still gets its lines
                trouble = trouble or error
        if trouble is not None:
            raise trouble

    def _report(self) -> None:
        run = flagperf.columns(self._tally)
        texts = {
            "summary.json": to_json(self.summary()),
            "flagperf.json": to_json(run),
            "flagperf.md": f"{flagperf.HEADER}\n{flagperf.row(run)}\n",
        }
        for name, text in texts.items():
            write_whole(self._directory / name, text)
        self._reported = True
