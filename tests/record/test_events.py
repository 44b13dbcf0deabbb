"""The event log: whole lines, one clock, and what a resume makes void."""

import errno
import json
import math
import os
import subprocess
import sys
import threading
import time

import pytest

from airank_fast.errors import UserError
from airank_fast.record import files
from airank_fast.record.events import EventLog, effective, process_start_time, read_events


def kinds(events):
    return [event["kind"] for event in events]


def test_subscribers_and_readers_get_what_is_emitted(tmp_path):
    received = []
    with EventLog(tmp_path / "events.jsonl") as log:
        log.subscribe(received.append)
        log.emit("run_start")
        log.emit("steps", loss=[1.5, math.nan, math.inf, -math.inf], path="/数据/\udcff", nested={"x": math.inf})
    read = read_events(tmp_path / "events.jsonl")
    assert repr(read) == repr(received)  # repr, since nan is not equal to itself
    assert math.isnan(read[1]["loss"][1])
    assert all(json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines())
    assert sorted(os.listdir(tmp_path)) == ["events.jsonl"]


def test_time_never_runs_backwards(tmp_path, monkeypatch):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.emit("process_start", t=process_start_time())
        first = log.emit("run_start")
        assert log.emit("late", t=first["t"] - 100)["t"] == first["t"]
    monkeypatch.setattr(time, "time", lambda: 1000.0)  # someone sets the clock back between two processes
    with EventLog(path, resume=True) as log:
        assert log.emit("resume", step=0, samples=0)["t"] >= first["t"]
        outside = time.perf_counter()
        begin = log.now()
        time.sleep(0.02)
        assert 0.015 < log.now() - begin < time.perf_counter() - outside + 0.005
    times = [event["t"] for event in read_events(path)]
    assert times == sorted(times)


