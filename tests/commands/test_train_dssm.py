"""DSSM as a user trains it, on a file of pairs and on Python's own library: the tests of ResNet-50, small."""

from __future__ import annotations

import random

import pytest
from commands.forks import kill_and_resume, train_on_two_ranks
from commands.handed_in import assert_handed_in
from commands.outcomes import losses, refused
from commands.runs import here
from commands.same_run import assert_same_run

from airank_fast.record.events import effective, read_events
from airank_fast.record.metrics import summarize

WORDS = ["balance", "card", "loan", "repay", "limit", "transfer", "rate", "account", "open", "close", "password"]
WORDS += ["change", "query", "phone", "bill"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """200 queries of four words; a document with three of these, spelt backwards, matches, one with others does not."""
    rng, lines = random.Random(0), []
    for number in range(200):
        words = rng.sample(WORDS, 4)
        others = rng.sample([word for word in WORDS if word not in words], 3)
        matching, other = (" ".join(word[::-1] for word in each) for each in (words[:3], others))
        lines += [f"{' '.join(words)} {number}\t{text}\t{label}\n" for text, label in ((matching, 1), (other, 0))]
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def arguments(data, output, *more: str) -> list[str]:
    """A run of a second: 4 epochs of 12 steps, to the end, also beyond its target."""
    small = ["--buckets", "2000", "--width", "32", "--batch-size", "16", "--epochs", "4", "--warmup-epochs", "1"]
    small += ["--learning-rate", "0.01"]
    return [
        "dssm",
        "--data",
        str(data),
        "--output",
        str(output),
        *small,
        "--target",
        "1.0",
        "--no-stop-at-target",
        *more,
    ]


def qualities(output) -> list[dict]:
    return [e["quality"] for e in effective(read_events(output / "events.jsonl")) if e["kind"] == "eval_stop"]


@pytest.fixture(scope="module")
def uninterrupted(pairs, tmp_path_factory):
    output = tmp_path_factory.mktemp("dssm") / "out"
    assert here(arguments(pairs, output, "--checkpoint-steps", "5")) in (0, 1)
    return output


def test_a_run_learns_and_reports_its_metrics(uninterrupted):
    found = qualities(uninterrupted)
    assert [set(each) for each in found] == [{"order_rate", "auc"}] * 4
    assert found[-1]["order_rate"] > 0.9
    assert losses(uninterrupted)[-1] < losses(uninterrupted)[0] / 2
    data = next(e for e in read_events(uninterrupted / "events.jsonl") if e["kind"] == "data")
    assert data["train_samples"] + data["eval_samples"] / 2 == 200
    assert summarize(read_events(uninterrupted / "events.jsonl"))["best_accuracy"] == max(
        each["order_rate"] for each in found
    )


@pytest.mark.parametrize("moment", ["checkpoint", "eval_start"])
def test_killed_and_resumed_is_the_same_run_bit_for_bit(moment, pairs, uninterrupted, tmp_path):
    output = tmp_path / "out"
    args = arguments(pairs, output, "--checkpoint-steps", "5")
    kill_and_resume(args, output, moment)
    assert_same_run(output, uninterrupted)
    assert losses(output) == losses(uninterrupted)
    assert qualities(output) == qualities(uninterrupted)


@pytest.mark.parametrize("negatives", ["0", "2"])
def test_two_ranks_learn_what_one_does(negatives, pairs, tmp_path):
    """Without dropout, whose draws are each rank's own; with groups that a rank's half of the batch holds."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    options = ("--dropout", "0", "--negatives", negatives, "--candidates", "8", "--epochs", "2")
    assert here(arguments(pairs, alone, *options)) in (0, 1)
    process = train_on_two_ranks(arguments(pairs, both, *options))
    assert process.returncode in (0, 1), process.stderr
    assert losses(both) == pytest.approx(losses(alone), rel=1e-4)
    for ours, theirs in zip(qualities(both), qualities(alone), strict=True):
        assert ours == pytest.approx(theirs, abs=0.01)


def test_a_finished_run_is_verified_scored_reported_and_packaged(uninterrupted, tmp_path):
    assert_handed_in(uninterrupted, "DSSM", tmp_path)


def test_a_bad_line_is_named_and_the_log_closed(pairs, tmp_path, capsys):
    broken = tmp_path / "broken.tsv"
    broken.write_text(pairs.read_text() + "query\tdocument\t2\n")
    output = tmp_path / "out"
    refused(arguments(broken, output), capsys, f"{broken}, line 401: must be a line with a label of 0 or 1, got '2'")
    assert summarize(read_events(output / "events.jsonl"))["reason"] == "bad_data"
    assert "test_finish" in (output / "airank.log").read_text()


def test_skip_corrupt_counts_and_reports_lines(pairs, tmp_path, capsys):
    broken = tmp_path / "broken.tsv"
    broken.write_bytes("\u4f59\u989d\t1\n".encode("gbk") + pairs.read_bytes() + b"query\n")
    assert here(arguments(broken, tmp_path / "out", "--skip-corrupt", "--epochs", "1")) in (0, 1)
    printed = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert printed[0] == "data: 2 lines are left out"
    assert [line.split(" (")[0] for line in printed[1:]] == [
        f"data: left out {broken}, line {number}" for number in (1, 402)
    ]
    data = next(e for e in read_events(tmp_path / "out" / "events.jsonl") if e["kind"] == "data")
    assert len(data["corrupt_files"]) == 2


def test_files_that_cannot_be_trained_on(pairs, tmp_path, capsys):
    empty, single = tmp_path / "empty.tsv", tmp_path / "single.tsv"
    empty.write_text("")
    single.write_text("q\td\t1\n")
    refused(arguments(empty, tmp_path / "a"), capsys, "empty.tsv: must be a file of lines QUERY TAB", "an empty file")
    refused(
        arguments(tmp_path, tmp_path / "b"), capsys, f"{tmp_path}: must be a file of lines QUERY TAB", "got a directory"
    )
    options = ("--eval-data", str(single))
    refused(arguments(pairs, tmp_path / "c", *options), capsys, "single.tsv: must be with a held-out query that has")
    refused(arguments(pairs, tmp_path / "d", "--batch-size", "1024"), capsys, "batch size: must be at most the")


def test_the_main_job_reaches_its_target(tmp_path, capsys):
    output = tmp_path / "out"
    assert here(["dssm", "--output", str(output)]) == 0
    assert capsys.readouterr().err.count("docstrings and functions of Python's library") == 1
    summary = summarize(read_events(output / "events.jsonl"))
    assert (summary["status"], summary["reason"]) == ("success", "target")
    assert summary["best_accuracy"] >= summary["target"] == 0.971
    assert {name for each in qualities(output) for name in each} == {"order_rate", "auc", "recall_at_10"}
