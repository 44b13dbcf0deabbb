"""Compares the files of an inference run's directory with its events: each is written again from events.jsonl.

LoadGen's own logs and the predictions are not made from the events: their figures must be those that the events state,
and their content that of which the events have the checksum. A file that the events name must be there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from airank_fast import tasks
from airank_fast.numeric import is_number
from airank_fast.record.entries import quote
from airank_fast.record.events import Event, dictionary
from airank_fast.record.files import sha256
from airank_fast.record.formats import events
from airank_fast.record.formats.loadgen import DETAIL, Detail, read_detail
from airank_fast.record.formats.loadgen import FILES as LOADGEN_FILES
from airank_fast.record.inference_logs import FILES, texts
from airank_fast.record.inference_metrics import InferenceTally
from airank_fast.record.lines import Lines
from airank_fast.rules import agreement
from airank_fast.rules.facts import Facts
from airank_fast.rules.findings import ERROR, WARNING, Finding

TABLE = "flagperf_inference.md"
_MODES = ("accuracy", "performance", "TEST01", "TEST04", "TEST05")
_KEYS = {  # of a test_stop's metric: the keys of LoadGen's log that may be its source, with the unit in seconds
    "samples_per_s": {"result_samples_per_second": 1.0},
    "scheduled_qps": {"result_scheduled_samples_per_sec": 1.0},
    "completed_qps": {"result_completed_samples_per_sec": 1.0},
    "latency_p90_s": {"early_stopping_latency_ss": 1e-9, "result_90.00_percentile_latency_ns": 1e-9},
    "latency_p99_s": {"early_stopping_latency_ms": 1e-9, "result_99.00_percentile_latency_ns": 1e-9},
}


class RunEvents:
    """The events of a run directory's figures, and the files that they give."""

    def __init__(self, source: Path):
        self.tally = InferenceTally()
        self.is_closed = False
        """Whether the run has written all its files: a process that is killed has not."""
        for event in events.parse(Lines(source)):
            self.tally.feed(event)
            self.is_closed = self.is_closed or event["kind"] == "process_stop"
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

    def facts_of(self, path: Path, facts: Facts) -> Facts:
        """The facts for one log: LoadGen's of a rehearsal is not judged as one of its benchmark.

        Nor is FlagPerf's table, which has no number of samples, taken for one of the whole data set.
        """
        is_free = self.tally.config.get("is_rehearsal") or self.tally.config.get("is_quick")
        is_other = (path.name == DETAIL and is_free) or path.name == TABLE
        return replace(facts, task=None) if is_other else facts

    def stop_of(self, path: Path) -> Event:
        """The test_stop of the last attempt at the test whose LoadGen log this is; {} if it did not end."""
        scenario, mode = path.parts[-3:-1]
        stops = [test.stop for test in self.tally.tests if (test.scenario, test.mode) == (scenario, mode)]
        return (stops[-1] if stops else None) or {}


def files_in(directory: Path) -> list[Path]:
    """The logs of an inference run that are there, LoadGen's detail logs included; those of a search are not."""
    logs = sorted(directory.glob(f"loadgen/*/*/{DETAIL}"))
    return [
        *(path for path in (directory / name for name in FILES) if path.is_file()),
        *(path for path in logs if path.parent.name in _MODES),
    ]


def named(run: RunEvents, directory: Path) -> Iterator[Finding]:
    """The findings about files that the events name or give, and that are missing or of another content."""
    for name in run.texts if run.is_closed else ():
        if not (directory / name).is_file():
            yield agreement.MISSING.broken(str(directory / name), None, "no such file", "the events give it")
    for folder, stated in _loadgen_folders(run.tally).items():
        yield from _of_test(directory, folder, stated)
    for event in run.tally.accuracies.values():
        predictions = dictionary(event.get("predictions"))
        files = predictions.get("files")
        for name in files if isinstance(files, list) else ():
            checksum = dictionary(predictions.get("sha256")).get(str(name))
            yield from _named_file(directory, str(name), checksum, WARNING)  # large, and no part of a hand-in


def _loadgen_folders(tally: InferenceTally) -> dict[str, dict]:
    """What the last test of each folder of LoadGen's logs states of them, by the folder's name.

    Without the folders of a test that was begun again and did not end.
    """
    found: dict[str, dict] = {}
    for test in tally.tests:
        folder, stated = f"loadgen/{test.scenario}/{test.mode}", dictionary((test.stop or {}).get("loadgen"))
        if test.stop is None:
            found.pop(folder, None)
        elif stated:
            found[str(stated.get("directory") or folder)] = stated
    return found


