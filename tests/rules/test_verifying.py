"""From a path to findings: files by content and in any state, run directories against their events, folders."""

import bz2
import gzip
import json
import lzma
import os
import time
import tracemalloc

import pytest
from record.conftest import Story, tell
from rules.samples import (
    FLAGPERF_TABLE,
    GOOD,
    GOOD_FACTS,
    PUBLISHED,
    errors,
    findings,
    short,
    unreadable_folder,
    write_run,
)

from airank_fast import tasks
from airank_fast.errors import UserError
from airank_fast.record.events import to_line
from airank_fast.rules import agreement, verifying
from airank_fast.rules.facts import Facts
from airank_fast.rules.findings import ERROR, Rule

RULE = Rule(name="test.rule", severity=ERROR, source="test")


@pytest.mark.parametrize(
    ("content", "got"),
    [(b"", "got none of them"), (b"hello\n", "got none of them"), (bytes(range(256)) * 9, "got none of them")],
)
def test_a_file_without_a_recognised_format(tmp_path, content, got):
    with pytest.raises(UserError, match=got):
        findings(tmp_path / "log", content)


def test_a_path_that_is_not_there_and_a_folder_without_logs(tmp_path):
    with pytest.raises(UserError, match="got no such"):
        findings(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("hello\n")
    with pytest.raises(UserError, match="got none in it"):
        findings(tmp_path)
    with pytest.raises(UserError, match="must be a file or a directory, got neither"):
        list(verifying.verify("/dev/null"))


STATES = [
    (GOOD.replace("\n", "\r\n").encode(), [("note", "file.crlf", 1)]),
    (b"\xef\xbb\xbf" + GOOD.encode(), [("note", "file.bom", 1)]),
    (GOOD.encode("utf-16"), [("warning", "file.utf16", 1)]),
    (GOOD.replace("\n", "\r\n").encode("utf-16"), [("note", "file.crlf", 1), ("warning", "file.utf16", 1)]),
    (b"loss \xff\n" + GOOD.encode(), [("warning", "file.not_utf8", 1)]),
    (GOOD.encode() + b"\0" * 5000, [("warning", "file.nul", 11), ("note", "file.cut_off", 11)]),
    (GOOD.encode()[:-1], [("note", "file.cut_off", 10)]),
    (GOOD.encode() + b"x" * 3_000_000 + b"\n", [("note", "file.long", 11)]),
]


@pytest.mark.parametrize(("content", "expected"), STATES, ids=range(len(STATES)))
def test_oddities_of_a_file_are_reported_and_it_is_read(tmp_path, content, expected):
    assert sorted(short(findings(tmp_path / "log", content, **GOOD_FACTS))) == sorted(expected)


def test_a_log_cut_off_anywhere_has_errors_and_no_traceback(tmp_path):
    for size in range(60, len(GOOD) - 30, 7):
        assert errors(findings(tmp_path / "log", GOOD[:size], **GOOD_FACTS)), size


def test_several_formats_in_one_file_are_each_checked(tmp_path):
    found = findings(tmp_path / "README.md", PUBLISHED + "\n" + FLAGPERF_TABLE)
    rules = [finding.rule for finding in found]
    assert {"airank.target_quality_time", "flagperf.e2e_time"} <= set(rules)
    lines = [finding.line for finding in found if finding.line is not None]
    assert lines == sorted(lines)


def test_many_findings_of_a_rule_are_counted(tmp_path):
    content = "".join(f"AI-Rank-log {n} nonsense\n" for n in range(1_600_000_000, 1_600_001_000))
    found = findings(tmp_path / "log", content.replace("nonsense", "eval_accuracy:2, total_epoch_cnt:1", 1))
    broken = [finding for finding in found if finding.rule == "airank.line"]
    assert len(broken) == verifying.MAX_OF_A_RULE + 1
    assert broken[-1].found.startswith("979 more of this rule, the last: ")
    assert broken[-1].line == 1000


def test_memory_does_not_grow_with_the_findings(tmp_path):
    path = tmp_path / "log"
    with open(path, "w") as file:
        file.write(GOOD)
        for n in range(30_000):
            file.write(f"[rank{n}]: AI-Rank-log {n} nonsense\nAI-Rank-log 1.5 eval_accuracy:2, total_epoch_cnt:{n}\n")
    tracemalloc.start()
    num_findings = len(findings(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num_findings < 10 * verifying.MAX_OF_A_RULE
    assert peak < 12e6


def test_findings_come_in_the_order_of_lines_and_those_of_the_file_last():
    unsorted = [RULE.broken("log", line, "found", "required") for line in (7, None, 2, 5, 2)]
    assert [finding.line for finding in verifying.in_order(iter(unsorted))] == [2, 2, 5, 7, None]


@pytest.mark.parametrize(
    "line",
    [
        " " * 1_000_000 + "x AI-Rank-log 1.5 test_begin",
        "- " * 500_000 + "AI-Rank-log 1.5 test_begin",
        "0" * 1_000_000 + ": AI-Rank-log 1.5 test_begin",
        "AI-Rank-log 1.5 eval_accuracy:0.5" + " " * 1_000_000 + "x",
        "AI-Rank-log " + "1" * 1_000_000,
        "AI-Rank-log 1.5 avg_ips:" + "1" * 1_000_000,
        "AI-Rank-log 1.5 avg_ips:1images/sec " * 30_000,
        "|" + " " * 1_000_000 + "p_whole | p_train | p_core |",
        "| p_whole | p_train | p_core |\n|" + " 9" * 400_000,
        '{"t":1,"kind":"x","value":' + "9" * 1_000_000 + "}",
        '{"p_whole":' + "9" * 1_000_000 + "}",
    ],
    ids=range(11),
)
def test_a_line_of_a_mebibyte_is_read_in_linear_time(tmp_path, line):
    begin = time.process_time()
    for name in verifying.BOOKS:
        (tmp_path / "log").write_text(line + "\n")
        list(verifying.check_file(tmp_path / "log", [name], Facts()))
    assert time.process_time() - begin < 30  # a tenth of a second here; hours where it is quadratic


# run directories


@pytest.mark.parametrize("ending", ["target", "epochs", "exception", "sigterm", "rank_lost", "cut_off"])
def test_a_run_directory_as_it_was_written(tmp_path, ending):
    directory = write_run(tmp_path / "run", tell(ending, world_size=2).events)
    expected = {"events.missing"} if ending == "cut_off" else set()
    found = findings(directory)
    assert {rule for rule, _ in errors(found)} - {
        rule for rule in _rules(found) if rule.startswith("mlperf")
    } == expected
    assert "run.agreement" not in _rules(found)


def test_the_directory_of_a_resumed_run(tmp_path):
    run = Story().begin().block(1).evaluate(1, 0.3)
    at = run.step
    run.block(2, until=run.step + 3).stop("aborted", "sigterm")
    directory = write_run(tmp_path / "run", run.resume(at).block(2).evaluate(2, 0.77).stop().events)
    found = [finding for finding in findings(directory) if not finding.rule.startswith("mlperf")]
    assert [finding.rule for finding in found if finding.severity != "note"] == ["events.resumed"]


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("airank.log", "0.7612", "0.7712"),
        ("airank.log", "total_epoch_cnt:1\n", "total_epoch_cnt:2\n"),
        ("airank.log", "test_finish", "test_begin"),
        ("mlperf.log", '"value": 0.7612', '"value": 0.7712'),
        ("mlperf.log", '"status": "success"', '"status": "aborted"'),
        ("flagperf.json", '"precision": "amp"', '"precision": "fp32"'),
        ("flagperf.json", '"p_core": ', '"p_core": 1'),
        ("flagperf.md", "| amp |", "| fp16 |"),
        ("summary.json", '"status": "success"', '"status": "done"'),
        ("summary.json", '"time2train": ', '"time2train": 1'),
    ],
)
def test_a_file_that_differs_from_the_events(tmp_path, name, old, new):
    directory = write_run(tmp_path / "run")
    path = directory / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    line = text[: text.index(old)].count("\n") + 1
    found = [finding for finding in findings(directory) if finding.rule == "run.agreement"]
    assert [(finding.path, finding.line) for finding in found] == [(str(path), line)]
    assert found[0].severity == "error"


def test_lines_that_are_missing_or_too_many(tmp_path):
    directory = write_run(tmp_path / "run")
    path = directory / "mlperf.log"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]))
    found = [finding for finding in findings(directory) if finding.rule == "run.agreement"]
    assert [(finding.line, finding.found) for finding in found] == [(None, "nothing"), (None, "nothing")]
    path.write_text("".join([*lines, lines[-1]]))
    found = [finding for finding in findings(directory) if finding.rule == "run.agreement"]
    assert [finding.line for finding in found] == [len(lines) + 1]
    assert "nothing is required by the events" in found[0].required


