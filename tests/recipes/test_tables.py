"""Wide&Deep and DeepFM to their targets on the embedded table, and what the other commands make of such a run."""

from __future__ import annotations

import sys
from unittest import mock

import pytest
import torch
from commands import inprocess

from airank_fast import report, score, verify
from airank_fast import train as command
from airank_fast.data.tables import adult
from airank_fast.engine.distributed import World
from airank_fast.recipes import command_line, deepfm, wide_deep
from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
MODULES = {"wide_deep": wide_deep, "deepfm": deepfm}


def job(name: str, *options: str):
    request = command_line.parse([name, *options])
    return MODULES[name].Job(command_line.resolve(request, "fp32", 1), request.options)


@pytest.mark.parametrize("name", MODULES)
def test_the_default_run_reaches_its_target_and_the_other_commands_read_it(name, tmp_path, capsys):
    output = tmp_path / "out"
    with mock.patch.object(sys, "argv", ["train", name, "--output", str(output)]):
        status = command.main()
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert printed.err.count("UCI Adult (CC BY 4.0)") == 1
    summary = summarize(read_events(output / "events.jsonl"))
    target = MODULES[name].RECIPES["adult"].target
    assert (summary["status"], summary["reason"], summary["target"]) == ("success", "target", target)
    assert summary["best_accuracy"] >= target
    assert f"eval_accuracy:{summary['best_accuracy']}," in (output / "airank.log").read_text()

    verified = inprocess.run_without_torch(verify, output)
    assert (verified.returncode, "0 errors" in verified.stdout + verified.stderr) == (0, True), verified.stdout
    scored = inprocess.run(score, output)
    assert "task coverage: 0/14" in scored.stdout  # which it counts on Criteo alone
    assert inprocess.run(report, output, "--output", tmp_path / "report").returncode == 0


@pytest.mark.parametrize("name", MODULES)
def test_warm_up_batches_have_the_shapes_of_training_batches(name):
    made = job(name, "--batch-size", "64")
    made.open_data(ALONE, ALONE.device, torch.float32)
    batches = next(made.train_batches(0)), made.warm_up_batch(ALONE, ALONE.device, torch.float32)
    of_training, of_warm_up = (
        {name: (tensor.shape, tensor.dtype) for name, tensor in batch.tensors().items()} for batch in batches
    )
    assert of_training == of_warm_up
    sizes = torch.tensor(list(made.slots.values()))
    assert all(((batch.ids >= 0) & (batch.ids < sizes)).all() for batch in batches)
    assert made.table().slots == made.slots


@pytest.mark.parametrize(("buckets", "number"), [("0", 0), ("50", len(adult.CROSSES))])
def test_the_wide_part_has_a_weight_for_each_bucket_of_a_cross(buckets, number):
    made = job("wide_deep", "--cross-buckets", buckets)
    weights = made.build()["model"].linear_model.embedding_dict.tables()
    assert list(weights)[: len(adult.SLOTS)] == list(adult.SLOTS)
    assert [tuple(weights[name].shape) for name in list(weights)[len(adult.SLOTS) :]] == [(50, 1)] * number


@pytest.mark.parametrize("name", MODULES)
def test_adams_settings_are_the_recipes(name):
    made = job(name, "--learning-rate", "0.01", "--beta1", "0.8", "--beta2", "0.9", "--epsilon", "1e-6")
    networks = made.build()
    (update,) = made.updates(networks, ALONE.device)
    (group,) = update.optimizer.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.9), 1e-6, 0)
    assert {id(p) for p in group["params"]} == {id(p) for p in networks["model"].parameters()}
    assert made.learning_rate(0, None) == made.learning_rate(999, None) == 0.01
    assert made.reported(None) == {
        "opt_name": "adam",
        "opt_base_learning_rate": 0.01,
        "opt_adam_beta_1": 0.8,
        "opt_adam_beta_2": 0.9,
        "opt_adam_epsilon": 1e-6,
    }
