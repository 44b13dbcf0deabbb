"""Submission trees of MLPerf inference, changed one thing at a time: every forbidden change is refused by its rule."""

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from rules.inference_changes import edit_log
from rules.inference_mutations import MUTATIONS
from rules.loadgen_logs import ORGANIZATION, PERCENTILES, LoadGenTest, digits, record, whole_log, write_test, write_tree

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.record.formats.loadgen import read_accuracy, read_detail, read_summary
from airank_fast.record.lines import Lines
from airank_fast.rules import verifying
from airank_fast.rules.facts import Facts
from airank_fast.rules.findings import ERROR, NOTE, WARNING, Rule, worst
from airank_fast.rules.inference_profiles import PROFILES, TEST01_LOG_SAMPLES, TEST01_LOG_SEED, TEST04_INDEX
from airank_fast.rules.mlperf_inference import rules, tree

# Rules that no change of a tree of ResNet-50 breaks: of Server, of logs that stand alone, and warnings.
ELSEWHERE = {"inference.latency", "inference.round", "inference.loadgen_sources", "inference.rehearsal"}


def errors(path, **facts):
    return {finding.rule for finding in verifying.verify(path, Facts(**facts)) if finding.severity == ERROR}


@pytest.mark.parametrize(
    ("round_name", "benchmark", "system_type"),
    [
        ("v6.1", "resnet", "edge"),
        ("v6.1", "bert-99.9", "edge"),
        ("v4.0", "resnet", "edge"),
        ("v4.0", "resnet", "datacenter"),
        ("v4.0", "bert-99", "datacenter"),
    ],
)
def test_a_sound_tree_has_no_findings(tmp_path, round_name, benchmark, system_type):
    place = write_tree(tmp_path, round_name, benchmark, system_type)
    for path in (tmp_path, tmp_path / "closed", place):
        findings = list(verifying.verify(path))
        # A truncated log cannot be checked, which is a note.
        assert [str(each) for each in findings if each.rule != "inference.not_checked"] == []
        assert worst(findings) == NOTE


def test_there_are_enough_mutations():
    assert sum(mutation.is_known for mutation in MUTATIONS) == 20
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 100
    of_errors = {rule.name for rule in vars(rules).values() if isinstance(rule, Rule) and rule.severity == ERROR}
    assert of_errors - ELSEWHERE == {mutation.rule for mutation in MUTATIONS}


@cache
def sound_files(round_name):
    """The files of a sound tree, by their paths below the organization's folder."""
    with tempfile.TemporaryDirectory() as folder:
        place = write_tree(Path(folder), round_name)
        return {path.relative_to(place): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def restore(place, files):
    """Undo a change: the files of a sound tree, and no others."""
    for path in sorted(place.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
        elif path.is_file() and path.relative_to(place) not in files:
            path.unlink()
    for name, content in files.items():
        path = place / name
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


# Rules of layouts and compliance tests, which differ between rounds; bench/verify_inference.py has every rule in both.
OF_A_LAYOUT = (
    "files",
    "measurements",
    "code",
    "names",
    "scenarios",
    "benchmark",
    "compliance",
    "test0",
    "seeds",
    "dataset",
)


def is_tested(mutation, round_name):
    name = mutation.rule.partition(".")[2]
    return round_name in mutation.rounds and (round_name == "v6.1" or name.startswith(OF_A_LAYOUT))


@pytest.mark.parametrize("round_name", rules.ROUNDS)
def test_mutations(tmp_path, round_name):
    place, files, accepted = tmp_path / "closed" / ORGANIZATION, sound_files(round_name), {}
    place.mkdir(parents=True)
    for mutation in (each for each in MUTATIONS if is_tested(each, round_name)):
        restore(place, files)
        mutation.edit(place, round_name)
        found = errors(tmp_path)
        if mutation.rule not in found:
            accepted[mutation.name] = found
    assert accepted == {}
    restore(place, files)
    assert errors(tmp_path) == set()


def test_a_tree_of_the_open_division_needs_no_compliance_and_no_bound(tmp_path):
    place = write_tree(tmp_path, division="open", scenarios=("Offline",))
    shutil.rmtree(place / "documentation")
    results = place / "results/machine/resnet/Offline"
    text = (results / "accuracy/accuracy.txt").read_text()
    (results / "accuracy/accuracy.txt").write_text(text.replace("76.100%, good=38050", "50.000%, good=25000"))
    for name in ("TEST01", "TEST04"):
        (results / name).rename(tmp_path / name)
    assert errors(tmp_path) == set()
    edit_log(results / "performance/run_1/mlperf_log_detail.txt", {"result_validity": "INVALID"})
    assert errors(tmp_path) == {"inference.valid", "inference.summary"}


def test_a_rehearsal_says_so_and_may_be_short(tmp_path):
    place = write_tree(tmp_path)
    path = place / "systems/machine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hw_notes": "REHEARSAL: no result"}))
    for folder in ("performance/run_1", "TEST01/performance/run_1", "TEST04/performance/run_1"):
        log = place / f"results/machine/resnet/SingleStream/{folder}/mlperf_log_detail.txt"
        short = {"effective_min_duration_ms": 60_000, "requested_min_duration_ms": 60_000}
        edit_log(log, short | {"effective_performance_sample_count": 355})
        summary = log.with_name("mlperf_log_summary.txt")
        text = summary.read_text().replace("min_duration (ms) : 600000", "min_duration (ms) : 60000")
        summary.write_text(text.replace("performance_sample_count : 1024", "performance_sample_count : 355"))
    findings = list(verifying.verify(tmp_path))
    assert [str(each) for each in findings if each.severity == ERROR] == []
    warned = {each.rule for each in findings if each.severity == WARNING}
    assert warned == {"inference.rehearsal", "inference.duration", "inference.performance_samples"}