def test_where_our_source_wrote_a_line_of_the_mlperf_log_does_not_matter(tmp_path):
    directory = write_run(tmp_path / "run")
    path = directory / "mlperf.log"
    path.write_text(path.read_text().replace('"lineno": ', '"lineno": 9'))
    assert "run.agreement" not in _rules(findings(directory))


def test_broken_events_are_not_compared_with(tmp_path):
    directory = write_run(tmp_path / "run")
    path = directory / "events.jsonl"
    path.write_text(path.read_text().replace('"step":', '"pets":', 1))
    found = findings(directory)
    assert "events.field" in _rules(found)
    assert "run.not_compared" in _rules(found)
    assert "run.agreement" not in _rules(found)


def test_the_logs_are_checked_with_the_facts_of_the_events(tmp_path):
    facts = agreement.RunEvents(write_run(tmp_path / "run", target=0.77) / "events.jsonl").facts(
        Facts(task=tasks.find("bert"))
    )
    assert (facts.target, facts.target_source, facts.task.name) == (0.77, "events.jsonl", "bert")
    assert facts.samples_per_epoch == 1000
    assert facts.epochs == pytest.approx(79 * 64 / 1000)
    found = findings(tmp_path / "run")
    targets = [finding for finding in found if finding.rule == "airank.target"]
    assert [finding.required for finding in targets] == ["0.759 is required of resnet50"]


