"""A time that is not in milliseconds gives no result anywhere: every command judges it as `verify` does."""

from pathlib import Path

import pytest
from commands.inprocess import run

from airank_fast import convert, report, score
from airank_fast.errors import UserError
from airank_fast.record.foreign.read import read_run
from airank_fast.record.formats import perflog
from airank_fast.record.formats.mlperf import parse
from airank_fast.rules.verifying import verify

SECONDS = sorted((Path(__file__).parents[1] / "cases/clock/seconds").glob("result_*.txt"))
FACT = ':::MLLOG {{"time_ms": {}, "event_type": "POINT_IN_TIME", "key": "seed", "value": 1, "metadata": {{}}}}'
START = (
    ':::MLLOG {{"time_ms": {}, "event_type": "INTERVAL_START", "key": "run_start", "value": null, "metadata": {{}}}}'
)
REFUSED = "line 1: time_ms must be in milliseconds since 1970, got 1700000000"


@pytest.mark.parametrize(
    ("command", "arguments"),
    [(score, []), (convert, ["--to", "airank", "--incomplete"]), (convert, ["--to", "events"]), (report, [])],
)
def test_seconds_are_refused(command, arguments, tmp_path):
    paths = SECONDS if command is score else SECONDS[:1]
    more = ["--output", tmp_path] if command is report else []
    done = run(command, *paths, *arguments, *more)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {SECONDS[0]}: {REFUSED}\n"


def test_as_verify_refuses_them():
    found = next(verify(SECONDS[0]))
    assert (found.severity, found.rule, found.line) == ("error", "mlperf.time_unit", 1)
    assert (found.found, found.required) == ("time_ms 1.7e+09", "milliseconds since 1970, about 1.7e12")


def test_perflogs_in_seconds_are_refused():
    line = '[PerfLog] {"event": "TRAIN_START", "metadata": {"time_ms": 1700000000, "rank": 0}}'
    with pytest.raises(UserError, match="line 1: time_ms must be in milliseconds since 1970, got 1700000000"):
        list(perflog.parse([line]))


@pytest.mark.parametrize("time_ms", [1, -5, 999_999_999_999, 10**13, 1.7e15])
def test_what_no_run_can_have_in_milliseconds(time_ms):
    with pytest.raises(UserError, match="line 1: time_ms must be in milliseconds since 1970, got"):
        list(parse([START.format(time_ms)]))


def test_a_fact_that_a_script_wrote_without_a_time_has_that_of_the_next_line(tmp_path):
    lines = [FACT.format(0), START.format(1_700_000_000_000)]
    assert [event["t"] for event in parse(lines)] == [1_700_000_000, 1_700_000_000]
    path = tmp_path / "log"
    path.write_text("\n".join(lines) + "\n")
    assert read_run(path).events[0]["t"] == 1_700_000_000
    with pytest.raises(UserError, match="line 2: time_ms must be in milliseconds"):
        list(parse([lines[0], START.format(0)]))
