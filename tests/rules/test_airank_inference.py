"""The rule book of AI-Rank's inference logs: sound logs pass, changes and published logs are refused by their rules."""

import re

import pytest
from record.inference_run import inference_run
from record.test_airank_inference import BERT, MOBILE, SAMPLE

from airank_fast import tasks
from airank_fast.record.foreign.detect import detect
from airank_fast.record.formats.airank_inference import airank_inference
from airank_fast.record.metrics import percentile
from airank_fast.rules import verifying
from airank_fast.rules.facts import Facts

PROFILES = ("2020-12", "2021-05")


@pytest.fixture(scope="module", name="logs")
def logs_fixture():
    """{profile: {file: lines}} of sound runs of 1,000 samples."""
    return {name: airank_inference(inference_run(f"airank-{name}", eval_samples=1000)) for name in PROFILES}


def findings(path, lines, **facts):
    path.write_text("".join(f"{line}\n" for line in lines))
    return list(verifying.verify(path, Facts(task=tasks.find("resnet50"), **facts)))


@pytest.mark.parametrize("profile", PROFILES)
def test_sound_logs(tmp_path, logs, profile):
    for name, lines in logs[profile].items():
        found = findings(tmp_path / name, lines, profile=profile, target=0.7572)
        assert [str(finding) for finding in found] == [], name
        assert detect(tmp_path / name) == ["airank_inference"]


@pytest.mark.parametrize("kind", ["linear", "nearest", "above", "below"])
def test_every_usual_percentile_of_a_few_cases_passes(tmp_path, kind):
    cases = [10 + 0.37 * number * number % 7 for number in range(64)]
    ascending = sorted(cases)
    p90 = {
        "linear": percentile(ascending, 90),
        "nearest": ascending[57],
        "above": ascending[57],
        "below": ascending[55],
    }
    times = [f"AI-Rank-log 1600000000.{number:03d}" for number in range(70)]
    lines = ["load_data, checksum:c0ffee", "test_begin"]
    lines += [f"latency_case{number}_latency:{case:.4f}ms" for number, case in enumerate(cases, 1)]
    extremes = f"min_latency:{ascending[0]:.4f}ms, max_latency:{ascending[-1]:.4f}ms"
    lines += [f"90th_percentile_latency:{p90[kind]:.4f}ms, {extremes}", "test_end"]
    lines = [f"{time} {line}" for time, line in zip(times, lines, strict=False)]
    found = findings(tmp_path / LATENCY, lines, profile="2021-05", target=0.7572)
    rules = [finding.rule.partition(".")[2] for finding in found if finding.severity == "error"]
    assert rules == (["percentile"] if kind == "below" else [])


def replaced(old, new, count=1):
    """With a pattern replaced in the first `count` lines that have it."""

    def mutate(lines):
        left, changed = count, []
        for line in lines:
            if left and re.search(old, line):
                line, left = re.sub(old, new, line), left - 1
            changed.append(line)
        assert left == 0 or count > 100, old
        return changed

    return mutate


def last(old, new):
    """With a pattern replaced in the last line that has it."""
    return lambda lines: replaced(old, new)(lines[::-1])[::-1]


def without(pattern):
    return lambda lines: [line for line in lines if not re.search(pattern, line)]


def moved(pattern, index):
    """With the first line of a pattern at another place."""

    def mutate(lines):
        at = next(number for number, line in enumerate(lines) if re.search(pattern, line))
        rest = [*lines[:at], *lines[at + 1 :]]
        place = index if index >= 0 else len(rest) + index + 1
        return [*rest[:place], lines[at], *rest[place:]]

    return mutate


def twice(pattern):
    def mutate(lines):
        at = next(number for number, line in enumerate(lines) if re.search(pattern, line))
        return [*lines[: at + 1], *lines[at:]]

    return mutate