def test_a_system_of_both_types(tmp_path):
    place = write_tree(tmp_path, "v4.0", scenarios=("SingleStream", "MultiStream", "Offline", "Server"))
    path = place / "systems/machine.json"
    fields = json.loads(path.read_text())
    assert errors(tmp_path) == {"inference.scenarios"}  # Server on the edge
    path.write_text(json.dumps(fields | {"system_type": "datacenter,edge"}))
    assert errors(tmp_path) == set()
    shutil.rmtree(place / "results/machine/resnet/Server")
    assert errors(tmp_path) == {"inference.scenarios"}
    place = write_tree(tmp_path / "other", "v6.1", scenarios=("SingleStream", "MultiStream", "Offline"))
    (place / "systems/machine.json").write_text(json.dumps(fields | {"system_type": "edge,datacenter"}))
    assert errors(tmp_path / "other") == {"inference.scenarios"}  # 6.1 requires Server there


def test_our_own_package_around_a_tree(tmp_path):
    write_tree(tmp_path)
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  closed/Example/systems/machine.json\n")
    assert {"tree.sum", "tree.listed"} <= errors(tmp_path)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"result_overlatency_query_count": 200}, "inference.early_stopping"),
        ({"result_overlatency_query_count": 121}, "inference.contradiction"),
        ({"result_99.00_percentile_latency_ns": 15_500_000}, "inference.contradiction"),
        ({"effective_target_latency_ns": 150_000_000}, "inference.latency"),
        ({"effective_target_latency_ns": 0}, "inference.settings"),
        ({"result_scheduled_samples_per_sec": 200.0}, "inference.result"),
        ({"result_completed_samples_per_sec": 25.0}, "inference.result"),
        ({"effective_target_qps": 30.0}, "inference.result"),
        ({"result_perf_constraints_met": False}, "inference.valid"),
        ({"result_scheduled_samples_per_sec": 20.4}, "inference.duration"),
    ],
)
def test_server(tmp_path, values, rule):
    place = write_tree(tmp_path, "v4.0", system_type="datacenter")
    edit_log(place / "results/machine/resnet/Server/performance/run_1/mlperf_log_detail.txt", values)
    assert rule in errors(tmp_path)


