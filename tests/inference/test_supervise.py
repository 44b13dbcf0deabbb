"""Workers that fail, hang or are ended: one line, the right reason, no process left, and never a hang."""

from __future__ import annotations

import importlib.util
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
from inference.loadgen_fakes import SYSTEM, endless, settings

from airank_fast.inference import supervise
from airank_fast.inference.spares import Spares
from airank_fast.inference.supervise import WorkerRequest, run_worker

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("mlperf_loadgen") is None, reason="no LoadGen"),
    pytest.mark.usefixtures("workers_see_tests"),
]


def run(directory, asked=None, **options):
    """The result of a worker, of which no process is left; its pid in `pid`."""
    lines = []
    result = run_worker(
        endless() if asked is None else asked, directory, **{"deadline_s": 30.0, "on_line": lines.append, **options}
    )
    assert "\n" not in result.message
    pids = [line["pid"] for line in lines if "pid" in line]
    assert not any(is_alive(pid) for pid in pids)
    return result


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition) -> None:
    """Until a condition holds; a machine may be slow."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


@pytest.mark.parametrize("scenario", ["singlestream", "offline", "server"])
def test_an_exception_in_a_query_ends_the_test(scenario, tmp_path):
    result = run(tmp_path, endless(scenario, fault="raise", after=40))
    assert (result.status, result.reason) == ("failed", "exception")
    assert result.message == "ValueError: the engine broke"
    assert "Traceback" in result.details


def test_an_exception_while_samples_are_loaded_ends_the_test(tmp_path):
    result = run(tmp_path, endless(fault="raise in load"))
    assert (result.status, result.reason) == ("failed", "exception")
    assert "the picture cannot be read" in result.message


def test_an_exception_before_the_test(tmp_path):
    result = run(tmp_path, endless(fault="raise", after=0))
    assert (result.status, result.reason, result.message) == ("failed", "exception", "ValueError: the engine broke")


def test_outputs_that_lack_are_named(tmp_path):
    result = run(tmp_path, endless(fault="short"))
    assert "RuntimeError: outputs: must be 1, for sample " in result.message


def test_an_engine_that_hangs_is_ended_and_the_sample_named(tmp_path):
    result = run(tmp_path, endless(fault="hang"), deadline_s=1.0)
    assert (result.status, result.reason) == ("killed", "deadline")
    assert result.message.startswith("the worker was ended: no sample was answered for 1 s, 1 are open, the first of")


def test_loading_that_hangs_is_ended(tmp_path):
    result = run(tmp_path, endless(fault="hang", after=0), load_deadline_s=1.0)
    assert (result.status, result.reason) == ("killed", "deadline")
    assert result.message in [
        f"the worker was ended: its phase {phase!r} took longer than 1 s" for phase in ("load", "warm_up")
    ]


def test_a_worker_that_dies(tmp_path):
    result = run(tmp_path, endless(fault="die"))
    assert (result.status, result.reason) == ("failed", "worker_lost")
    assert result.message.startswith("the worker ended with exit status 3: ")


def test_a_worker_that_is_terminated(tmp_path):
    pids = []

    def terminate(line):
        pids.extend([line["pid"]] if "pid" in line else [])
        if line["kind"] == "progress":
            os.kill(pids[0], signal.SIGTERM)

    result = run(tmp_path, on_line=terminate)
    assert (result.status, result.reason) == ("failed", "worker_lost")
    assert result.message == "the worker was ended by SIGTERM"
    assert not is_alive(pids[0])


def test_a_request_to_stop_ends_the_worker(tmp_path):
    begun = []

    def note(line):
        if line["kind"] == "test_start":
            begun.append(line)

    result = run(tmp_path, on_line=note, should_stop=lambda: bool(begun))
    assert (result.status, result.reason, result.message) == ("killed", "stopped", "the worker was stopped")


def test_an_exception_of_the_parent_leaves_no_worker(tmp_path):
    pids = []

    def interrupt(line):
        pids.extend([line["pid"]] if "pid" in line else [])
        if line["kind"] == "test_start":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, on_line=interrupt)
    assert not is_alive(pids[0])


PARENT = """
import pathlib, sys
from inference.loadgen_fakes import endless
from airank_fast.inference.supervise import run_worker
def note(line):
    if line["kind"] in ("phase", "progress"):
        print(line.get("pid", line["kind"]), flush=True)
