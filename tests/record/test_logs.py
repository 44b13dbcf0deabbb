"""The files of a run: all of them, the same whether written while it runs or made again from its events."""

import errno
import json
import os

import pytest

from airank_fast.record import files
from airank_fast.record.events import EventLog, read_events
from airank_fast.record.formats import airank, mlperf
from airank_fast.record.logs import attach_logs, write_logs
from airank_fast.record.metrics import summarize
from airank_fast.rules.verifying import verify

ENDINGS = ["target", "epochs", "exception", "sigterm", "rank_lost", "cut_off"]
NAMES = ["airank.log", "mlperf.log", "summary.json", "flagperf.json", "flagperf.md"]


def play(events, directory, **options):
    """Emit these events into a log in `directory`; the log is left open."""
    log = EventLog(directory / "events.jsonl", **options)
    logs = attach_logs(log, directory)
    emit(log, events)
    return log, logs


def emit(log, events):
    for event in events:
        log.emit(**event)


def contents(directory):
    return {name: (directory / name).read_text() for name in NAMES}


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_file_however_the_run_ends(tell, ending, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "again").mkdir()
    log, logs = play(tell(ending, world_size=2).events, tmp_path / "run")
    log.close()
    assert sorted(os.listdir(tmp_path / "run")) == sorted(["events.jsonl", *NAMES])
    events = read_events(tmp_path / "run" / "events.jsonl")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary == summarize(events) == logs.summary()
    assert "test_finish" in (tmp_path / "run" / "airank.log").read_text()
    assert write_logs(events, tmp_path / "again") == summary
    assert contents(tmp_path / "again") == contents(tmp_path / "run")


def test_a_name_that_is_no_text_is_written_as_an_escape(tell, tmp_path):
    """Python has the bytes of a file's name that are no UTF-8, and JSON its lone surrogates, as such characters."""
    events = tell("exception").events
    name = "a\udcff\ud800.png"
    log, logs = play([each | {"detail": name} if each["kind"] == "run_stop" else each for each in events], tmp_path)
    log.close()
    assert [each["detail"] for each in read_events(log.path) if each["kind"] == "run_stop"] == [name]
    assert json.loads((tmp_path / "summary.json").read_text()) == logs.summary()


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_logs_agree_with_one_another(tell, ending, tmp_path):
    log, _ = play(tell(ending).events, tmp_path)
    log.close()
    text = contents(tmp_path)
    ours_read = list(airank.parse(text["airank.log"].splitlines()))
    official = list(mlperf.parse(text["mlperf.log"].splitlines()))
    for kind in ("run_start", "eval_stop", "run_stop"):
        ours = [(round(e["t"] * 1000), e.get("accuracy")) for e in ours_read if e["kind"] == kind]
        theirs = [(round(e["t"] * 1000), e.get("accuracy")) for e in official if e["kind"] == kind]
        assert ours == theirs
        assert ours
    run, summary = json.loads(text["flagperf.json"]), json.loads(text["summary.json"])
    for name in ("e2e_time", "p_whole", "p_train", "p_core", "status", "reason"):
        assert run[name] == summary[name]


def test_lines_appear_as_things_happen(tell, tmp_path):
    events = tell("target").events
    stop = next(index for index, event in enumerate(events) if event["kind"] == "eval_stop")
    log, _ = play(events[: stop + 1], tmp_path)
    assert (tmp_path / "airank.log").read_text().splitlines()[-1].endswith("total_epoch_cnt:1")
    assert '"eval_stop"' in (tmp_path / "mlperf.log").read_text().splitlines()[-1]
    log.close()


