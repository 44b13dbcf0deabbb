"""BERT for questions as a user fine-tunes, measures and packages it, on a small directory in SQuAD's form."""

from __future__ import annotations

import json

import pytest
import squad_files
import torch
from commands.forks import kill_and_resume, train_on_two_ranks
from commands.inprocess import run, run_without_torch
from commands.outcomes import events_of, losses, refused
from commands.runs import here
from commands.same_run import assert_same_run

from airank_fast import infer, package, verify
from airank_fast.errors import UserError
from airank_fast.inference.loading import load_job
from airank_fast.inference.samples import CPU
from airank_fast.models import bert
from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return squad_files.write(tmp_path_factory.mktemp("squad"))


def arguments(data, output, *more: str) -> list[str]:
    """A run of a few seconds: 4 epochs of 19 steps, to the end."""
    values = ["--dropout", "0", "--batch-size", "16", "--learning-rate", "1e-3", "--epochs", "4"]
    return ["bert-squad-tiny", *squad_files.options(data), "--output", str(output), *values, *more]


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "out"
    assert here(arguments(data, output, "--checkpoint-steps", "11")) == 0
    return output


def test_a_run_learns_to_answer_and_reports_f1_and_exact_match(uninterrupted):
    found = [event["quality"] for event in events_of(uninterrupted, "eval_stop")]
    assert [set(each) for each in found] == [{"f1", "exact_match"}] * 4
    assert found[-1]["f1"] > 0.9 > 0.7 > found[0]["f1"]
    assert all(each["f1"] >= each["exact_match"] for each in found)
    assert losses(uninterrupted)[-1] < losses(uninterrupted)[0] / 3
    (facts,) = events_of(uninterrupted, "data")
    assert (facts["train_samples"], facts["eval_samples"], facts["reader"]) == (300, 60, "squad")
    assert summarize(read_events(uninterrupted / "events.jsonl"))["benchmark"] == "bert_squad_tiny"


@pytest.mark.parametrize("moment", ["checkpoint", "eval_start"])
def test_killed_and_resumed_is_the_same_run_bit_for_bit(moment, data, uninterrupted, tmp_path):
    output = tmp_path / "out"
    kill_and_resume(arguments(data, output, "--checkpoint-steps", "11"), output, moment)
    assert_same_run(output, uninterrupted)
    assert losses(output) == losses(uninterrupted)


def test_two_ranks_learn_what_one_does(data, tmp_path):
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert here(arguments(data, alone, "--epochs", "1")) == 0
    process = train_on_two_ranks(arguments(data, both, "--epochs", "1"))
    assert process.returncode == 0, process.stderr
    assert losses(both) == pytest.approx(losses(alone), rel=1e-3)
    ours, theirs = (events_of(output, "eval_stop")[-1]["quality"] for output in (both, alone))
    assert ours == pytest.approx(theirs, abs=0.05)


def test_a_pre_trained_network_is_taken_without_its_heads(data, tmp_path, capsys):
    config = {"vocab_size": len(squad_files.vocabulary()), **bert.size("tiny")}
    state = bert.BertForPreTraining(**config).state_dict()
    path = tmp_path / "pre-trained.pt"
    torch.save(state, path)
    assert here(arguments(data, tmp_path / "out", "--epochs", "1", "--init-checkpoint", str(path))) == 0
    (facts,) = events_of(tmp_path / "out", "data")
    assert facts["init_checkpoint"]["file"] == str(path)
    del state["bert.encoder.layer.1.output.dense.bias"]
    torch.save(state, path)
    capsys.readouterr()
    more = ("--init-checkpoint", str(path))
    refused(arguments(data, tmp_path / "b", *more), capsys, "bert.encoder.layer.1.output.dense.bias is missing")


def test_what_lacks_is_said_in_one_line(data, tmp_path, capsys):
    refused(["bert-squad-tiny"], capsys, "--data: must be a directory with train-v1.1.json, dev-v1.1.json and vocab")
    refused(arguments(tmp_path / "none", tmp_path / "a"), capsys, "--data: must be a directory with SQuAD's files")
    what = (
        f"--vocab-size: must be as many as the lines of {data / 'vocab.txt'}, {len(squad_files.vocabulary())}, got 99"
    )
    refused(arguments(data, tmp_path / "b", "--vocab-size", "99"), capsys, what)
    part = squad_files.write(tmp_path / "part")
    (part / "train-v1.1.json").unlink()
    refused(arguments(part, tmp_path / "c"), capsys, "must have train-v1.1.json to train or to calibrate on, got none")
    (part / "dev-v1.1.json").unlink()
    refused(arguments(part, tmp_path / "d"), capsys, f"{part / 'dev-v1.1.json'}: must be a file, got no such file")
    (data / "vocab.txt").rename(tmp_path / "vocab.txt")
    try:
        refused(arguments(data, tmp_path / "e"), capsys, "must be a readable vocab.txt")
    finally:
        (tmp_path / "vocab.txt").rename(data / "vocab.txt")