def test_results_may_be_inferred_on_the_edge_alone(tmp_path):
    place = write_tree(tmp_path, "v4.0", "resnet", "edge")
    stream, offline = (
        place / f"results/machine/resnet/{name}/performance/run_1" for name in ("SingleStream", "Offline")
    )
    for name in ("mlperf_log_detail.txt", "mlperf_log_summary.txt"):
        (offline / name).write_text((stream / name).read_text())
    assert "inference.scenario" not in errors(tmp_path)
    place = write_tree(tmp_path / "other", "v4.0", "resnet", "datacenter")
    offline = place / "results/machine/resnet/Offline/performance/run_1"
    for name in ("mlperf_log_detail.txt", "mlperf_log_summary.txt"):
        (offline / name).write_text((stream / name).read_text())
    assert "inference.scenario" in errors(tmp_path / "other")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('{"exact_match": 80.1, "f1": 89.9}', "inference.accuracy"),
        ('{"exact_match": 92.0, "f1": 90.9}', "inference.accuracy_text"),
        ('{"exact_match": 83.7, "f1": NaN}', "inference.accuracy_text"),
        ("f1=90.9", "inference.accuracy_text"),
    ],
)
def test_accuracy_of_bert(tmp_path, text, rule):
    place = write_tree(tmp_path, benchmark="bert-99")
    path = place / "results/machine/bert-99/Offline/accuracy/accuracy.txt"
    path.write_text(f"{text}\nhash={'0' * 64}\n")
    assert rule in errors(tmp_path)


def test_answers_may_differ_where_the_accuracies_agree(tmp_path):
    place = write_tree(tmp_path, scenarios=("SingleStream", "MultiStream", "Offline"))
    folder = place / "results/machine/resnet/Offline/TEST01"
    (folder / "verify_accuracy.txt").write_text("num_perf_log_data_mismatch = 12\nTEST FAIL\n")
    assert errors(tmp_path) == {"inference.test01"}
    (folder / "accuracy/baseline_accuracy.txt").write_text("accuracy=76.100%, good=761, total=1000\n")
    (folder / "accuracy/compliance_accuracy.txt").write_text("accuracy=75.800%, good=758, total=1000\n")
    assert errors(tmp_path) == set()
    (folder / "accuracy/compliance_accuracy.txt").write_text("accuracy=74.800%, good=748, total=1000\n")
    assert errors(tmp_path) == {"inference.test01"}


# logs that stand alone


def test_a_log_alone(tmp_path):
    folder = tmp_path / "loadgen/singlestream/performance"
    write_test(folder, LoadGenTest("SingleStream"))
    assert list(verifying.verify(folder)) == []
    edit_log(folder / "mlperf_log_detail.txt", {"effective_min_duration_ms": 6_000, "requested_min_duration_ms": 6_000})
    findings = list(verifying.verify(folder / "mlperf_log_detail.txt", Facts(task=tasks.find("resnet50"))))
    assert {(each.severity, each.rule) for each in findings} == {
        (WARNING, "inference.duration"),  # a round requires 600 s
        (ERROR, "inference.summary"),
    }
    edit_log(folder / "mlperf_log_detail.txt", {"result_validity": "INVALID"})
    assert "inference.valid" in errors(folder)


def test_a_stall_in_the_last_query_is_no_contradiction(tmp_path):
    """500 queries of 1 ms and one of 2 s, which has been issued, not answered, when the rate is taken."""
    num, mean_ns = 501, (500 * 1_000_000 + 2_000_000_000) // 501
    changes = {
        "result_query_count": num,
        "result_mean_latency_ns": mean_ns,
        "result_qps_without_loadgen_overhead": digits(1e9 / mean_ns),
        "result_qps_with_loadgen_overhead": digits(500 / 0.5005),
        "effective_min_duration_ms": 500,
        "requested_min_duration_ms": 500,
        "result_max_latency_ns": 2_000_000_000,
        "early_stopping_result": None,
    }
    names = ("result_min_latency_ns", *(f"result_{each}_percentile_latency_ns" for each in PERCENTILES))
    changes |= dict.fromkeys((*names, "early_stopping_latency_ss"), 1_000_000)
    write_test(tmp_path, LoadGenTest(changes=changes))
    assert errors(tmp_path) == set()
    edit_log(tmp_path / "mlperf_log_detail.txt", {"result_qps_with_loadgen_overhead": 1100.0})
    assert "inference.result" in errors(tmp_path)


def test_a_log_of_other_seeds_and_of_a_compliance_test(tmp_path):
    other = LoadGenTest(changes={"effective_qsl_rng_seed": 1, "requested_qsl_rng_seed": 1})
    write_test(tmp_path / "a", other)
    assert [(each.severity, each.rule) for each in verifying.verify(tmp_path / "a")] == [(WARNING, "inference.round")]
    for name in ("TEST01", "TEST04"):
        write_test(tmp_path / f"offline/{name}", LoadGenTest("Offline", name))
        assert list(verifying.verify(tmp_path / "offline" / name)) == []
    write_test(tmp_path / "offline/TEST05", LoadGenTest("Offline", "TEST05", "v4.0"))
    assert list(verifying.verify(tmp_path / "offline/TEST05")) == []