def _of_test(directory: Path, folder: str, stated: dict) -> Iterator[Finding]:
    if not _is_inside(folder):
        yield _outside(directory, folder)
    elif not (directory / folder).is_dir():
        required = f"it is required, with {', '.join(LOADGEN_FILES)}: LoadGen ran the test"
        yield agreement.MISSING.broken(str(directory / folder), None, "no such folder", required)
    else:
        for name in LOADGEN_FILES:
            yield from _named_file(directory, f"{folder}/{name}", dictionary(stated.get("sha256")).get(name))


def _named_file(directory: Path, name: str, checksum: object, severity: str = ERROR) -> Iterator[Finding]:
    """The finding about a file below the run's directory; `checksum` None: the events have none."""
    path = directory / name
    if not _is_inside(name):
        yield _outside(directory, name)
    elif not path.is_file():
        yield agreement.MISSING.broken(str(path), None, "no such file", "it is required: the events name it", severity)
    elif checksum is not None and (actual := sha256(path)) != checksum:
        required = f"{checksum}, which the events state, is required"
        yield agreement.DISAGREES.broken(str(path), None, f"sha256 {actual}", required)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _outside(directory: Path, name: str) -> Finding:
    required = "a path below the run's directory is required"
    return agreement.DISAGREES.broken(
        str(directory / "events.jsonl"), None, f"a file named {quote(name, 80)}", required
    )


def differences(run: RunEvents, path: Path) -> Iterator[Finding]:
    """The findings about lines and fields of one of FILES that differ from the events."""
    text = run.texts.get(path.name)
    if path.name == DETAIL:
        yield from _of_loadgen(run, path)
    elif text is None:
        found = f"{path.name}, of which the events say nothing"
        yield agreement.DISAGREES.broken(str(path), None, found, "no such file is required by the events")
    elif path.suffix == ".json":
        yield from agreement.of_fields(path, dictionary(json.loads(text)))
    else:
        yield from agreement.of_lines(path, text.splitlines(), str.strip)


def _of_loadgen(run: RunEvents, path: Path) -> Iterator[Finding]:
    """The figures and settings of a test_stop that are not those of LoadGen's log."""
    stop = run.stop_of(path)
    if not stop:
        return
    detail = read_detail(Lines(path))
    if detail.value("loadgen_version") is None:
        found = "no line loadgen_version"
        yield agreement.DISAGREES.broken(str(path), None, found, "LoadGen's log of the test is required")
    for name, stated, own, line in _pairs(stop, detail):
        if not any(agreement.same(stated, each) for each in own):
            found = f"{name} {' or '.join(map(str, own))}, {stated} in events.jsonl"
            yield agreement.DISAGREES.broken(str(path), line, found, "the same is required")
    if stop["valid"] and detail.value("result_validity") not in ("VALID", None):
        found = f"result_validity {detail.value('result_validity')} of a test that is valid in events.jsonl"
        yield agreement.DISAGREES.broken(str(path), detail.line("result_validity"), found, "VALID is required")


def _pairs(stop: Event, detail: Detail) -> Iterator[tuple[str, object, list, int | None]]:
    """(what, its value in the events, those in LoadGen's log, the line) of everything that both state."""
    for name, stated in stop["metric"].items():
        keys = {key: unit for key, unit in _KEYS.get(name, {}).items() if is_number(detail.value(key))}
        if keys:
            yield name, stated, [detail.value(key) * unit for key, unit in keys.items()], detail.line(next(iter(keys)))
    for name, key in (("num_queries", "result_query_count"), ("over_latency", "result_overlatency_query_count")):
        if detail.value(key) is not None and stop.get(name) is not None:
            yield name, stop[name], [detail.value(key)], detail.line(key)
    version = dictionary(stop.get("loadgen")).get("version")
    if version is not None and detail.value("loadgen_version") is not None:
        yield "version", version, [detail.value("loadgen_version")], detail.line("loadgen_version")
    effective = detail.part("effective_")
    for key, stated in (stop.get("effective") or {}).items():
        name = key.removeprefix("effective_")
        if name in effective:
            yield f"effective_{name}", stated, [effective[name]], detail.line(f"effective_{name}")