# folders


def test_a_folder_of_runs_and_logs(tmp_path):
    write_run(tmp_path / "runs" / "a")
    write_run(tmp_path / "runs" / "b")
    (tmp_path / "runs" / "GPUx1.log").write_text(PUBLISHED)
    (tmp_path / "runs" / "code").mkdir()
    (tmp_path / "runs" / "code" / "logger.py").write_text(PUBLISHED)
    (tmp_path / "runs" / ".git").mkdir()
    (tmp_path / "runs" / ".git" / "log").write_text(PUBLISHED)
    (tmp_path / "runs" / "notes.txt").write_text("hello\n")
    (tmp_path / "runs" / "again").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "a" / "airank.log").write_text(PUBLISHED)
    found = findings(tmp_path)
    places = {finding.path.removeprefix(str(tmp_path)) for finding in found}
    logs = {"/runs/GPUx1.log", "/runs/a/airank.log", "/runs/b/airank.log"}
    assert {place for place in places if "mlperf" not in place} == logs
    assert "run.agreement" in _rules(found)


@pytest.mark.parametrize("suffix", [".7z", ".rar", ".tgz", ".zst"])
def test_a_compressed_log_in_a_folder_is_named(tmp_path, suffix):
    (tmp_path / f"GPUx8.log{suffix}").write_bytes(b"\x1f\x8b\x08 not read")
    with pytest.raises(UserError, match="got none in it"):  # alone it is not enough
        findings(tmp_path)
    (tmp_path / "GPUx1.log").write_text(GOOD)
    found = findings(tmp_path, **GOOD_FACTS)
    assert short(found) == [("warning", "file.compressed", None)]
    assert found[0].path == str(tmp_path / f"GPUx8.log{suffix}")