def test_a_log_of_changed_sources(tmp_path):
    sources = {**rules.RELEASE_SOURCES["6.0.17"], "/README.md": "0" * 40}
    write_test(tmp_path, LoadGenTest(changes={"loadgen_file_sha1": sources}))
    assert list(verifying.verify(tmp_path)) == []
    write_test(tmp_path, LoadGenTest(changes={"loadgen_file_sha1": sources | {"/results.cc": "0" * 40}}))
    assert [(each.severity, each.rule) for each in verifying.verify(tmp_path)] == [
        (WARNING, "inference.loadgen_sources")
    ]


def test_answers_beside_a_log(tmp_path):
    test = replace(LoadGenTest("Offline", "accuracy"), changes={"qsl_reported_total_count": 90})
    write_test(tmp_path, test)
    path = tmp_path / "mlperf_log_accuracy.json"
    path.write_text(whole_log(90))
    assert list(verifying.verify(tmp_path)) == []
    path.write_text(whole_log(89))
    assert errors(tmp_path) == {"inference.lost_samples"}
    path.write_text(whole_log(90)[:-100])
    assert errors(tmp_path) == {"inference.answers", "inference.lost_samples"}
    with_hash = whole_log(90)
    path.write_text(with_hash)
    import hashlib

    digest = hashlib.sha256(with_hash.encode()).hexdigest()
    (tmp_path / "accuracy.txt").write_text(f"accuracy=50.000%, good=45, total=90\nhash={digest}\n")
    assert errors(tmp_path) == set()
    path.write_text(whole_log(90, offset=1))
    assert errors(tmp_path) == {"inference.hash"}


def test_a_training_log_is_none_of_loadgen(tmp_path):
    from rules.mlperf_logs import compliant

    (tmp_path / "a.txt").write_text("\n".join(compliant("resnet-lars")) + "\n")
    assert {each.rule.partition(".")[0] for each in verifying.verify(tmp_path / "a.txt")} <= {"mlperf"}
    (tmp_path / "b.txt").write_text("\n".join(LoadGenTest().lines()) + "\n")
    assert list(verifying.verify(tmp_path / "b.txt")) == []


def test_no_tree():
    with pytest.raises(UserError, match="must be a submission tree of MLPerf inference"):
        list(tree.check_tree("/nowhere"))


# the real one

_REAL = """
import array, sys, time
import mlperf_loadgen as lg
scenario, mode, folder = sys.argv[1:4]
settings = lg.TestSettings()
settings.scenario = getattr(lg.TestScenario, scenario)
settings.mode = lg.TestMode.AccuracyOnly if mode == "accuracy" else lg.TestMode.PerformanceOnly
settings.min_duration_ms, settings.min_query_count = 400, {"MultiStream": 700, "SingleStream": 70}.get(scenario, 1)
settings.single_stream_expected_latency_ns = settings.multi_stream_expected_latency_ns = 200_000
settings.multi_stream_samples_per_query = 8
settings.server_target_qps, settings.server_target_latency_ns = 3000, 10_000_000_000
settings.server_target_latency_percentile = settings.multi_stream_target_latency_percentile = 0.99
settings.offline_expected_qps = 50_000
settings.qsl_rng_seed, settings.sample_index_rng_seed, settings.schedule_rng_seed = map(int, sys.argv[4:7])
if mode == "TEST01":
    settings.accuracy_log_rng_seed, settings.accuracy_log_sampling_target = map(int, sys.argv[7:9])
if mode == "TEST04":
    settings.performance_issue_same, settings.performance_issue_same_index = True, int(sys.argv[9])
answer = array.array("b", bytes(4))
wait_s = {"Offline": 0.45, "Server": 0.0}.get(scenario, 0.0005) if mode != "accuracy" else 0.0
def issue(samples):
    time.sleep(wait_s)
    address, _ = answer.buffer_info()
    lg.QuerySamplesComplete([lg.QuerySampleResponse(each.id, address, 4) for each in samples])
sut, qsl = lg.ConstructSUT(issue, lambda: None), lg.ConstructQSL(90, 90, lambda ids: None, lambda ids: None)
logs = lg.LogSettings()
logs.log_output.outdir, logs.log_output.copy_summary_to_stdout, logs.enable_trace = folder, False, False
lg.StartTestWithLogSettings(sut, qsl, settings, logs, "")
"""


