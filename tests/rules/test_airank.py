"""The AI-Rank rule book: the published sample's contradictions, line by line; and every rule, broken once."""

import re

import pytest
from rules.samples import GOOD, GOOD_FACTS, PUBLISHED, errors, findings, short

from airank_fast import tasks
from airank_fast.rules.facts import Facts

OPEN = [("note", "airank.load_data", None), ("note", "airank.target", None)]  # checks that need an option


def test_the_contradictions_of_the_published_sample_are_no_errors(tmp_path):
    found = findings(tmp_path / "log", PUBLISHED)
    assert short(found) == [
        ("note", "airank.prefix", 1),
        ("warning", "airank.target_quality_time", 7),
        ("warning", "airank.time_order", 13),
        ("warning", "airank.time_order", 14),
        ("note", "airank.avg_ips", 14),
        *OPEN,
    ]
    texts = {(finding.rule, finding.line): f"{finding.found}; {finding.required}" for finding in found}
    assert "'- AI-Rank-log'" in texts["airank.prefix", 1]
    assert "its text has 'AI-Rank-log'" in texts["airank.prefix", 1]
    assert re.match(
        r"target_quality_time 8\.03 s, which is this line's own timestamp minus test_begin's; 6\.000 s is required: .*"
        r"\(line 6\)",
        texts["airank.target_quality_time", 7],
    )
    assert "1558631918.454 after 1558631922.454" in texts["airank.time_order", 13]
    assert "1558631918.455 after 1558631922.454" in texts["airank.time_order", 14]
    assert "1190 over 18 epochs in 12.030 s, which implies 795.3 samples an epoch" in texts["airank.avg_ips", 14]
    assert "--samples-per-epoch" in texts["airank.avg_ips", 14]


def test_the_sample_checked_as_resnet50_on_imagenet(tmp_path):
    found = findings(tmp_path / "log", PUBLISHED, model="resnet50", profile="2020-12")
    assert short(found) == [
        ("note", "airank.prefix", 1),
        ("warning", "airank.target_quality_time", 7),
        ("warning", "airank.time_order", 13),
        ("warning", "airank.time_order", 14),
        ("warning", "airank.avg_ips", 14),
    ]
    assert "first reached 0.759 (line 6)" in found[1].required
    assert "18 epochs of 1281167 samples in 12.030 s" in found[4].required


def test_the_sample_checked_with_every_fact(tmp_path):
    facts = {"model": "resnet50", "warmup_epochs": 0}
    assert errors(findings(tmp_path / "log", PUBLISHED, **facts, samples_per_epoch=795)) == []
    assert errors(findings(tmp_path / "log", PUBLISHED, **facts, samples_per_epoch=1281167)) == [("airank.avg_ips", 14)]


def test_a_log_without_a_fault(tmp_path):
    assert findings(tmp_path / "log", GOOD, **GOOD_FACTS) == []
    assert short(findings(tmp_path / "log", GOOD)) == [("note", "airank.avg_ips", 10), *OPEN]