def fewer_samples(lines):
    """Every second result left out, with the accuracy of the others."""
    kept = [line for number, line in enumerate(lines) if "sampleid" not in line or number % 2]
    right = sum("result=true" in line for line in kept) / sum("sampleid" in line for line in kept)
    return [re.sub(r"total_accuracy:.*", f"total_accuracy:{right!r}", line) for line in kept]


CHECK, OFFLINE, ONLINE = "accuracy_check.log", "offline_ips.log", "online_ips.log"
LATENCY, BATCH = "latency.log", "max_qps_max_memory_use.log"
OLD = "2020-12"
MUTATIONS = [  # (what, file, rule, mutate)
    ("no test_begin", CHECK, "missing", without("test_begin")),
    ("no test_end", OFFLINE, "missing", without("test_end")),
    ("no load_data", CHECK, "load_data", without("load_data")),
    ("no results", CHECK, "missing", without("sampleid")),
    ("no accuracy", CHECK, "missing", without("total_accuracy")),
    ("a sample twice", CHECK, "sample", replaced("sampleid:7,", "sampleid:8,")),
    ("a result turned", CHECK, "total_accuracy", replaced("result=true", "result=false")),
    ("a higher accuracy", CHECK, "total_accuracy", replaced(r"total_accuracy:0\.\d+", "total_accuracy:0.7712")),
    ("accuracy of 101", CHECK, "total_accuracy", replaced(r"total_accuracy:0\.\d+", "total_accuracy:101")),
    ("a result that says nothing", CHECK, "result", replaced("result=true", "same num=3")),
    ("test_begin after the samples", CHECK, "order", moved("test_begin", -2)),
    ("a second test_end", CHECK, "order", twice("test_end")),
    ("a line that is cut", CHECK, "line", replaced("sampleid:5, result=true", "sampleid:5, res")),
    ("another word", CHECK, "prefix", replaced(r"AI-Rank-log \S+", "[ AI-Rank-Log  4/ 7 20:44: 7.880 ]")),
    ("half of the samples", CHECK, "total_samples_cnt", fewer_samples),
    ("no warm-up", OFFLINE, "missing", without("warmup_begin")),
    ("warm-up after the samples", OFFLINE, "order", moved("warmup_finish", -3)),
    ("avg_ips x 10", OFFLINE, "avg_ips", replaced(r"avg_ips:(\d)", r"avg_ips:9\1")),
    ("avg_ips + 2 %", OFFLINE, "avg_ips", replaced(r"avg_ips:\d+\.\d+", "avg_ips:46.9")),
    ("a count that falls", OFFLINE, "total_samples_cnt", replaced("samples_cnt:1000", "samples_cnt:500")),
    ("an accuracy below the bound", OFFLINE, "bound", last(r"total_accuracy:0\.\d+", "total_accuracy:0.74")),
    ("target_qps x 2", ONLINE, "target_qps", replaced(r"target_qps:\d+", "target_qps:899")),
    ("a latency beyond the bound", ONLINE, "bound", last(r"max_latency:[\d.]+", "max_latency:15.0001")),
    ("a maximum that falls", ONLINE, "max_latency", replaced(r"max_latency:[\d.]+", "max_latency:14.9")),
    ("no target_qps", ONLINE, "missing", without("target_qps")),
    ("no latency", ONLINE, "max_latency", replaced(r", max_latency:[\d.]+ms", "", 10_000)),
    ("a case is missing", LATENCY, "latency_case", without("latency_case17_")),
    ("a case twice", LATENCY, "latency_case", twice("latency_case17_")),
    ("p90 of 1 ms", LATENCY, "percentile", replaced(r"90th_percentile_latency:[\d.]+", "90th_percentile_latency:1")),
    ("p90 - 2 %", LATENCY, "percentile", replaced(r"latency:(\d+)\.\d+ms, min", r"latency:10.25ms, min")),
    ("another maximum", LATENCY, "percentile", replaced(r"max_latency:[\d.]+", "max_latency:10.4")),
    ("no percentile", LATENCY, "missing", without("90th")),
    ("half a sample a case", BATCH, "samples_cnt_each_case", replaced("each_case:2", "each_case:2.5")),
    ("more than were answered", BATCH, "samples_cnt_each_case", replaced("each_case:2", "each_case:4000")),
    ("memory that falls", BATCH, "max_memory_use", replaced("max_memory_use:420", "max_memory_use:900")),
    ("the bound of terminals", BATCH, "bound", last(r"max_latency:[\d.]+", "max_latency:1100.1")),
    ("no accuracy at all", BATCH, "missing", replaced(r"total_accuracy:0\.\d+, ", "", 10_000)),
]


