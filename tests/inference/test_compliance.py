"""MLPerf's compliance tests: what passes, and what each of them is there to find."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from inference.loadgen_fakes import Engine, Samples, settings

from airank_fast.errors import UserError
from airank_fast.inference import compliance, loadgen
from airank_fast.inference.sut import StreamSut


def write_log(folder, answers):
    folder.mkdir(parents=True)
    entries = [json.dumps({"seq_id": at, "qsl_idx": i, "data": data}) for at, (i, data) in enumerate(answers.items())]
    (folder / "mlperf_log_accuracy.json").write_text("[\n" + ",\n".join(entries) + "\n]\n")


ANSWERS = {0: "00000000", 1: "0000803F", 7: "0000E040"}


@pytest.mark.parametrize(
    ("mode", "rate", "refused"),
    [
        ("TEST04", 109.0, False),
        ("TEST04", 112.0, True),
        ("TEST04", 20.0, False),  # one sample may be the slowest of all
        ("TEST05", 89.0, True),
        ("TEST05", 96.0, False),
        ("TEST05", 112.0, True),
    ],
)
def test_the_speed_of_a_test_is_within_its_tolerance(mode, rate, refused, tmp_path):
    found = compliance.speeds_differ("offline", mode, {"samples_per_s": 100.0}, {"samples_per_s": rate})
    assert bool(found) is refused
    assert all(line.startswith(mode) for line in found)


@pytest.mark.parametrize(("rate", "refused"), [(91.0, False), (89.0, True), (150.0, True)])
def test_the_speed_of_test01_is_within_its_tolerance(rate, refused, tmp_path):
    for mode in ("accuracy", "TEST01"):
        write_log(tmp_path / mode, ANSWERS)
    found = compliance.speeds_differ("offline", "TEST01", {"samples_per_s": 100.0}, {"samples_per_s": rate})
    assert bool(found) is refused


@pytest.mark.parametrize(("name", "scenario"), [("latency_p90_s", "singlestream"), ("latency_p99_s", "multistream")])
def test_a_latency_that_is_shorter_is_faster(name, scenario, tmp_path):
    found = [compliance.speeds_differ(scenario, "TEST04", {name: 0.1}, {name: took}) for took in (0.08, 0.12)]
    assert [bool(lines) for lines in found] == [True, False]


def test_very_short_latencies_may_differ_by_a_fifth(tmp_path):
    for mode in ("accuracy", "TEST01"):
        write_log(tmp_path / mode, ANSWERS)
    short, long = {"latency_p90_s": 0.0001}, {"latency_p90_s": 0.000118}
    assert compliance.speeds_differ("singlestream", "TEST01", short, long) == []
    assert compliance.speeds_differ("singlestream", "TEST01", {"latency_p90_s": 0.1}, {"latency_p90_s": 0.118})


@pytest.mark.parametrize(
    ("logged", "expected"),
    [
        ({7: "0000E040", 1: "0000803F"}, None),
        ({7: "0000E041", 1: "0000803F"}, "others for 1 of 2 samples, the first of them sample 7"),
        ({8: "0000E040"}, "others for 1 of 1 samples, the first of them sample 8"),
        ({}, "must have logged answers, got none"),
    ],
)
def test_test01_logs_the_answers_of_the_accuracy_run(logged, expected, tmp_path):
    write_log(tmp_path / "accuracy", ANSWERS)
    write_log(tmp_path / "TEST01", logged)
    found = compliance.answers_differ(tmp_path / "accuracy", tmp_path / "TEST01")
    assert (found == []) if expected is None else (expected in found[0])


def test_test01_has_the_same_answer_each_time_that_it_asks(tmp_path):
    write_log(tmp_path / "accuracy", ANSWERS)
    (tmp_path / "TEST01").mkdir()
    entries = [
        json.dumps({"seq_id": at, "qsl_idx": 7, "data": data}) for at, data in enumerate(["0000E040", "00000041"])
    ]
    (tmp_path / "TEST01" / "mlperf_log_accuracy.json").write_text("[\n" + ",\n".join(entries) + "\n]\n")
    (line,) = compliance.answers_differ(tmp_path / "accuracy", tmp_path / "TEST01")
    assert line.endswith("got others for 1 of 1 samples, the first of them sample 7")


def test_a_missing_log_is_said(tmp_path):
    write_log(tmp_path / "accuracy", ANSWERS)
    (line,) = compliance.answers_differ(tmp_path / "accuracy", tmp_path / "TEST01")
    assert "got none in" in line


def test_without_a_figure_a_test_does_not_pass(tmp_path):
    assert compliance.speeds_differ("offline", "TEST04", {}, {"samples_per_s": 1.0})


class OldLoadGen:
    """LoadGen 4.0 as far as a test of it goes: without a field for the number of answers that TEST01 logs."""

    TestScenario = SimpleNamespace(SingleStream="SingleStream")
    TestMode = SimpleNamespace(PerformanceOnly="PerformanceOnly")
    TestSettings = SimpleNamespace
    audit = None

    @staticmethod
    def LogSettings():
        return SimpleNamespace(log_output=SimpleNamespace())

    def ConstructQSL(self, *_):
        return None

    ConstructFastSUT = DestroyQSL = DestroyFastSUT = ConstructQSL

    def StartTestWithLogSettings(self, _sut, _qsl, _settings, logs, audit_file):
        self.audit = Path(audit_file).read_text() if audit_file else None
        Path(logs.log_output.outdir, "mlperf_log_detail.txt").touch()


@pytest.mark.parametrize("mode", ["TEST01", "TEST04"])
def test_the_logs_of_a_test_are_loadgens_alone(mode, tmp_path, monkeypatch):
    """Of LoadGen 4.0 as well, which takes a setting of TEST01 from a file only: a checker refuses the file there."""
    old = OldLoadGen()
    monkeypatch.setattr(loadgen, "load_generator", lambda profile: old)
    monkeypatch.setattr(loadgen, "_has_run", False)
    monkeypatch.setattr(loadgen, "judge", lambda *_: None)
    samples = Samples()
    sut = StreamSut(Engine(), samples, max_batch=1)
    loadgen.run_test(settings("singlestream", mode, profile="v4.0"), sut, samples, tmp_path)
    assert old.audit == ("*.*.accuracy_log_sampling_target = 4096\n" if mode == "TEST01" else None)
    assert [path.name for path in tmp_path.iterdir()] == ["mlperf_log_detail.txt"]


def test_test04_needs_the_sample_that_it_issues(tmp_path):
    samples = Samples(3)
    sut = StreamSut(Engine(), samples, max_batch=1)
    with pytest.raises(UserError, match=r"^TEST04: must be a test of at least 4 samples, .*, got 3$"):
        loadgen.run_test(settings("singlestream", "TEST04"), sut, samples, tmp_path)
