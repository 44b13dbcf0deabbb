"""Wide&Deep and DeepFM on click logs in the published form: AI-Rank's and PaddleRec's sizes, and a run."""

from __future__ import annotations

import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from commands import inprocess
from sources import criteo_text

from airank_fast import prepare, verify
from airank_fast import train as command
from airank_fast.engine.distributed import World
from airank_fast.errors import UserError
from airank_fast.recipes import command_line, deepfm, wide_deep
from airank_fast.record.events import read_events
from airank_fast.record.metrics import summarize

ALONE = World(0, 1, 0, 1, torch.device("cpu"))
MODULES = {"wide_deep": wide_deep, "deepfm": deepfm}
NUMBER = 6000


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Prepared by the command, with a bad line left out."""
    folder = tmp_path_factory.mktemp("criteo")
    (folder / "train.txt").write_bytes(criteo_text.text(NUMBER) + b"1\t2\n")
    options = ["--partial", "--shard-rows", "1000", "--skip-corrupt"]
    arguments = ["criteo", "--input", str(folder / "train.txt"), "--output", str(folder / "data"), *options]
    assert prepare.parse(arguments).run() == 0
    return folder / "data"


def recipe_of(name: str, *options: str):
    return command_line.resolve(command_line.parse([name, *options]), "fp32", 1)


def job(name: str, *options: str):
    request = command_line.parse([name, *options])
    return MODULES[name].Job(command_line.resolve(request, "fp32", 1), request.options)


@pytest.mark.parametrize(
    ("name", "sizes", "widths", "target"),
    [
        ("wide_deep", "airank", [273, 400, 400, 400], 0.795),
        ("deepfm", "airank", [390, 400, 400, 400], 0.788),
        ("wide_deep", "paddlerec", [13 + 26 * 9, 512, 256, 128, 32], 0.79),
        ("deepfm", "paddlerec", [39 * 9, 400, 400, 400], 0.78),
    ],
)
def test_the_networks_have_the_published_sizes(name, sizes, widths, target):
    """The table itself is small here; its default is AI-Rank's."""
    options = [] if sizes == "airank" else ["--sizes", sizes]
    recipe = recipe_of(name, "--data", "somewhere", *options)
    airank = sizes == "airank"
    assert (recipe.name, recipe.target, recipe.table_rows) == (sizes, target, 1_000_001)
    assert (recipe.batch_size, recipe.learning_rate) == ((1000, 1e-4) if airank else (512, 1e-3))
    assert recipe.epochs == {"airank": 5, "paddlerec": 4 if name == "wide_deep" else 1}[sizes]
    model = job(name, "--data", "somewhere", *options, "--table-rows", "100").build()["model"]
    assert [model.dnn.linears[0].in_features, *(linear.out_features for linear in model.dnn.linears)] == widths
    dim = 10 if airank else 9
    tables = {key: tuple(value.shape) for key, value in model.state_dict().items() if "embedding" in key}
    expected = {"embedding_dict.C.weight": (100, dim)}
    if name == "deepfm":
        expected |= {"linear_model.embedding_dict.C.weight": (100, 1), "number_embedding.weight": (13, dim)}
    assert tables == expected
    assert model.linear_model.weight.shape == (13, 1)


@pytest.mark.parametrize("name", MODULES)
def test_warm_up_batches_have_the_shapes_of_training_batches(name, data):
    made = job(name, "--data", str(data), "--batch-size", "64", "--table-rows", "50")
    facts = made.open_data(ALONE, ALONE.device, torch.float32)
    assert (facts["train_samples"], facts["eval_samples"], facts["reader"]) == (5760, 240, "criteo")
    ((where, why),) = facts["corrupt_files"]
    assert where.endswith(f"train.txt, line {NUMBER + 1}")
    assert why.endswith("got 2 columns")
    batches = next(made.train_batches(0)), made.warm_up_batch(ALONE, ALONE.device, torch.float32)
    of_training, of_warm_up = (
        {name: (tensor.shape, tensor.dtype) for name, tensor in batch.tensors().items()} for batch in batches
    )
    assert of_training == of_warm_up
    assert all(((batch.ids >= 0) & (batch.ids < 50)).all() for batch in batches)
    assert sum(len(batch.labels) for batch in made.eval_batches()) == 240


@pytest.mark.parametrize("name", MODULES)
def test_a_run_learns_and_the_other_commands_read_it(name, data, tmp_path):
    """The labels depend on a number and a category."""
    output = tmp_path / "out"
    options = ["--table-rows", "5000", "--hidden", "32-16", "--learning-rate", "3e-3", "--batch-size", "100"]
    options += ["--scaling", "log", "--epochs", "6", "--held-out", "0.2", "--target", "0.7"]
    with mock.patch.object(sys, "argv", ["train", name, "--data", str(data), "--output", str(output), *options]):
        assert command.main() == 0
    summary = summarize(read_events(output / "events.jsonl"))
    assert (summary["status"], summary["reason"]) == ("success", "target")
    verified = inprocess.run_without_torch(verify, output)
    assert (verified.returncode, "0 errors" in verified.stdout + verified.stderr) == (0, True), verified.stdout


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sizes", "paddlerec"], "--sizes: must be left out without --data, got paddlerec"),
        (["--table-rows", "5"], "--table-rows: must be left out without --data, got 5"),
        (["--scaling", "log"], "--scaling: must be left out without --data, got log"),
        (["--held-out", "0.5"], "--held-out: must be left out without --data, got 0.5"),
        (["--data", "d", "--held-out", "1"], "--held-out: must be in (0, 1), got 1.0"),
        (["--data", "d", "--table-rows", "0"], "--table-rows: must be at least 1, got 0"),
        (["--data", "d", "--skip-corrupt"], "--skip-corrupt: must be left out, as `airank_fast.prepare criteo` has"),
    ],
)
def test_options_that_cannot_be(name, options, message):
    with pytest.raises(UserError) as error:
        recipe_of(name, *options)
    assert str(error.value).startswith(message)


def test_a_table_larger_than_memory_is_refused_in_one_line(monkeypatch):
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**18}  # 1 GiB
    monkeypatch.setattr("airank_fast.recipes.table_recipe.os.sysconf", sizes.get)
    with pytest.raises(UserError) as error:
        recipe_of("deepfm", "--data", "d", "--table-rows", "9000000")
    assert str(error.value) == (
        "--table-rows: must be at most 8,947,848, as a row takes 120 bytes with Adam's state, and memory has 1.0 GiB, "
        "got 9,000,000"
    )
    assert recipe_of("deepfm", "--data", "d", "--table-rows", "8000000").table_rows == 8_000_000


def test_crosses_are_of_the_embedded_table_alone():
    with pytest.raises(UserError, match="--cross-buckets: must be 0 with --data, got 10"):
        recipe_of("wide_deep", "--data", "d", "--cross-buckets", "10")