# (what is replaced, by what, the rule that is broken, its severity, its line)
MUTATIONS = [
    ("test_begin", "test_start", "line", "error", 1),
    ("AI-Rank-log 1558631912.424 eval", "AI-Rank-log eval", "line", "error", 2),
    ("eval_accuracy:0.1675,", "eval_accuracy:high,", "line", "error", 2),
    ("AI-Rank-log 1558631910.424 test_begin\n", "", "missing", "error", None),
    ("AI-Rank-log 1558631910.424 test_begin\n", "", "order", "error", 1),
    ("AI-Rank-log 1558631920.424 test_finish\n", "", "missing", "error", None),
    ("AI-Rank-log 1558631920.424 total_use_time:10.000sec\n", "", "missing", "error", None),
    ("AI-Rank-log 1558631920.424 avg_ips:1000.000images/sec\n", "", "missing", "error", None),
    ("AI-Rank-log 1558631916.424 target_quality_time:6.000sec\n", "", "missing", "error", 4),
    ("0.1675", "nan", "accuracy", "error", 2),
    ("0.1675", "-0.1", "accuracy", "error", 2),
    ("0.1675", "16.75", "accuracy", "error", 2),
    ("0.1675", "16.75%", "accuracy", "error", 2),
    ("cnt:2\n", "cnt:0\n", "epochs", "error", 2),
    ("cnt:4\n", "cnt:2\n", "epochs", "error", 3),
    ("cnt:4\n", "cnt:1\n", "epochs", "error", 3),
    ("cnt:4\n", "cnt:-4\n", "epochs", "error", 3),
    ("cnt:6\n", "cnt:5\n", "cadence", "warning", 4),
    ("target_quality_time:6.000", "target_quality_time:4.000", "target_quality_time", "error", 5),
    ("target_quality_time:6.000", "target_quality_time:nan", "target_quality_time", "error", 5),
    ("0.7605, total_epoch_cnt:6", "0.7405, total_epoch_cnt:6", "target_quality_time", "error", 5),
    ("6.424 target_quality_time:6", "7.424 target_quality_time:7", "target_quality_time", "warning", 5),
    ("total_use_time:10.000", "total_use_time:9.990", "total_use_time", "error", 9),
    ("total_use_time:10.000", "total_use_time:inf", "total_use_time", "error", 9),
    ("avg_ips:1000.000", "avg_ips:1020.000", "avg_ips", "error", 10),
    ("avg_ips:1000.000", "avg_ips:0", "avg_ips", "error", 10),
    ("6.000sec", "6.000", "unit", "warning", 5),
    ("10.000sec", "10.000min", "unit", "error", 9),
    ("images/sec", "", "unit", "warning", 10),
    ("images/sec", "images/min", "unit", "error", 10),
    ("images/sec", "tokens/sec", "unit", "note", 10),
    ("1558631914.424 eval", "1558631911.424 eval", "time_order", "warning", 3),
    ("1558631910.424 test_begin", "1558631910424 test_begin", "timestamp", "warning", 1),
    ("1558631910.424 test_begin", "1558631910 test_begin", "timestamp", "note", 1),
    ("1558631910.424 test_begin", "10.424 test_begin", "timestamp", "warning", 1),
    ("AI-Rank-log 1558631912", "- AI-Rank-log 1558631912", "prefix", "warning", 2),
    ("eval_accuracy:0.1675,", "eval_accuracy：0.1675，", "full_width", "warning", 2),
    ("AI-Rank-log 1558631912", "INFO AI-Rank-log 1558631912", "interleaved", "warning", 2),
    ("cnt:2\n", "cnt:2 loss=3.1\n", "interleaved", "warning", 2),
    ("test_begin\n", "test_beginAI-Rank-log 1558631910.425 test_begin\n", "order", "error", 1),
    ("test_begin\n", "test_begin\nAI-Rank-log 1558631910.424 test_begin\n", "order", "error", 2),
    ("test_begin\n", "test_begin\nAI-Rank-log 1558631910.424 load_data, checksum:c0ffee\n", "order", "error", 2),
    (
        "AI-Rank-log 1558631920.424 eval",
        "AI-Rank-log 1558631920.424 test_finish\nAI-Rank-log 1558631920.424 eval",
        "order",
        "error",
        8,
    ),
    ("images/sec\n", "images/sec\nAI-Rank-log 1558631920.424 test_finish\n", "order", "error", 11),
]


@pytest.mark.parametrize(("old", "new", "rule", "severity", "line"), MUTATIONS)
def test_a_broken_rule_is_found_at_its_line(tmp_path, old, new, rule, severity, line):
    assert old in GOOD
    found = findings(tmp_path / "log", GOOD.replace(old, new, 1), **GOOD_FACTS)
    assert (severity, f"airank.{rule}", line) in short(found)
    assert all(finding.source for finding in found)


def test_each_line_is_required_in_its_place(tmp_path):
    lines = GOOD.splitlines(keepends=True)
    for index in (0, 4, 7, 8, 9):  # the others are evaluations, of which there may be any number
        assert errors(findings(tmp_path / "log", "".join(lines[:index] + lines[index + 1 :]), **GOOD_FACTS)), index
    for index in range(len(lines) - 1):
        swapped = [*lines[:index], lines[index + 1], lines[index], *lines[index + 2 :]]
        found = findings(tmp_path / "log", "".join(swapped), **GOOD_FACTS)
        assert any(finding.severity in ("error", "warning") for finding in found), index


def test_the_last_evaluation_may_come_early(tmp_path):
    text = GOOD.replace("cnt:10\n", "cnt:9\n").replace("1000.000images", "900.000images")
    assert findings(tmp_path / "log", text, **GOOD_FACTS) == []


def test_without_a_target_the_lines_still_have_to_fit(tmp_path):
    facts = GOOD_FACTS | {"model": None}
    assert errors(findings(tmp_path / "log", GOOD, **facts)) == []
    late = GOOD.replace("0.4756", "0.8756")  # so the evaluation after it cannot be the first at any target
    assert errors(findings(tmp_path / "log", late, **facts)) == [("airank.target_quality_time", 5)]


