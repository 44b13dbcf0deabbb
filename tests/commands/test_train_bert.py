"""BERT as a user trains it, on the text that comes with Python and on shards: the tests of ResNet-50, small."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from commands.forks import train_on_two_ranks
from commands.outcomes import losses
from commands.runs import here, kinds_of
from commands.test_train_digits import checker_passes
from safetensors.torch import save_file

from airank_fast import train as command
from airank_fast.cli import run_command
from airank_fast.data.text import pydoc
from airank_fast.data.text.samples import Samples
from airank_fast.data.text.shards import write_shard
from airank_fast.engine.plan import Plan
from airank_fast.models import bert as network
from airank_fast.recipes import bert, bert_mlperf
from airank_fast.recipes.command_line import parse, resolve
from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize


@pytest.fixture(scope="module", autouse=True)
def text():
    """Made before a command is timed or killed."""
    return pydoc.load()


def arguments(output, *more: str) -> list[str]:
    """A run of a second or two: 8 steps, an evaluation after every 2, out of reach of its target."""
    return [
        "bert-tiny",
        "--output",
        str(output),
        "--sequence-length",
        "32",
        "--batch-size",
        "8",
        "--steps",
        "8",
        "--warmup-steps",
        "2",
        "--eval-every-samples",
        "16",
        "--eval-samples",
        "20",
        "--eval-batch-size",
        "8",
        "--target",
        "0.9",
        "--learning-rate",
        "0.01",
        *more,
    ]


CHECKPOINTS = ("--amp", "--checkpoint-steps", "3")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    output = tmp_path_factory.mktemp("bert") / "out"
    assert here(arguments(output, *CHECKPOINTS)) == 1  # 0.9 is out of reach
    return output


def test_a_run_counts_in_samples(uninterrupted):
    events = read_events(uninterrupted / "events.jsonl")
    evaluations = [e for e in events if e["kind"] == "eval_stop"]
    assert [(e["step"], e["samples"]) for e in evaluations] == [(2, 16), (4, 32), (6, 48), (8, 64)]
    assert {e["counted"] for e in evaluations} == {20 * round(0.15 * 30)}
    lines = (uninterrupted / "airank.log").read_text().splitlines()
    assert lines[-1].endswith("samples/sec")
    keys = [json.loads(line.removeprefix(":::MLLOG ")) for line in (uninterrupted / "mlperf.log").open()]
    assert [k["metadata"]["epoch_num"] for k in keys if k["key"] == "eval_accuracy"] == [16, 32, 48, 64]
    assert [k["metadata"]["samples_count"] for k in keys if k["key"] == "block_start"] == [0, 16, 32, 48]
    values = {k["key"]: k["value"] for k in keys}
    assert values["submission_benchmark"] == "bert"
    assert values["opt_lamb_epsilon"] == values["opt_epsilon"] == 1e-6
    assert values["eval_samples"] == 20


def shards(root, vocab_size: int = 100):
    """Sentence pairs of 8 to 40 tokens, 1 to 6 of them masked, in two training shards and one to evaluate on."""
    rng = np.random.default_rng(0)
    for name, num in (("train/a", 40), ("train/b", 24), ("eval/c", 12)):
        lengths, masked = rng.integers(8, 41, num), rng.integers(1, 7, num)
        ids = rng.integers(5, vocab_size, lengths.sum()).astype(np.int32)
        offsets = [np.concatenate([[0], counts.cumsum()]) for counts in (lengths, masked)]
        positions = np.concatenate([np.arange(1, number + 1) for number in masked]).astype(np.int32)
        made = Samples(
            ids,
            (ids % 2).astype(np.int8),
            offsets[0],
            positions,
            ids[: masked.sum()],
            offsets[1],
            rng.integers(0, 2, num).astype(np.int8),
        )
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        path = root / f"{name}.hdf5"
        write_shard(path, made, form="padded", max_seq_length=128, max_predictions=20, vocab_size=vocab_size)
    return root


def test_two_ranks_train_as_one_with_the_same_global_batch(tmp_path):
    """With different lengths and numbers of masked tokens on the ranks."""
    one, two = tmp_path / "one", tmp_path / "two"
    more = [
        "--data",
        str(shards(tmp_path / "shards")),
        "--vocab-size",
        "100",
        "--sequence-length",
        "64",
        "--dropout",
        "0",
    ]
    assert here(arguments(one, *more)) == 1
    process = train_on_two_ranks(arguments(two, *more))
    assert (two / "summary.json").exists(), process.stderr
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    right = [[e["correct"] for e in read_events(o / "events.jsonl") if e["kind"] == "eval_stop"] for o in (one, two)]
    assert right[0] == pytest.approx(right[1], abs=1)  # two classes may be equally likely


def three_of_four(job, networks, batch) -> torch.Tensor:
    """Logits of the labels, the last quarter of them wrong."""
    guesses = batch.labels.clone()
    guesses[len(guesses) * 3 // 4 :] += 1
    return torch.nn.functional.one_hot(guesses % job.recipe.vocab_size, job.recipe.vocab_size)


MLPERF = {"global_batch_size": 448, "train_samples": 156_725_653, "eval_samples": 10_000}


def test_the_log_passes_the_official_checker(tmp_path):
    """A rehearsal: the sizes of the real data, and an accuracy of 3/4."""
    output = tmp_path / "out"
    own = bert.Job.reported
    with (
        mock.patch.object(bert.Job, "reported", lambda self, plan: own(self, plan) | MLPERF),
        mock.patch.object(bert.Job, "predict", three_of_four),
    ):
        assert here(arguments(output, "--target", "0.72")) == 0
    summary = summarize(read_events(output / "events.jsonl"))
    assert (summary["status"], summary["reason"], summary["steps"]) == ("success", "target", 2)
    assert checker_passes(output / "mlperf.log", tmp_path)


def test_training_goes_on_from_a_checkpoint_of_the_right_accuracy(uninterrupted, tmp_path, capsys):
    final = [e for e in read_events(uninterrupted / "events.jsonl") if e["kind"] == "eval_stop"][-1]["accuracy"]
    checkpoint = max((uninterrupted / "checkpoints").iterdir())
    more = ["--amp", "--init-checkpoint", str(checkpoint), "--check-initial"]
    assert here(arguments(tmp_path / "right", *more, str(final))) == 1
    events = read_events(tmp_path / "right" / "events.jsonl")
    kinds = [e["kind"] for e in events if e["kind"] in ("warning", "data", "run_start")]
    assert kinds == ["warning", "run_start", "data"]
    assert "--check-initial reads the evaluation set before run_start" in capsys.readouterr().err
    assert next(e for e in events if e["kind"] == "steps")["loss"][0] < losses(uninterrupted)[0] - 0.2
    refused(arguments(tmp_path / "wrong", *more, "0.34085"), capsys, "--check-initial", "within 0.01 of 0.34085")
    assert "run_start" not in kinds_of(tmp_path / "wrong")


def refused(args, capsys, *fragments: str) -> None:
    """The command ends with status 2 and one line on stderr that holds every fragment."""
    with mock.patch.object(sys, "argv", ["train", *args]), pytest.raises(SystemExit) as stop:
        run_command(command.main)
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    for fragment in fragments:
        assert fragment in lines[0]


@pytest.mark.parametrize(
    ("more", "fragments"),
    [
        (["--phase", "1"], ["--data: must be a directory of shards with --phase 1, got none"]),
        (["--vocab-size", "30522"], ["--vocab-size: must be 2048 without --data, got 30522"]),
        (["--batch-size", "9", "--gradient-accumulation-steps", "2"], ["--batch-size", "a multiple of", "got 9"]),
        (["--dropout", "1"], ["--dropout: must be in [0, 1), got 1"]),
        (["--data", "nowhere"], ["nowhere", "directory"]),
        (["--init-checkpoint", "nowhere.bin"], ["--init-checkpoint nowhere.bin", "readable file of weights"]),
        (["--precision", "fp16", "--amp"], ["--precision: must be left out, or", "with --amp", "got fp16"]),
    ],
)
def test_bad_input_gets_one_line(more, fragments, tmp_path, capsys):
    refused(arguments(tmp_path / "out", *more), capsys, *fragments)


def test_training_on_shards(tmp_path, capsys):
    root = shards(tmp_path / "shards")
    more = ["--data", str(root), "--vocab-size", "100", "--sequence-length", "64", "--dropout", "0"]
    one, parts = tmp_path / "one", tmp_path / "parts"
    assert here(arguments(one, *more)) == 1
    assert here(arguments(parts, *more, "--gradient-accumulation-steps", "2")) == 1
    events = read_events(one / "events.jsonl")
    data = next(e for e in events if e["kind"] == "data")
    assert (data["train_samples"], data["eval_samples"], data["reader"]) == (64, 12, "wikicorpus")
    assert len({e["counted"] for e in events if e["kind"] == "eval_stop"}) == 1
    # for any number of masked tokens in a micro-batch: the loss is the mean over all of the batch
    assert losses(parts) == pytest.approx(losses(one), rel=1e-5)
    assert here(arguments(tmp_path / "stream", *more, "--gradient-accumulation-steps", "4", "--no-balance-tokens")) == 1
    assert losses(tmp_path / "stream") == pytest.approx(losses(one), rel=1e-5)
    assert losses(one)[0] > math.log(100)  # two losses
    capsys.readouterr()
    refused(arguments(tmp_path / "a", *more, "--vocab-size", "50"), capsys, "input_ids of 0 ... 49", ".hdf5")
    path = root / "train" / "b.hdf5"
    path.write_bytes(path.read_bytes()[:3000])
    refused(arguments(tmp_path / "b", *more), capsys, "whole HDF5 file", "b.hdf5")


def test_weights_of_another_model_are_refused_by_name(tmp_path, capsys):
    model = network.BertForPreTraining(pydoc.VOCAB_SIZE, max_position_embeddings=64, **network.size("tiny"))
    state = model.state_dict()
    path = tmp_path / "weights.safetensors"
    save_file(state | {"cls.predictions.bias": torch.zeros(7)}, path)
    refused(
        arguments(tmp_path / "a", "--init-checkpoint", str(path)),
        capsys,
        "cls.predictions.bias must have shape [2048], got [7]",
    )
    del state["bert.pooler.dense.bias"]
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "weights.pt")
    refused(
        arguments(tmp_path / "b", "--init-checkpoint", str(tmp_path / "weights.pt")),
        capsys,
        "bert.pooler.dense.bias is missing",
    )


def resolved(command: str, num_ranks: int, *more: str) -> bert.Recipe:
    request = parse([command, "--data", "somewhere", *more], world_size=num_ranks)
    return resolve(request, "bf16", num_ranks)


def test_recipes_on_real_data_follow_their_rule_books():
    recipe = resolved("bert-large", 8)
    assert (recipe.name, recipe.size, recipe.batch_size, recipe.target) == ("mlperf", "large", 448, 0.72)
    assert recipe.eval_every_samples == 150_000
    assert (bert_mlperf.evaluation_samples(3072), bert_mlperf.evaluation_samples(256)) == (175_000, 150_000)
    for rules, target in (("airank", 0.712), ("flagperf", 0.71)):
        assert resolved("bert-large", 8, "--rules", rules).target == target
    first = resolved("bert-base", 8, "--phase", "1")
    assert (first.name, first.size, first.sequence_length, first.target) == ("phase1", "base", 128, None)
    second = resolved("bert-large", 8, "--phase", "2", "--rules", "airank")
    assert (second.steps, second.batch_size, second.target) == (1563, 32768, 0.712)
    for recipe, proportion, lowest in ((first, 0.2843, 5.0e-3), (second, 0.128, 3.7e-3)):
        assert recipe.warmup_steps == round(proportion * recipe.steps)
        job = bert.Job(recipe, bert.Options())
        plan = Plan(job.schedule(), samples_per_epoch=10**8, batch_size=recipe.batch_size, world_size=8)
        rates = [job.learning_rate(step, plan) for step in range(recipe.warmup_steps + 1)]
        assert max(rates) == rates[-2] == recipe.learning_rate
        assert lowest < rates[-1] < recipe.learning_rate * (1 - proportion) ** 0.5 * 1.001  # decayed during the warm-up


def test_hyper_parameters_of_a_global_batch_are_those_of_the_reference_convergence_points():
    checker = pytest.importorskip("mlperf_logging.rcp_checker.rcp_checker")
    text = (Path(checker.__file__).parent / "training_4.0.0/rcps_bert.json").read_text()
    points = {point["BS"]: point["Hyperparams"] for point in json.loads(text).values()}
    assert set(points) == set(bert_mlperf.REFERENCES)
    for batch_size, point in points.items():
        recipe = resolved("bert-large", 1, "--batch-size", str(batch_size))
        job = bert.Job(recipe, bert.Options())
        plan = Plan(job.schedule(), samples_per_epoch=10**8, batch_size=batch_size, world_size=1)
        reported = job.reported(plan)
        assert {key: reported.get(key) for key in point} == point | {"gradient_accumulation_steps": None}
    between = bert_mlperf.hyper_parameters(1024)
    assert (between.beta1, between.steps) == (0.66, 3381)
    assert between.learning_rate == pytest.approx(2e-3 * (1024 / 1536) ** 0.5)