def test_a_resume_writes_the_logs_anew(story, tmp_path):
    run = story().begin().block(1).evaluate(1, 0.3)
    at = run.step
    run.block(2).evaluate(2, 0.8).stop("aborted", "sigterm")
    log, _ = play(run.events, tmp_path)
    log.close()
    before, num_emitted = contents(tmp_path), len(run.events)

    run.resume(at)
    log, logs = play(run.events[num_emitted:-1], tmp_path, resume=True)
    assert contents(tmp_path) == before  # nothing is lost before the resume event
    emit(log, run.events[-1:])
    assert (tmp_path / "airank.log").read_text().count("eval_accuracy") == 1
    assert "test_finish" not in (tmp_path / "airank.log").read_text()

    num_emitted = len(run.events)
    run.block(2).evaluate(2, 0.77).stop()
    emit(log, run.events[num_emitted:])
    log.close()
    (tmp_path / "again").mkdir()
    events = read_events(tmp_path / "events.jsonl")
    write_logs(events, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == summarize(events) == logs.summary()
    assert not summary["comparable"]


def test_a_process_that_fails_before_it_resumes_leaves_the_files_alone(tell, tmp_path):
    log, _ = play(tell("sigterm").events, tmp_path)
    log.close()
    before = contents(tmp_path)
    log, _ = play([], tmp_path, resume=True)
    log.emit("process_start", pid=2)
    log.emit("process_stop")
    log.close()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("num_bytes", range(4000, 12000, 997))
def test_a_full_disk_leaves_whole_files_and_room_to_close_them(tell, num_bytes, tmp_path, monkeypatch):
    room, write, remove = [num_bytes], os.write, os.remove

    def scarce_write(fd, data):
        if room[0] < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= len(data)
        return write(fd, data)

    def freeing_remove(path):
        room[0] += os.path.getsize(path)
        remove(path)

    log = EventLog(tmp_path / "events.jsonl")
    attach_logs(log, tmp_path)
    monkeypatch.setattr(files.os, "write", scarce_write)
    monkeypatch.setattr(files.os, "remove", freeing_remove)
    events = tell("epochs").events
    with pytest.raises(OSError, match="No space"):
        emit(log, events[:-3])
    for event in events[-3:-2]:
        log.emit(**event)
    log.emit("run_stop", status="aborted", reason="disk_full", detail="")
    log.emit("process_stop")
    log.close()
    text = contents(tmp_path)
    assert json.loads(text["summary.json"])["reason"] == "disk_full"
    assert [line.split()[3].split(":")[0] for line in text["airank.log"].splitlines()[-3:]] == [
        *("test_finish", "total_use_time", "avg_ips")
    ]
    (tmp_path / "again").mkdir()
    write_logs(read_events(tmp_path / "events.jsonl"), tmp_path / "again")
    assert contents(tmp_path / "again") == text


@pytest.mark.parametrize(
    ("config", "has_mlperf"),
    [
        ({"benchmark": "bert_tiny"}, True),
        ({"benchmark": "transformer"}, True),
        ({"benchmark": None}, True),
        ({"benchmark": "deepfm"}, False),
        ({"benchmark": "noise", "task": {"name": "noise", "unit": "tokens"}}, False),
    ],
)
def test_a_task_that_mlperf_does_not_have_leaves_no_mlperf_log(story, config, has_mlperf, tmp_path):
    run = story(**config).begin().block(1)
    log, _ = play(run.events, tmp_path)
    log.close()
    assert (tmp_path / "mlperf.log").exists() == has_mlperf
    num_emitted = len(run.events)
    run.resume(run.step).block(2).evaluate(2, 0.8).stop()
    log, _ = play(run.events[num_emitted:], tmp_path, resume=True)
    log.close()
    assert (tmp_path / "mlperf.log").exists() == has_mlperf
    assert "eval_accuracy" in (tmp_path / "airank.log").read_text()
    (tmp_path / "again").mkdir()
    write_logs(read_events(tmp_path / "events.jsonl"), tmp_path / "again")
    assert (tmp_path / "again" / "mlperf.log").exists() == has_mlperf
    named = [finding for finding in verify(tmp_path) if finding.path.endswith("mlperf.log") and not has_mlperf]
    assert not named
