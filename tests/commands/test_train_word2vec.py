"""Word2Vec as a user trains it, on a directory of text and on WordNet's glosses: the tests of ResNet-50, small."""

from __future__ import annotations

import sys
from unittest import mock

import numpy as np
import pytest
from commands.forks import kill_and_resume, train_on_two_ranks
from commands.handed_in import assert_handed_in
from commands.inprocess import run_without_torch
from commands.outcomes import refused
from commands.runs import here
from commands.same_run import assert_same_run, losses

from airank_fast import prepare, score, verify
from airank_fast.data.text import word_vectors
from airank_fast.record.events import effective, read_events
from airank_fast.record.metrics import summarize

TOPICS = 12


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """600 sentences in two files: a topic's word in one of two tenses, among words of the topic and of the tense."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("text")
    lines = []
    for _ in range(600):
        topic, tense = rng.integers(TOPICS), rng.integers(2)
        around = [f"about{topic}x{n}" for n in rng.integers(3, size=3)] + [f"tense{tense}x{n}" for n in range(3)]
        lines.append(" ".join(rng.permutation([f"word{topic}" + "ed" * tense, *around])))
    (folder / "part-1").write_text("\n".join(lines[:300]) + "\n")
    (folder / "part-2").write_text("\n".join(lines[300:]))
    pairs = [(a, b) for a in range(TOPICS) for b in range(TOPICS) if a != b]
    asked = [f"word{a} word{a}ed word{b} word{b}ed" for a, b in pairs]
    (folder.parent / "questions").write_text("\n".join([": family", *asked[:60], ": others", *asked[60:], "a b c d"]))
    return folder


def arguments(data, output, *more: str) -> list[str]:
    """A run of a second: 3 epochs of 30 steps, to the end."""
    small = ["--dim", "16", "--batch-size", "20", "--epochs", "3", "--vocab-size", "70", "--min-count", "2"]
    small += [
        "--learning-rate",
        "0.1",
        "--threads",
        "1",
        "--sample",
        "0",
        "--questions",
        str(data.parent / "questions"),
    ]
    out = ["--output", str(output), "--target", "1.0", "--no-stop-at-target"]
    return ["word2vec", "--data", str(data), *small, *out, *more]


def evaluations(output) -> list[dict]:
    return [e for e in effective(read_events(output / "events.jsonl")) if e["kind"] == "eval_stop"]


@pytest.fixture(scope="module")
def uninterrupted(text, tmp_path_factory):
    output = tmp_path_factory.mktemp("word2vec") / "out"
    vectors = ("--vectors", str(output.parent / "vectors.txt"))
    assert here(arguments(text, output, "--checkpoint-steps", "10", *vectors)) in (0, 1)
    return output


def test_a_run_learns_and_reports_its_metrics(uninterrupted):
    found = evaluations(uninterrupted)
    assert [(e["epoch"], e["step"]) for e in found] == [(1, 30), (2, 60), (3, 90)]
    for each in found:
        metrics = {"analogy_accuracy", "usual_accuracy", "family_accuracy"}
        assert set(each["quality"]) == metrics | {"usual_accuracy/family", "usual_accuracy/others"}
        assert each["accuracy"] == each["quality"]["analogy_accuracy"] == each["correct"] / 133
    assert found[-1]["quality"]["usual_accuracy"] > 0.9
    assert losses(uninterrupted)[-1] < 0.8 * losses(uninterrupted)[0]
    events = read_events(uninterrupted / "events.jsonl")
    (data,) = [e for e in events if e["kind"] == "data"]
    assert (data["train_samples"], data["eval_samples"], data["classes"]) == (600, 133, 66)
    summary = summarize(events)
    assert summary["unit"] == "words"
    assert summary["p_core"] * summary["core_s"] == pytest.approx(3 * 4200, rel=0.01)
    words, vectors = word_vectors.read(uninterrupted.parent / "vectors.txt")
    assert (words[0].startswith("tense"), vectors.shape) == (True, (66, 16))


@pytest.mark.parametrize("moment", ["checkpoint", "eval_start"])
def test_killed_and_resumed_is_the_same_run_bit_for_bit(moment, text, uninterrupted, tmp_path):
    output = tmp_path / "out"
    args = arguments(text, output, "--checkpoint-steps", "10")
    kill_and_resume(args, output, moment)
    assert_same_run(output, uninterrupted)
    assert [e["quality"] for e in evaluations(output)] == [e["quality"] for e in evaluations(uninterrupted)]


def test_two_ranks_learn_what_two_threads_do(text, tmp_path):
    """Each half of a batch is trained from the same weights, and the changes of both are added."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert here(arguments(text, alone, "--epochs", "1", "--threads", "2")) in (0, 1)
    process = train_on_two_ranks(arguments(text, both, "--epochs", "1"))
    assert process.returncode in (0, 1), process.stderr
    (block,) = [e for e in read_events(both / "events.jsonl") if e["kind"] == "block_stop"]
    assert block["loss"][0] == pytest.approx(losses(alone)[0], rel=1e-2)
    assert block["loss"][-1] == pytest.approx(losses(alone)[-1], rel=0.1)  # of other negatives
    assert block["units"] == [2100, 2100]
    assert evaluations(both)[0]["counted"] == 133


