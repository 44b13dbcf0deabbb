"""The files that the events of an inference run name: each that is gone or changed is one finding."""

import hashlib
import shutil

import pytest
from record.inference_run import inference_run, write
from rules.loadgen_logs import LoadGenTest, whole_log, write_test

from airank_fast.record.formats.loadgen import FILES, checksums
from airank_fast.rules import verifying
from airank_fast.rules.findings import NOTE

FOLDER = "loadgen/offline/accuracy"
PREDICTIONS = "predictions/offline.npz"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A run of AI-Rank's logs whose accuracy run was LoadGen's; nobody changes it."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    events = inference_run("airank-2021-05", ("offline", "online"), eval_samples=1000, is_rehearsal=True)
    write_test(directory / FOLDER, LoadGenTest("Offline", "accuracy", changes={"qsl_reported_total_count": 1000}))
    (directory / FOLDER / "mlperf_log_accuracy.json").write_text(whole_log(1000))
    (directory / FOLDER / "mlperf_log_trace.json").touch()
    sums = checksums(directory / FOLDER)
    assert sorted(sums) == sorted(FILES)
    for event in events:
        if event["kind"] == "test_stop" and event["mode"] == "accuracy":
            event["loadgen"] = {"version": None, "directory": FOLDER, "sha256": sums}
        if event["kind"] == "accuracy":
            event["predictions"]["sha256"] = {PREDICTIONS: hashlib.sha256(b"").hexdigest()}
    return write(directory, events)


@pytest.fixture
def run(sound, tmp_path):
    """A copy of it."""
    return shutil.copytree(sound, tmp_path / "run")


def found_in(directory):
    """Severity, rule and file of each finding; that it is a rehearsal is a note."""
    return [
        (each.severity, each.rule, each.path.removeprefix(f"{directory}/"))
        for each in verifying.verify(directory)
        if each.severity != NOTE
    ]


def append(path):
    with open(path, "a") as file:
        file.write("\n")


def test_the_sound_run(run):
    assert found_in(run) == []


LOGS = [f"{FOLDER}/{name}" for name in FILES]
OWN = ["summary.json", "accuracy_check.log", "offline_ips.log", "online_ips.log"]


@pytest.mark.parametrize("name", [*LOGS, *OWN, PREDICTIONS])
def test_a_file_that_is_gone(run, name):
    (run / name).unlink()
    severity = "warning" if name == PREDICTIONS else "error"
    assert found_in(run) == [(severity, "run.missing", name)]


@pytest.mark.parametrize("name", [*LOGS, PREDICTIONS])
def test_a_file_that_is_changed(run, name):
    append(run / name)
    assert ("error", "run.agreement", name) in found_in(run)


def test_one_answer_that_is_changed(run):
    path = run / FOLDER / "mlperf_log_accuracy.json"
    old, new = (f'"qsl_idx" : 7, "data" : "{data}"' for data in ("0000E040", "00000041"))
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert found_in(run) == [("error", "run.agreement", f"{FOLDER}/mlperf_log_accuracy.json")]


def test_the_whole_folder_that_a_test_names_is_one_finding(run):
    shutil.rmtree(run / FOLDER)
    assert found_in(run) == [("error", "run.missing", FOLDER)]


def test_a_summary_without_figures(run):
    (run / "summary.json").write_text("{}")
    assert found_in(run) == [("error", "run.agreement", "summary.json")]


def test_a_name_outside_the_run_is_not_followed(run):
    events = (run / "events.jsonl").read_text()
    (run / "events.jsonl").write_text(events.replace(FOLDER, f"../run/{FOLDER}").replace(PREDICTIONS, "/dev/null"))
    assert found_in(run) == [("error", "run.agreement", "events.jsonl")] * 2


def test_a_run_that_was_killed_has_no_files_of_its_end(run):
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    (run / "events.jsonl").write_text("".join(lines[:-2]))
    for name in OWN:
        (run / name).unlink()
    assert found_in(run) == [("error", "infer.missing", "events.jsonl")]


def test_a_run_from_before_checksums_were_kept(run):
    events = (run / "events.jsonl").read_text()
    (run / "events.jsonl").write_text(events.replace('"sha256":{', '"other":{'))
    append(run / PREDICTIONS)
    assert found_in(run) == []
    (run / FOLDER / "mlperf_log_summary.txt").unlink()
    assert found_in(run) == [("error", "run.missing", f"{FOLDER}/mlperf_log_summary.txt")]