run_worker(endless(), pathlib.Path(sys.argv[1]), deadline_s=30.0, on_line=note)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_worker_ends_with_its_parent(number, tmp_path):
    command = [sys.executable, "-c", PARENT, str(tmp_path / "run")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    pid = int(parent.stdout.readline())
    while parent.stdout.readline() != "progress\n":
        assert parent.poll() is None
    parent.send_signal(number)
    assert parent.wait(60) in (-number, 1)
    parent.stdout.close()
    wait_until(lambda: not is_alive(pid))


@pytest.fixture
def spares(monkeypatch):
    """Two at a time on any machine; what was started is in `started`."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    made, popen = Spares(), subprocess.Popen
    made.started = []

    def start(*args, **options):
        made.started.append(popen(*args, **options))
        return made.started[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    yield made
    made.close()
    assert all(process.poll() is not None for process in made.started)


def test_spares_run_what_a_new_process_would(spares, tmp_path):
    asked = WorkerRequest(settings=settings("singlestream", "accuracy"), system=SYSTEM, extra={"count": 64})
    results = [run(tmp_path / str(number), asked, spares=spares) for number in range(3)]
    results.append(run(tmp_path / "new", asked))
    assert [(result.status, result.message) for result in results] == [("done", "")] * 4
    assert all(result.facts["quality"] == results[0].facts["quality"] for result in results)
    assert [process.args[2] for process in spares.started[:4]] == ["airank_fast.inference.spares"] * 4
    assert len(spares.started) == 5  # two, two, and the new one


def test_a_failure_of_a_spare_is_that_of_its_worker(spares, tmp_path):
    assert run(tmp_path / "first", endless(fault="raise", after=0), spares=spares).reason == "exception"
    os.kill(spares.started[0].pid, signal.SIGKILL)  # the one that waits
    result = run(tmp_path / "second", spares=spares)
    assert (result.status, result.reason) == ("failed", "worker_lost")
    assert result.message == "the worker was ended by SIGKILL"


def test_a_spare_ends_with_its_parent(tmp_path):
    code = PARENT.replace("import run_worker", "import run_worker; from airank_fast.inference.spares import Spares")
    code = code.replace("endless(), ", "endless(fault='raise', after=0), ").replace("on_line=note)", "spares=spares)")
    code = code.replace("run_worker(endless", "spares = Spares()\nrun_worker(endless")
    code += "print(spares._waiting[0].pid, flush=True)\nsys.stdin.read()\n"
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    parent = subprocess.Popen(command, text=True, **pipes)
    pid = int(parent.stdout.readline())
    assert is_alive(pid)
    parent.kill()
    parent.communicate()
    wait_until(lambda: not is_alive(pid))


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    result = run(tmp_path / "file" / "run")
    assert (result.status, result.reason) == ("failed", "bad_data")
    assert result.message.endswith("must be a directory that can be written, got: Not a directory")


def test_a_full_disk(tmp_path, monkeypatch):
    """Files end at 80 kB: the probe of 64 kB fits, the log of the answers of an accuracy run does not."""
    limit = (80_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    popen = subprocess.Popen

    def little_room(*args, **options):
        return popen(*args, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit), **options)

    monkeypatch.setattr(supervise.subprocess, "Popen", little_room)
    test = settings("offline", "accuracy", performance_count=3000)
    asked = WorkerRequest(max_batch=64, settings=test, system=SYSTEM, extra={"count": 3000})
    result = run(tmp_path, asked)
    assert result.status == "failed"
    assert "mlperf_log_accuracy.json: must be LoadGen's whole accuracy log, got a part" in result.message


def test_no_room_at_all(tmp_path, monkeypatch):
    limit = (10_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    popen = subprocess.Popen

    def no_room(*args, **options):
        return popen(*args, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit), **options)

    monkeypatch.setattr(supervise.subprocess, "Popen", no_room)
    result = run(tmp_path)
    assert (result.status, result.reason) == ("failed", "disk_full")
    assert "--output: must be a directory that can be written, got" in result.message
    assert "File too large" in result.message


def test_an_unknown_system_and_an_unknown_module(tmp_path):
    result = run(tmp_path, WorkerRequest(settings=settings("offline"), system="inference.no_such:system"))
    assert result.message == "ModuleNotFoundError: No module named 'inference.no_such'"
    result = run(tmp_path, module="inference.no_such_worker")
    assert result.reason == "worker_lost"
    assert "No module named" in result.message