def test_start_of_the_process():
    program = "import time; from airank_fast.record.events import process_start_time as f; print(time.time() - f())"
    before = time.time()
    age_s = float(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    assert 0 < age_s < time.time() - before + 0.1  # the system counts in hundredths of a second


def test_needs_nothing_but_the_standard_library():
    program = (
        "import sys; before = set(sys.modules)\n"
        "import airank_fast.record.logs, airank_fast.record.console, airank_fast.record.tensorboard\n"
        "names = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(names - sys.stdlib_module_names - {'airank_fast'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("tail", ['{"t": 3.0, "kind": "ru', '{"t": 3.0, "kind": "run_stop"}', "\0\0\0\0\n"])
def test_a_torn_last_line_is_left_out_and_cut_off(tmp_path, tail):
    path = tmp_path / "events.jsonl"
    path.write_text('{"t": 1.0, "kind": "process_start"}\n{"t": 2.0, "kind": "run_start"}\n' + tail)
    assert kinds(read_events(path)) == ["process_start", "run_start"]
    with EventLog(path, resume=True) as log:
        assert kinds(log.history) == ["process_start", "run_start"]
        log.emit("resume", step=0, samples=0)
    assert kinds(read_events(path)) == ["process_start", "run_start", "resume"]


@pytest.mark.parametrize("line", ["garbage", "[1]", '{"kind": "x"}', '{"t": "1", "kind": "x"}', '{"t": 1}'])
def test_a_line_that_is_no_event_is_named(tmp_path, line):
    path = tmp_path / "events.jsonl"
    path.write_text('{"t": 1, "kind": "a"}\n' + line + '\n{"t": 2, "kind": "b"}\n')
    with pytest.raises(UserError, match=r"events\.jsonl: line 2 must be an event"):
        read_events(path)


def test_a_log_is_not_overwritten(tmp_path):
    EventLog(tmp_path / "events.jsonl").close()
    with EventLog(tmp_path / "events.jsonl") as log:  # an empty one is no run
        log.emit("run_start")
    with pytest.raises(UserError, match="a directory without a run"):
        EventLog(tmp_path / "events.jsonl")
    with pytest.raises(UserError, match="no such file"):
        EventLog(tmp_path / "other.jsonl", resume=True)


def test_threads_and_subscribers_that_emit_share_one_order(tmp_path):
    received = []
    log = EventLog(tmp_path / "events.jsonl")
    log.subscribe(lambda event: log.emit("echo", of=event["n"]) if event["kind"] == "call" else None)
    log.subscribe(received.append)
    threads = [
        threading.Thread(target=lambda k=k: [log.emit("call", n=k * 100 + i) for i in range(50)]) for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    log.close()
    read = read_events(tmp_path / "events.jsonl")
    assert read == received
    assert len(read) == 400
    assert [event["t"] for event in read] == sorted(event["t"] for event in read)
    assert {event["n"] for event in read if event["kind"] == "call"} == {
        event["of"] for event in read if event["kind"] == "echo"
    }
    with pytest.raises(ValueError, match="got a closed one"):
        log.emit("late")


def test_a_failing_subscriber_does_not_hide_an_event(tmp_path):
    received = []

    def fail(_):
        raise RuntimeError("broken display")

    with EventLog(tmp_path / "events.jsonl") as log:
        log.subscribe(fail)
        log.subscribe(received.append)
        with pytest.raises(RuntimeError, match="broken display"):
            log.emit("run_start")
        with pytest.raises(TypeError):
            log.emit("bad", value=object())  # not JSON: refused, and not met again
    assert kinds(received) == kinds(read_events(tmp_path / "events.jsonl")) == ["run_start"]


def test_an_event_of_a_step_is_one_write_and_waits_for_no_disk(tmp_path, monkeypatch):
    write, written, synchronised = os.write, [], []
    monkeypatch.setattr(os, "write", lambda file, line: written.append(line) or write(file, line))
    monkeypatch.setattr(os, "fsync", synchronised.append)
    with EventLog(tmp_path / "events.jsonl") as log:
        for step in range(5):
            log.emit("steps", first_step=step, num_steps=4, loss=[1.5] * 4, lr=[0.1] * 4, core_s=[0.01] * 4)
        assert not synchronised
    assert b"".join(written) == (tmp_path / "events.jsonl").read_bytes()
    assert len(written) == 5


class Disk:
    """A disk with so many bytes of room, under os.write."""

    def __init__(self, monkeypatch, room):
        self.room = room
        self._write, self._ftruncate, self._remove = os.write, os.ftruncate, os.remove
        monkeypatch.setattr(files.os, "write", self.write)
        monkeypatch.setattr(files.os, "ftruncate", self.ftruncate)
        monkeypatch.setattr(files.os, "remove", self.remove)

    def write(self, fd, data):
        if self.room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = self._write(fd, data[: self.room])
        self.room -= count
        return count

    def ftruncate(self, fd, size):
        self.room += os.fstat(fd).st_size - size
        self._ftruncate(fd, size)

    def remove(self, path):
        self.room += os.path.getsize(path)
        self._remove(path)


def assert_whole_lines(path):
    text = path.read_text()
    assert text.endswith("\n")
    assert [json.loads(line)["kind"] for line in text.splitlines()] == kinds(read_events(path))


def emit_steps(log):
    for step in range(100):
        log.emit("steps", first_step=step)


def test_a_full_disk_stops_the_run_with_the_log_closed(tmp_path, monkeypatch):
    path, received = tmp_path / "events.jsonl", []
    log = EventLog(path)
    log.subscribe(received.append)
    disk = Disk(monkeypatch, room=300)
    with pytest.raises(OSError, match="No space") as caught:
        emit_steps(log)
    assert caught.value.errno == errno.ENOSPC
    assert_whole_lines(path)
    assert disk.room > 100_000  # the reserve was given up
    log.emit("run_stop", status="aborted", reason="disk_full")
    log.emit("process_stop")
    log.close()
    assert_whole_lines(path)
    read = read_events(path)
    assert kinds(read[-2:]) == ["run_stop", "process_stop"]
    assert read == received
    assert [event["first_step"] for event in read[:-2]] == list(range(len(read) - 2))  # none lost, none twice


def test_a_disk_that_stays_full_keeps_whole_lines(tmp_path, monkeypatch):
    path, received = tmp_path / "events.jsonl", []
    monkeypatch.setattr(files, "RESERVE_BYTES", 0)
    log = EventLog(path)
    log.subscribe(received.append)
    disk = Disk(monkeypatch, room=150)
    with pytest.raises(OSError, match="No space"):
        emit_steps(log)
    with pytest.raises(OSError, match="No space"):
        log.emit("steps", first_step=1000)
    log.emit("run_stop", status="aborted", reason="disk_full")  # does not raise: it waits
    assert_whole_lines(path)
    assert read_events(path) == received
    disk.room = 10_000  # room again, before the end
    log.close()
    assert_whole_lines(path)
    assert read_events(path) == received
    assert received[-1]["reason"] == "disk_full"


def test_what_a_resume_makes_void(story):
    run = story().begin().block(1).evaluate(1, 0.3)
    before = len(run.events)
    at = run.step + 10
    run.block(2, until=run.step + 20).emit("checkpoint", step=at, path="x", duration_s=0.1)
    run.emit("eval_start", epoch=9, step=at, samples=0)  # an evaluation that was killed
    run.stop("aborted", "sigterm")
    run.resume(at).train(at + 5)
    for event in [event for event in run.events if event["kind"] == "steps"]:
        event["losses"] = {"generator": event["loss"], "discriminator": [0.5] * event["num_steps"]}
    left = effective(run.events)
    assert left[:before] == run.events[:before]
    expected = [
        *["block_start", "steps", "steps", "checkpoint", "memory", "process_start", "resume"],
    ]
    assert kinds(left[before:]) == expected
    cut = [event for event in left if event["kind"] == "steps"][-1]
    assert cut["first_step"] + cut["num_steps"] - 1 == at
    assert cut["samples"] == cut["num_steps"] * 64
    assert {len(cut[name]) for name in ("loss", "lr", "core_s", "wait_s", "h2d_s")} == {cut["num_steps"]}
    assert {len(losses) for losses in cut["losses"].values()} == {cut["num_steps"]}
    assert effective(left) == left