def test_the_target_option_replaces_the_models_target(tmp_path):
    found = findings(tmp_path / "log", GOOD, **GOOD_FACTS, target=0.78)
    assert errors(found) == [("airank.target_quality_time", 5)]
    assert [finding.found for finding in found if finding.rule == "airank.target"] == [
        "no evaluation reached 0.78, the best is 0.7705",
        "a target of 0.78 (--target)",
    ]


def test_warm_up_epochs_are_left_out(tmp_path):
    """4 warm-up epochs end between 912.424 and 914.424: 6 epochs of 1000 in 6 to 8 s."""
    facts = GOOD_FACTS | {"warmup_epochs": 4}
    for rate, right in ((740, False), (750, True), (1000, True), (1015, False)):
        found = errors(findings(tmp_path / "log", GOOD.replace("1000.000images", f"{rate}images"), **facts))
        assert (found == []) == right, rate
    assert errors(findings(tmp_path / "log", GOOD, **GOOD_FACTS | {"warmup_epochs": 10})) == [("airank.avg_ips", 10)]


def test_tasks_counted_in_samples_may_evaluate_twice_an_epoch(tmp_path):
    text = GOOD.replace("cnt:2\n", "cnt:0\n").replace("cnt:4\n", "cnt:0\n").replace("1000.000images", "1000samples")
    assert "airank.epochs" not in [rule for _, rule, _ in short(findings(tmp_path / "log", text, model="bert"))]
    assert ("airank.epochs", 2) in errors(findings(tmp_path / "log", text, model="resnet50"))
    assert ("warning", "airank.epochs", 2) in short(findings(tmp_path / "log", text))


def test_the_profile_of_2021(tmp_path):
    facts = GOOD_FACTS | {"profile": "2021-05"}
    found = short(findings(tmp_path / "log", GOOD, **facts))
    assert found == [("warning", "airank.cadence", 3), ("error", "airank.load_data", None)]
    loaded = "AI-Rank-log 1558631910.424 load_data, checksum:c0ffee\n" + GOOD
    assert short(findings(tmp_path / "log", loaded, **facts)) == [("warning", "airank.cadence", 4)]
    assert short(findings(tmp_path / "log", loaded, **facts | {"profile": None})) == [("warning", "airank.cadence", 4)]


def test_targets_are_those_of_the_documents():
    for name, accuracy in (("resnet50", 0.759), ("bert", 0.712)):
        assert {Facts(task=tasks.find(name)).goal(profile).accuracy for profile in ("2020-12", "2021-05")} == {accuracy}
    assert Facts(task=tasks.find("tsm")).goal("2020-12") is None
    assert Facts(task=tasks.find("tsm")).goal("2021-05").accuracy == 0.711
    assert Facts(task=tasks.find("tsm"), target=0.7).goal("2021-05") == (0.7, "--target")


@pytest.mark.parametrize(
    ("prefix", "rules"),
    [("0: ", []), ("[rank0]: ", []), ("[1,0]<stdout>:", []), ("[default0]:", []), ("Rank 0: - ", ["airank.prefix"])],
)
def test_a_log_behind_ranks(tmp_path, prefix, rules):
    lines = [f"{prefix}{line}\n" for line in GOOD.splitlines()]
    assert [finding.rule for finding in findings(tmp_path / "log", "".join(lines), **GOOD_FACTS)] == rules


def test_of_several_ranks_the_first_in_the_log_is_read(tmp_path):
    lines = [f"[rank{rank}]: {line}\n" for line in GOOD.splitlines() for rank in (1, 0, 2)]
    found = findings(tmp_path / "log", "".join(lines), **GOOD_FACTS)
    assert short(found) == [("warning", "airank.ranks", 2)]
    assert found[0].found == "lines of rank '0' beside those of rank '1'"


def test_a_log_between_progress_bars_and_prose(tmp_path):
    bar = "".join(f"\r{n}%|###   | {n}/100 [00:01<00:02, 3.1it/s]" for n in range(0, 100, 7))
    lines = [
        "# the `AI-Rank-log` is described elsewhere\n",
        *(f"{bar}\r{line}\nloss 3.1\n" for line in GOOD.splitlines()),
    ]
    assert findings(tmp_path / "log", "".join(lines), **GOOD_FACTS) == []
