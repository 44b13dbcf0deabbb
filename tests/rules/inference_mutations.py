"""Mutations of a submission tree of MLPerf inference: what each does to a file, and the rule that refuses it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rules.inference_changes import (
    add,
    append,
    change,
    compliance,
    compliance_log,
    compliance_text,
    drop,
    measurements,
    of_measurements,
    other_answers,
    performance,
    remove,
    remove_folder,
    rename,
    results,
    scaled,
    slower,
    system,
    text,
    write,
)
from rules.loadgen_logs import SYSTEM, answer_lines, record

from airank_fast.rules.inference_profiles import PROFILES

BOTH = ("v6.1", "v4.0")


@dataclass(frozen=True)
class Mutation:
    """`edit` changes files below the organization's folder of a tree of ResNet-50 on an edge system.

    `is_known`: one of the twenty that were tried on the official checker of 6.1, of which it refused five.
    """

    name: str
    rule: str
    edit: Callable[[Path, str], None]  # with the round
    rounds: tuple[str, ...] = ("v6.1",)
    is_known: bool = False


MUTATIONS: list[Mutation] = []


def forbid(name, rule, edit, rounds=("v6.1",), is_known=False):
    MUTATIONS.append(Mutation(name, f"inference.{rule}", edit, rounds, is_known))


SS, MS, OFFLINE = performance("SingleStream"), performance("MultiStream"), performance("Offline")
ACCURACY = "Offline/accuracy"
ERROR_LINE = record("error_runtime", "Ran out of generated queries to issue", 5.0, is_error=True)
CHANGED = record("error_uncommitted_loadgen_changes", "Loadgen built with uncommitted changes!", 0.1, is_error=True)

# the twenty
forbid("early stopping not met", "early_stopping", change(SS, early_stopping_met=False), BOTH, True)
forbid("another seed", "seeds", change(MS, effective_qsl_rng_seed=1), BOTH, True)
forbid(
    "accuracy below the bound",
    "accuracy",
    text(f"{ACCURACY}/accuracy.txt", "accuracy=76.100%, good=38050", "accuracy=75.600%, good=37800"),
    BOTH,
    True,
)
forbid("an error line in the accuracy log", "errors", append(ACCURACY, ERROR_LINE), BOTH, True)
forbid(
    "500 samples evaluated",
    "dataset",
    change(ACCURACY, qsl_reported_total_count=500, effective_accuracy_sample_count=500),
    BOTH,
    True,
)
forbid("INVALID, single stream", "valid", change(SS, result_validity="INVALID"), BOTH, True)
forbid("INVALID, offline", "valid", change(OFFLINE, result_validity="INVALID"), BOTH, True)
forbid("an error line, single stream", "errors", append(SS, ERROR_LINE), BOTH, True)
forbid("an error line, offline", "errors", append(OFFLINE, ERROR_LINE), BOTH, True)
forbid("too few queries, single stream", "min_queries", change(SS, result_min_queries_met=False), BOTH, True)
forbid("too few queries, offline", "min_queries", change(OFFLINE, result_min_queries_met=False), BOTH, True)
forbid("an accuracy run as performance", "mode", change(OFFLINE, effective_test_mode="AccuracyOnly"), BOTH, True)
forbid("p50 of a single stream", "percentile", change(SS, effective_target_latency_percentile=0.5), BOTH, True)
forbid("one sample a query, multi-stream", "samples_per_query", change(MS, effective_samples_per_query=1), BOTH, True)
forbid("the same sample again and again", "issue", change(SS, effective_performance_issue_same=True), BOTH, True)
forbid(
    "accuracy.txt of 500, one right",
    "accuracy_text",
    text(f"{ACCURACY}/accuracy.txt", "good=38050, total=50000", "good=1, total=500"),
    BOTH,
    True,
)
forbid("any hash", "hash", text(f"{ACCURACY}/accuracy.txt", "0123456789abcdef" * 4, "any"), BOTH, True)
forbid("LoadGen 3.1 @ hacked", "loadgen", change(OFFLINE, loadgen_version="3.1 @ hacked"), BOTH, True)
forbid("a modified LoadGen", "loadgen", change(OFFLINE, loadgen_git_status_message=" M loadgen/results.cc"), BOTH, True)
forbid("result x 10, offline", "result", scaled(OFFLINE, "result_samples_per_second", 10), BOTH, True)

# more results that are not LoadGen's
forbid("result x 10, single stream", "result", scaled(SS, "early_stopping_latency_ss", 0.1), BOTH)
forbid("result x 10, multi-stream", "result", scaled(MS, "early_stopping_latency_ms", 0.1), BOTH)
forbid("result 1 % better, offline", "result", scaled(OFFLINE, "result_samples_per_second", 1.01))
forbid("result 1 % better, single stream", "result", scaled(SS, "early_stopping_latency_ss", 0.99))
forbid("p99 for inferred results edited", "result", scaled(SS, "early_stopping_latency_ms", 0.99))
forbid("mean latency halved", "result", scaled(SS, "result_mean_latency_ns", 0.5))
forbid("more queries a second than the latencies allow", "result", scaled(SS, "result_qps_with_loadgen_overhead", 1.01))
forbid("p90 above the maximum", "contradiction", scaled(OFFLINE, "result_90.00_percentile_latency_ns", 3))
forbid("p99 below p90", "contradiction", scaled(MS, "result_99.00_percentile_per_query_latency_ns", 0.1))
forbid("longest latency shorter than the test", "duration", scaled(OFFLINE, "result_max_latency_ns", 0.5))
forbid("ten times as many queries", "clock", change(SS, result_query_count=64_000))
forbid("fewer queries than explained", "contradiction", change(SS, result_query_count=6_300))
forbid("60 queries", "early_stopping", change(SS, result_query_count=60))
forbid("600 queries, multi-stream", "early_stopping", change(MS, result_query_count=600))
forbid("minimum duration not met", "duration", change(OFFLINE, result_min_duration_met=False), BOTH)
forbid(
    "setting of 60 s", "duration", change(SS, effective_min_duration_ms=60_000, requested_min_duration_ms=60_000), BOTH
)
forbid(
    "1,000 samples offline",
    "min_queries",
    change(OFFLINE, effective_samples_per_query=1_000, generated_samples_per_query=1_000),
)
forbid("fewer samples than the setting", "contradiction", change(OFFLINE, generated_samples_per_query=32_000))
forbid("64 samples loaded", "performance_samples", change(OFFLINE, effective_performance_sample_count=64), BOTH)
forbid("a setting that was not requested", "settings", change(SS, requested_min_duration_ms=10_000))
forbid("seeds of another round", "seeds", change(SS, effective_schedule_rng_seed=PROFILES["paper"].seeds[2]), BOTH)
forbid("samples each once", "issue", change(OFFLINE, effective_performance_issue_unique=True))
forbid("answers logged while measuring", "accuracy_log", change(SS, effective_accuracy_log_sampling_target=4096))
forbid("a log of 300 s", "clock", text(f"{SS}/mlperf_log_detail.txt", '"time_ms": 700000.5', '"time_ms": 300000.5'))
forbid("a log that was cut off", "missing", drop(SS, "result_validity", "result_query_count", "num_errors"), BOTH)
forbid("no version", "missing", drop(OFFLINE, "loadgen_version"), BOTH)
forbid("a second verdict", "once", append(SS, record("result_validity", "INVALID", 9e5)), BOTH)
forbid("an uncommitted change of LoadGen", "errors", append(SS, CHANGED))
forbid("a line that is no JSON", "record", append(MS, ':::MLLOG {"key": "x", '), BOTH)
forbid("a figure that is text", "record", change(SS, result_query_count="6400"))
forbid("LoadGen of another round", "loadgen", change(SS, loadgen_version="5.1.2 @ 0910c6e300"), BOTH)
forbid("errors that are counted only", "errors", change(SS, num_errors=3))
forbid("offline's log as single stream's", "scenario", change(SS, effective_scenario="Offline"), BOTH)
forbid("a scenario of its own", "scenario", change(SS, effective_scenario="Burst"))

# the summary
forbid(
    "a summary that says INVALID",
    "summary",
    text(f"{SS}/mlperf_log_summary.txt", "Result is : VALID", "Result is : INVALID"),
    BOTH,
)
forbid(
    "a summary of another rate",
    "summary",
    text(f"{OFFLINE}/mlperf_log_summary.txt", "Samples per second: 5", "Samples per second: 9"),
)
forbid(
    "a summary of another estimate",
    "summary",
    text(f"{SS}/mlperf_log_summary.txt", "th percentile estimate: 1", "th percentile estimate: 2"),
)
forbid(
    "a summary with errors",
    "summary",
    text(f"{SS}/mlperf_log_summary.txt", "No errors encountered", "3 ERRORS encountered"),
)
forbid("a summary that was cut off", "summary", text(f"{MS}/mlperf_log_summary.txt", "Result is : VALID\n", ""))

# accuracy
forbid(
    "per cent that good and total do not give",
    "accuracy_text",
    text(f"{ACCURACY}/accuracy.txt", "76.100%", "77.100%"),
    BOTH,
)
forbid(
    "half the set counted",
    "dataset",
    text(f"{ACCURACY}/accuracy.txt", "good=38050, total=50000", "good=19025, total=25000"),
    BOTH,
)
forbid("no accuracy", "accuracy_text", text(f"{ACCURACY}/accuracy.txt", "accuracy=", "precision="))
forbid("no hash", "hash", text(f"{ACCURACY}/accuracy.txt", "hash=", "sum="))
forbid(
    "75.695 %, below by 3 pictures",
    "accuracy",
    text(f"{ACCURACY}/accuracy.txt", "76.100%, good=38050", "75.690%, good=37845"),
)
forbid(
    "an accuracy log of 20 kB",
    "truncated",
    text(f"{ACCURACY}/mlperf_log_accuracy.json", "...", "...\n" + "\n" * 12_000),
    BOTH,
)
forbid("an accuracy log without end", "answers", text(f"{ACCURACY}/mlperf_log_accuracy.json", "\n]\n", "\n"))
forbid(
    "an entry that is none", "answers", text(f"{ACCURACY}/mlperf_log_accuracy.json", '"qsl_idx" : 3,', '"index" : 3,')
)
forbid(
    "two answers to a sample",
    "lost_samples",
    text(f"{ACCURACY}/mlperf_log_accuracy.json", '"qsl_idx" : 3,', '"qsl_idx" : 4,'),
)
forbid(
    "a lost sample",
    "lost_samples",
    add(f"{ACCURACY}/mlperf_log_accuracy.json", "[\n" + ",\n".join(answer_lines(range(90))) + "\n]\n"),
)
forbid(
    "a hash of another log",
    "hash",
    add(f"{ACCURACY}/mlperf_log_accuracy.json", "[\n" + ",\n".join(answer_lines(range(90))) + "\n]\n"),
)
forbid("a performance run as accuracy", "mode", change(ACCURACY, effective_test_mode="PerformanceOnly"), BOTH)

# files
forbid("no summary", "files", remove(f"{SS}/mlperf_log_summary.txt"), BOTH)
forbid("no detail log", "files", remove(f"{OFFLINE}/mlperf_log_detail.txt"), BOTH)
forbid("no accuracy.txt", "files", remove(f"{ACCURACY}/accuracy.txt"), BOTH)
forbid("a summary of another name", "files", rename(f"{SS}/mlperf_log_summary.txt", "summary.txt"), BOTH)
forbid("a file that belongs nowhere", "stray", add(f"{SS}/notes.txt"))
forbid(
    "run_2",
    "files",
    lambda place, round: (results(place, "Offline") / "performance/run_1").rename(
        results(place, "Offline") / "performance/run_2"
    ),
    BOTH,
)
forbid(
    "no user.conf",
    "measurements",
    lambda place, round: (measurements(place, "Offline", round) / "user.conf").unlink(),
    BOTH,
)
forbid(
    "an empty README",
    "measurements",
    lambda place, round: (measurements(place, "Offline", round) / "README.md").write_text(""),
    BOTH,
)
forbid(
    "no mlperf.conf",
    "measurements",
    lambda place, round: (measurements(place, "Offline", round) / "mlperf.conf").unlink(),
    ("v4.0",),
)
forbid("no weights named", "measurements", of_measurements(starting_weights_filename=None), BOTH)
forbid("data types left blank", "measurements", of_measurements(weight_data_types=""), BOTH)
forbid("no code", "code", remove_folder(lambda place, round: place / ("src" if round == "v6.1" else "code")), BOTH)
forbid(
    "no calibration.md",
    "files",
    lambda place, round: (place / ("documentation/calibration.md" if round == "v6.1" else "calibration.md")).unlink(),
    BOTH,
)

# the system
for _name in ("system_type_detail", "host_network_card_count", "cooling", "sw_notes", "framework"):
    forbid(f"no {_name}", "system", system(**{_name: None}), BOTH)
forbid("a blank framework", "system", system(framework=""), BOTH)
forbid("system type 'laptop'", "system", system(system_type="laptop"), BOTH)
forbid("status 'onprem'", "system", system(status="onprem"), BOTH)
forbid("nodes in words", "system", system(number_of_nodes="one"), BOTH)
forbid("another submitter", "system", system(submitter="Other"), BOTH)
forbid("another division", "system", system(division="open"), BOTH)
forbid("a network system in closed", "system", system(is_network="true"))
forbid("no description", "system", lambda place, round: (place / "systems" / f"{SYSTEM}.json").unlink(), BOTH)
forbid("a description without results", "systems", write("systems/other.json", "{}"))

# benchmarks and scenarios
forbid("no MultiStream", "scenarios", remove_folder(lambda place, round: results(place, "MultiStream")), BOTH)
forbid(
    "a Server result on the edge",
    "scenarios",
    lambda place, round: results(place, "MultiStream").rename(results(place, "Server")),
    BOTH,
)
forbid(
    "a benchmark of another name",
    "benchmark",
    lambda place, round: results(place, ".").rename(results(place, "../lenet")),
    BOTH,
)
forbid("ResNet-50 in the datacenter", "benchmark", system(system_type="datacenter"))

# compliance
forbid(
    "no TEST01", "compliance", remove_folder(lambda place, round: compliance(place, "Offline", round) / "TEST01"), BOTH
)
forbid(
    "no TEST04",
    "compliance",
    remove_folder(lambda place, round: compliance(place, "SingleStream", round) / "TEST04"),
    BOTH,
)
forbid(
    "no TEST05",
    "compliance",
    remove_folder(lambda place, round: compliance(place, "Offline", round) / "TEST05"),
    ("v4.0",),
)
forbid(
    "TEST05 in a round without",
    "compliance",
    lambda place, round: (compliance(place, "Offline", round) / "TEST05").mkdir(),
)
forbid(
    "TEST01 failed",
    "test01",
    compliance_text("Offline", "TEST01/verify_performance.txt", "TEST PASS", "TEST FAIL"),
    BOTH,
)
forbid(
    "TEST04 failed",
    "test04",
    compliance_text("MultiStream", "TEST04/verify_performance.txt", "TEST PASS", "TEST FAIL"),
    BOTH,
)
forbid(
    "TEST01 of a mismatch that passes",
    "test01",
    compliance_text("Offline", "TEST01/verify_accuracy.txt", "mismatch = 0", "mismatch = 12"),
    BOTH,
)
forbid(
    "TEST01 without verdict on answers",
    "test01",
    compliance_text("Offline", "TEST01/verify_accuracy.txt", "TEST PASS", ""),
    BOTH,
)
forbid("TEST01 with other answers", "test01", other_answers, BOTH)
forbid("TEST01 15 % slower", "test01", slower("SingleStream", "TEST01", 1.15), BOTH)
forbid("TEST04 15 % faster, single stream", "test04", slower("SingleStream", "TEST04", 1 / 1.15), BOTH)
forbid("TEST04 15 % faster, offline", "test04", slower("Offline", "TEST04", 1 / 1.15), BOTH)
forbid("TEST05 8 % slower", "test05", slower("Offline", "TEST05", 1.08), ("v4.0",))
forbid(
    "TEST01 that logs no answers",
    "accuracy_log",
    compliance_log("Offline", "TEST01", effective_accuracy_log_sampling_target=0),
    BOTH,
)
forbid(
    "TEST04 of many samples", "issue", compliance_log("Offline", "TEST04", effective_performance_issue_same=False), BOTH
)
forbid(
    "TEST05 with the round's seeds",
    "seeds",
    compliance_log("Offline", "TEST05", effective_qsl_rng_seed=PROFILES["v4.0"].seeds[0]),
    ("v4.0",),
)
forbid("TEST01 INVALID", "valid", compliance_log("Offline", "TEST01", result_validity="INVALID"), BOTH)
forbid(
    "a score that is not the log's",
    "test04",
    compliance_text("SingleStream", "TEST04/verify_performance.txt", "test score = 1", "test score = 7"),
    BOTH,
)
forbid(
    "TEST01 without accuracy.txt",
    "compliance",
    lambda place, round: (compliance(place, "Offline", round) / "TEST01/accuracy/accuracy.txt").unlink(),
    ("v4.0",),
)

# names
forbid("a hidden file", "names", write("code/.gitignore", "x\n"), BOTH)
forbid("a blank in a name", "names", write("code/how to run.md", "x\n"))
forbid("compiled Python", "names", write("code/__pycache__/x.pyc", "x\n"))
forbid("an empty folder", "names", lambda place, round: (place / "empty").mkdir())