@pytest.mark.parametrize(("what", "name", "rule", "mutate"), MUTATIONS, ids=[each[0] for each in MUTATIONS])
def test_a_change_is_refused_by_its_rule(tmp_path, logs, what, name, rule, mutate):
    own = {"target": 0.7572} if what not in ("half of the samples",) and rule != "bound" else {}
    found = findings(tmp_path / name, mutate(list(logs["2021-05"][name])), profile="2021-05", **own)
    errors = {finding.rule for finding in found if finding.severity == "error"}
    assert f"airank_inference.{rule}" in errors, [str(finding) for finding in found][:5]


@pytest.mark.parametrize(
    ("what", "name", "rule", "mutate"),
    [
        ("no memory", BATCH, "max_memory_use", replaced(r", max_memory_use:[\d.]+M", "", 10_000)),
        ("an end before its begin", LATENCY, "latency_case", moved("latency_case40_begin", 100)),
        ("p90 of another case", LATENCY, "percentile", replaced(r"percentile_latency:\d+", "percentile_latency:12")),
    ],
)
def test_changes_of_the_older_profile(tmp_path, logs, what, name, rule, mutate):
    found = findings(tmp_path / name, mutate(list(logs[OLD][name])), profile=OLD, target=0.7572)
    errors = {finding.rule for finding in found if finding.severity == "error"}
    assert f"airank_inference.{rule}" in errors, [str(finding) for finding in found][:5]


def test_a_rate_with_the_warm_up_in_its_time_is_a_note(tmp_path, logs):
    lines = logs["2021-05"][OFFLINE]
    times = {line.split()[2].partition(":")[0]: float(line.split()[1]) for line in lines}
    rate = 1000 / (times["test_end"] - times["test_begin"])
    changed = replaced(r"avg_ips:[\d.]+", f"avg_ips:{rate:.3f}")(lines)
    found = findings(tmp_path / OFFLINE, changed, profile="2021-05", target=0.7572)
    assert [(finding.severity, finding.rule) for finding in found] == [("note", "airank_inference.avg_ips")]


def rules(path, text):
    path.write_text(text)
    return {(finding.severity, finding.rule.partition(".")[2]) for finding in verifying.verify(path)}


def test_published_logs_have_their_findings(tmp_path):
    assert rules(tmp_path / "bert", BERT) == {("error", "result"), ("note", "unchecked")}
    found = rules(tmp_path / "mobile", MOBILE)
    assert {("error", "prefix"), ("warning", "line"), ("error", "total_accuracy"), ("error", "latency_case")} <= found
    found = rules(tmp_path / "sample", SAMPLE)
    assert {("warning", "spelling"), ("warning", "time_order")} <= found


def test_the_training_book_does_not_take_them(tmp_path, logs):
    path = tmp_path / "offline.log"
    path.write_text("\n".join(logs["2021-05"][OFFLINE]) + "\n")
    assert {finding.rule.partition(".")[0] for finding in verifying.verify(path)} <= {"airank_inference"}
    path.write_text("AI-Rank-log 1558631910.424 test_begin\nAI-Rank-log 1558631911.424 test_finish\n")
    assert detect(path) == ["airank"]