def test_weights_from_elsewhere_must_be_of_the_whole_network(data, uninterrupted, tmp_path):
    newest = sorted((uninterrupted / "checkpoints").iterdir())[-1] / "model.safetensors"
    copy = tmp_path / "model.safetensors"
    copy.write_bytes(newest.read_bytes())
    line = ["bert-squad-tiny", *squad_files.options(data)]
    job, networks = load_job(line, copy, CPU)
    expected = load_job(["bert-squad-tiny"], uninterrupted, CPU)[1]["model"].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in networks["model"].state_dict().items())
    assert job.benchmark == "bert_squad_tiny"
    config = {"vocab_size": len(squad_files.vocabulary()), **bert.size("tiny")}
    torch.save(bert.BertForPreTraining(**config).state_dict(), tmp_path / "pre-trained.pt")
    with pytest.raises(UserError, match=r"weights of the whole network, got none of qa_outputs\.weight"):
        load_job(line, tmp_path / "pre-trained.pt", CPU)


def test_it_is_measured_and_packaged_as_mlperfs_bert(uninterrupted, tmp_path):
    pytest.importorskip("mlperf_loadgen")
    output, tree = tmp_path / "infer", tmp_path / "tree"
    asked = ("--duration", "1", "--scenario", "offline", "--compliance", "--accuracy-factor", "0.999")
    done = run(infer, "bert-squad-tiny", "--checkpoint", uninterrupted, *asked, "--output", output)
    assert done.returncode in (0, 1), done.stderr  # TEST01 may be slower on a busy machine
    (found,) = events_of(output, "accuracy")
    best = events_of(uninterrupted, "eval_stop")[-1]["quality"]
    assert found["factor"] == 0.999
    assert found["quality"] == pytest.approx(best)
    log = json.loads((output / "loadgen/offline/accuracy/mlperf_log_accuracy.json").read_text())
    assert sorted(entry["qsl_idx"] for entry in log) == list(range(60))
    assert {len(bytes.fromhex(entry["data"])) % 8 for entry in log} == {0}, "two scores of four bytes a token"
    assert not any("answers" in reason for stop in events_of(output, "test_stop") for reason in stop["reasons"])
    facts = {"submitter": "Nobody", "system_name": "machine", "host_processor_frequency": "1", "cooling": "air"}
    facts |= {"host_memory_configuration": "x"}
    named = [text for name, value in facts.items() for text in ("--set", f"{name}={value}")]
    options = ("--rehearsal", "--allow-errors", "--allow-names")
    packaged = run(package, "--format", "mlperf-inference", output, "--output", tree, *named, *options)
    assert packaged.returncode in (0, 1), packaged.stderr
    text = next(tree.rglob("Offline/accuracy/accuracy.txt")).read_text()
    assert f'{{"exact_match": {100 * best["exact_match"]:.6f}, "f1": {100 * best["f1"]:.6f}}}' in text
    mapping = json.loads((tree / "open/Nobody/model_mapping.json").read_text())
    assert mapping == {"bert_squad_tiny": "bert-99.9"}


def test_airanks_log_says_which_windows_are_answered_exactly(uninterrupted, tmp_path):
    output = tmp_path / "infer"
    asked = ("--profile", "airank-2021-05", "--quick", "--scenario", "latency", "--target-latency", "130")
    done = run(infer, "bert-squad-tiny", "--checkpoint", uninterrupted, *asked, "--output", output)
    assert done.returncode == 0, done.stderr
    lines = (output / "accuracy_check.log").read_text().splitlines()
    results = [line.rpartition("result=")[2] for line in lines if "sampleid" in line]
    best = events_of(uninterrupted, "eval_stop")[-1]["quality"]
    assert results.count("true") == round(60 * best["exact_match"])
    assert any(line.endswith(f"total_accuracy:{best['f1']!r}") for line in lines)
    verified = run_without_torch(verify, output)
    assert ": error: " not in verified.stdout, verified.stdout