@pytest.mark.parametrize(
    ("scenario", "mode"),
    [
        ("SingleStream", "performance"),
        ("MultiStream", "performance"),
        ("Server", "performance"),
        ("Offline", "performance"),
        ("Offline", "accuracy"),
        ("MultiStream", "accuracy"),  # 90 samples, and 6 again to fill the last query
        ("SingleStream", "TEST01"),
        ("SingleStream", "TEST04"),
    ],
)
def test_real_logs(tmp_path, scenario, mode):
    """LoadGen's own logs of a system that answers at once: the book finds nothing to refuse."""
    pytest.importorskip("mlperf_loadgen")
    folder = tmp_path / mode
    folder.mkdir()
    numbers = map(str, (*PROFILES["v6.1"].seeds, TEST01_LOG_SEED, TEST01_LOG_SAMPLES, TEST04_INDEX))
    command = [sys.executable, "-c", _REAL, scenario, mode, str(folder), *numbers]
    subprocess.run(command, check=True, timeout=60, cwd=tmp_path)
    findings = list(verifying.verify(tmp_path))
    assert [str(each) for each in findings if each.severity == ERROR] == []
    assert {each.rule for each in findings} <= {"inference.duration", "inference.min_queries", "inference.warned"}
    detail = read_detail(Lines(folder / "mlperf_log_detail.txt"))
    made_up = LoadGenTest(scenario, mode).values()
    missing = [key for key in made_up if key.startswith(("effective", "result", "early")) and key not in detail.values]
    assert missing == []
    if mode == "accuracy":
        answers = read_accuracy(Lines(folder / "mlperf_log_accuracy.json"))
        assert sorted(answers.data) == list(range(90))
        assert set(answers.data.values()) == {"00000000"}
    else:
        assert read_summary(Lines(folder / "mlperf_log_summary.txt")).value("Scenario") == scenario


# readers


def test_a_detail_log_in_any_state():
    lines = [
        *LoadGenTest().lines(),
        record("x", 1, 1.0),
        record("x", 2, 1.0),
        record("error_x", "bad", 1.0, is_error=True),
    ]
    detail = read_detail([*lines, ":::MLLOG {oops", "other output"])
    assert detail.value("x") == 1
    assert detail.value("none") is None
    assert detail.repeated == [(len(lines) - 1, "x")]
    assert detail.errors == [(len(lines), "error_x", "bad")]
    assert [number for number, _ in detail.troubles] == [len(lines) + 1]
    assert detail.part("effective_")["min_duration_ms"] == 600_000
    assert detail.last_ms == 700_000.5


def test_a_summary():
    summary = read_summary(LoadGenTest().summary_lines())
    assert summary.value("Result is") == "VALID"
    assert summary.value("min_duration (ms)") == "600000"
    assert summary.num_errors == 0
    assert read_summary(["1 ERROR encountered. See detailed log."]).num_errors == 1
    assert read_summary([]).num_errors is None


def test_an_accuracy_log():
    answers = read_accuracy(whole_log(3).splitlines())
    assert answers.data == {0: "00000000", 1: "0000803F", 2: "00000040"}
    assert answers.is_closed
    assert not answers.is_truncated
    again = read_accuracy(
        ['[{"qsl_idx": 1, "data": "00"}, {"qsl_idx": 1, "data": "01"}, {"qsl_idx": 1, "data": "00"}]']
    )
    assert (again.num_entries, again.again, again.changed) == (3, [1, 1], [1])
    assert read_accuracy(["[", "oops", "]"]).troubles[0][0] == 2


def test_the_published_table_is_of_these_mutations():
    lines = (Path(__file__).parents[2] / "bench/results/verify_inference.jsonl").read_text().splitlines()
    judged = [each for line in lines for each in json.loads(line)["judged"]]
    found = {
        (each["round"], each["mutation"]): bool(each["rules"]) for each in judged if each["mutation"] != "untouched"
    }
    assert found == {(name, mutation.name): True for mutation in MUTATIONS for name in mutation.rounds}
    untouched = [each for each in judged if each["mutation"] == "untouched"]
    assert [(each["rules"], each["official"]) for each in untouched] == [([], "passes")] * 2