def test_a_finished_run_is_verified_scored_reported_and_packaged(uninterrupted, tmp_path):
    assert_handed_in(uninterrupted, "Word2Vec", tmp_path)


def test_prepared_text_trains_as_the_text_itself(text, uninterrupted, tmp_path):
    root, options = tmp_path / "prepared", ("--min-count", "2", "--vocab-size", "70")
    with mock.patch.object(sys, "argv", ["prepare", "word2vec", "--input", str(text), "--output", str(root), *options]):
        assert prepare.main() == 0
    (tmp_path / "questions").write_bytes((text.parent / "questions").read_bytes())
    assert here(arguments(root, tmp_path / "out")) in (0, 1)
    assert losses(tmp_path / "out") == losses(uninterrupted)


def test_a_bad_line_is_named_and_the_log_closed_or_it_is_counted(text, tmp_path, capsys):
    broken, output = tmp_path / "broken", tmp_path / "out"
    broken.mkdir()
    (broken / "text").write_bytes((text / "part-1").read_bytes() + "怎么\n".encode("gbk"))
    questions = ("--questions", str(text.parent / "questions"))
    refused(arguments(broken, output, *questions), capsys, f"{broken}/text, line 301: must be UTF-8, got byte 0xD4")
    assert summarize(read_events(output / "events.jsonl"))["reason"] == "bad_data"
    assert "test_finish" in (output / "airank.log").read_text()
    options = (*questions, "--skip-corrupt", "--epochs", "1")
    assert here(arguments(broken, tmp_path / "again", *options)) in (0, 1)
    printed = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert printed == [
        "data: 1 lines are left out",
        f"data: left out {broken}/text, line 301 (must be UTF-8, got byte 0xD4)",
    ]


def test_files_that_cannot_be_trained_on(text, tmp_path, capsys):
    empty, single, unknown = (tmp_path / name for name in ("empty", "single", "unknown"))
    empty.write_text("")
    single.write_text("word word word")
    unknown.write_text(": family\nAthens Greece Oslo Norway\n")
    questions = ("--questions", str(text.parent / "questions"))
    refused(arguments(empty, tmp_path / "a", *questions), capsys, f"{empty}: must be text with at least 2 words")
    refused(arguments(single, tmp_path / "b", *questions), capsys, f"{single}: must be text with at least 2 words")
    refused(
        arguments(text, tmp_path / "c", "--questions", str(unknown)),
        capsys,
        f"{unknown}: must be with a question whose words are all in the vocabulary, got none of 1",
    )
    refused(arguments(text, tmp_path / "d", "--questions", str(empty)), capsys, f"{empty}: must be a file of analogy")
    refused(arguments(text, tmp_path / "e", "--batch-size", "1024"), capsys, "batch size: must be at most the 600")


def test_the_main_job_reaches_its_target(tmp_path, capsys):
    output = tmp_path / "out"
    assert here(["word2vec", "--output", str(output)]) == 0
    assert capsys.readouterr().err.count("glosses of WordNet 3.0") == 1
    summary = summarize(read_events(output / "events.jsonl"))
    assert (summary["status"], summary["reason"]) == ("success", "target")
    (*_, last) = evaluations(output)
    assert last["quality"]["family_accuracy"] >= 0.45
    assert last["quality"]["usual_accuracy"] >= 0.07
    assert last["quality"]["analogy_accuracy"] < 0.07  # most questions have unknown words, which count here
    assert last["counted"] == 19_544
    assert "target_quality_time" in (output / "airank.log").read_text()
    verified = run_without_torch(verify, output)
    assert (verified.returncode, "0 errors" in verified.stdout + verified.stderr) == (0, True), verified.stdout
    scored = run_without_torch(score, output)
    assert "task coverage: 0/14" in scored.stdout  # which it counts on One Billion Word alone