@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_a_packed_log_is_judged_as_its_text(tmp_path, suffix, pack):
    bad = GOOD.replace("test_finish", "test_begin")
    (tmp_path / "text").write_text(bad)
    (tmp_path / f"log{suffix}").write_bytes(pack(bad.encode()))
    text, packed = (findings(path, **GOOD_FACTS) for path in (tmp_path / "text", tmp_path / f"log{suffix}"))
    assert short(packed) == short(text) != []
    damaged = tmp_path / f"log{suffix}"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert [each.path for each in findings(tmp_path) if each.rule == "file.readable"] == [str(damaged)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_without_permission_is_an_error(tmp_path):
    (tmp_path / "GPUx1.log").write_text(GOOD)
    closed = tmp_path / "closed"
    for mode in (0o000, 0o100, 0o400):
        closed.mkdir(mode)
        found = findings(tmp_path, **GOOD_FACTS)
        closed.rmdir()
        assert [(each.path, each.rule, each.severity) for each in found] == [(str(closed), "file.readable", "error")]
        assert "Permission denied" in found[0].found


def test_an_unreadable_folder_is_one_error_and_the_rest_is_checked(tmp_path):
    log = tmp_path / "z.log"
    log.write_text(GOOD.replace("test_finish", "the_end"))
    with unreadable_folder(tmp_path) as folder:
        found = [each for each in findings(tmp_path, **GOOD_FACTS) if each.severity == "error"]
        assert [(each.path, each.rule) for each in found if each.rule == "file.readable"] == [
            (str(folder), "file.readable")
        ]
        assert found[0].found == "the folder cannot be read: File name too long"
        assert found[1:] == [each for each in findings(log, **GOOD_FACTS) if each.severity == "error"] != []
        log.unlink()
        with pytest.raises(UserError, match="got none in it"):  # without any log there is nothing to check
            findings(tmp_path)


def test_a_submission_with_an_unreadable_folder_is_checked_in_all_other_parts(tmp_path):
    system = tmp_path / "V100"
    (system / "ResNet50" / "log").mkdir(parents=True)
    (system / "ResNet50" / "code").mkdir()
    (system / "system information").write_text("V100\n")
    (system / "ResNet50" / "log" / "GPUx1.log").write_text(PUBLISHED)
    (system / "SHA256SUMS").write_text("")
    without = findings(system)
    with unreadable_folder(system / "ResNet50" / "code") as folder:
        found = findings(system)
    new = [each for each in found if each not in without]
    assert [(each.path, each.rule, each.severity) for each in new] == [(str(folder), "tree.readable", "error")]
    # The folder's ancestors fill code/, which was empty.
    assert {each.rule for each in without if each not in found} == {"tree.airank.model"}


def test_a_log_without_a_book_is_named(tmp_path):
    (tmp_path / "dll.json").write_text('DLLL {"timestamp": "1", "type": "LOG", "step": [], "data": {}}\n')
    with pytest.raises(UserError, match="got dllogger, which"):
        findings(tmp_path / "dll.json")
    with pytest.raises(UserError, match="got none in it"):
        findings(tmp_path)
    (tmp_path / "GPUx1.log").write_text(GOOD)
    assert short(findings(tmp_path, **GOOD_FACTS)) == [("note", "file.no_book", None)]


def test_a_submission_is_judged_by_its_layout_and_its_logs_alone(tmp_path):
    system = tmp_path / "runs" / "V100"
    (system / "ResNet50" / "log").mkdir(parents=True)
    (system / "ResNet50" / "code").mkdir()
    (system / "system information").write_text("V100\n")
    (system / "ResNet50" / "log" / "GPUx1.log").write_text(PUBLISHED)
    (system / "ResNet50" / "code" / "README.md").write_text("- AI-Rank-log 1 quoted\n")
    for path in (tmp_path, system):
        found = findings(path)
        assert {"tree.airank.parts", "airank.target_quality_time"} <= _rules(found)
        assert not any(finding.path.endswith("README.md") for finding in found)
        assert len(found) == len(set(found))


def test_findings_as_json_hold_every_field(tmp_path):
    (tmp_path / "log").write_text(PUBLISHED)
    finding = findings(tmp_path / "log")[1].to_json()
    assert json.loads(json.dumps(finding)) == finding
    assert set(finding) == {"severity", "path", "line", "rule", "source", "found", "required"}


def test_an_event_log_in_utf16_is_read_too(tmp_path):
    text = "".join(to_line(event) + "\n" for event in tell("target").events)
    assert errors(findings(tmp_path / "events.jsonl", text.encode("utf-16"))) == []


def _rules(found):
    return {finding.rule for finding in found}
