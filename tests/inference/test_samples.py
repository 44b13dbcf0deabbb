"""Samples one by one and in batches give what training's evaluation gives, for every task; and what is refused."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from inference.jobs import TASKS, as_state, by_training, fresh, made, shorten

from airank_fast.engine import checkpoint
from airank_fast.errors import UserError
from airank_fast.inference import origin
from airank_fast.inference.engine import open_engine
from airank_fast.inference.loading import load_job
from airank_fast.inference.samples import ALONE, CPU, Samples, _arrays

PARTS = [[0, 1, 2], [6, 3], [5], [4]]  # seven samples, in batches of odd sizes and out of order


def outputs_of(task: str, parts=PARTS) -> dict:
    """Of the torch engine, by sample."""
    job, networks, samples = made(task)
    engine = open_engine("torch", job, networks, device=CPU, threads=torch.get_num_threads())
    outputs = {}
    for part in parts:
        samples.load(part)
        outputs |= zip(part, samples.split(engine.run(samples.batch(part)), part), strict=True)
    return outputs


@pytest.mark.parametrize("task", TASKS)
def test_batches_of_samples_have_the_outputs_of_trainings_evaluation(task):
    job, networks, samples = made(task)
    outputs = outputs_of(task)
    training = as_state(job, networks, 7).job
    with contextlib.redirect_stderr(io.StringIO()):
        training.open_data(ALONE, CPU, torch.float32)
    networks["model"].eval()
    with contextlib.closing(training.eval_batches()) as batches, torch.inference_mode():
        whole = next(iter(batches))
        theirs = training.predict(networks, whole)
    training.close()
    expected = samples.split(theirs, range(7))
    for index in range(7):
        mine, reference = _arrays(outputs[index]), _arrays(expected[index])
        assert [each.shape for each in mine] == [each.shape for each in reference]
        for a, b in zip(mine, reference, strict=True):
            if a.dtype.kind == "f" and a.size:
                assert np.abs(a - b).max() <= 1e-4 * max(1.0, np.abs(b).max())
            else:
                assert np.mean(a != b) < 0.01 if a.size else True


@pytest.mark.parametrize("task", ["resnet50", "bert-tiny"])
def test_the_score_is_trainings_to_the_count(task):
    job, networks, samples = made(task)
    every = list(range(len(samples)))
    outputs = outputs_of(task, [every[first : first + 37] for first in range(0, len(every), 37)])
    samples.unload(every[::2])  # what the meter reads of a sample stays
    values, counts = samples.score(outputs)
    expected, expected_counts = by_training(job, networks, 64)
    assert counts == expected_counts
    assert values == expected
    results = samples.results(outputs)
    if task == "resnet50":
        assert (sum(results), len(results)) == (counts["correct"], counts["counted"])
    else:
        assert results is None  # a sample has several masked tokens


def test_a_metric_of_the_whole_set_is_trainings():
    values, counts = made("dssm")[2].score(outputs_of("dssm", [range(500), range(500, len(made("dssm")[2]))]))
    expected, _ = by_training(*made("dssm")[:2], 256)
    assert values == pytest.approx(expected, abs=1e-4)
    assert not counts


def test_a_missing_output_is_named():
    _, _, samples = made("resnet50")
    with pytest.raises(UserError, match=r"of 355 samples, got none of 354, the first of them sample 1$"):
        samples.score({0: torch.zeros(1, 10)})


def test_responses_are_labels_as_float32():
    _, _, samples = made("resnet50")
    assert samples.response(torch.tensor([[0.0, 2.0, 1.0]])) == np.array([1.0], "<f4").tobytes()
    assert made("deeplabv3plus")[2].response(torch.tensor([[[1, 2]]])) == np.array([1.0, 2.0], "<f4").tobytes()


def test_agreement_counts_samples_and_finds_the_largest_difference():
    _, _, samples = made("resnet50")
    first = {0: torch.tensor([[0.0, 1.0]]), 1: torch.tensor([[3.0, 1.0]])}
    other = {0: torch.tensor([[0.5, 1.0]]), 1: torch.tensor([[0.0, 1.0]])}
    assert samples.agreement(first, other) == (0.5, 3.0)


def test_samples_are_sorted_by_length_inside_a_batch_and_come_back_in_order():
    samples = fresh("bert-tiny")
    samples.load(range(6))
    assert len(samples.lengths()) == 40
    for index, tokens in zip(range(6), (9, 5, 7, 5, 3, 8), strict=True):
        shorten(samples, index, tokens)
    order = [3, 0, 5, 1]
    batch = samples.batch(order)
    assert batch.lengths == [5, 5, 8, 9]
    assert batch.offsets.tolist() == [0, 5, 10, 18, 27]
    parts = samples.split(batch.labels, order)
    assert [part.tolist() for part in parts] == [samples._loaded[index].labels.tolist() for index in order]
    assert made("resnet50")[2].lengths() is None


@pytest.mark.parametrize("task", ["transformer", "word2vec"])
def test_other_tasks_are_refused(task):
    refused = pytest.raises(UserError, match=r"prediction is one pass")
    with contextlib.redirect_stderr(io.StringIO()), refused:
        open_all(task)


def open_all(task: str) -> None:
    Samples(load_job([task], None, CPU)[0])


def test_a_run_a_step_and_a_file_load_the_same_weights(tmp_path):
    job, networks, _ = made("ocr")
    weights = {"model": networks["model"].state_dict()}
    checkpoints = tmp_path / "checkpoints"
    step = checkpoint.save(checkpoints, 7, weights, {})
    recipe = {f: getattr(job.recipe, f) for f in job.recipe.__dataclass_fields__} | {"batch_size": 16}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    for path in (tmp_path, step, step / "model.safetensors"):
        of_run, found = load_job(["ocr"], path, CPU)
        assert of_run.recipe.batch_size == 16
        assert not found["model"].training
        for name, tensor in found["model"].state_dict().items():
            assert torch.equal(tensor, weights["model"][name]), name
    with pytest.raises(UserError, match=r"^--checkpoint \S+: must be without options that differ.* 16"):
        load_job(["ocr", "--batch-size", "8"], tmp_path, CPU)
    with pytest.raises(UserError, match=r"^--checkpoint \S+: must be a run of this command"):
        load_job(["tsm"], tmp_path, CPU)
    elsewhere = shutil.copy(step / "model.safetensors", tmp_path)
    assert load_job(["ocr"], Path(elsewhere), CPU)[0].recipe.batch_size == job.recipe.batch_size
    with pytest.raises(UserError, match=r"^--checkpoint \S+: must have weights of this model"):
        load_job(["tsm"], Path(elsewhere), CPU)


def test_a_runs_log_is_read_as_far_as_its_options(tmp_path):
    """The options stand in one of the first events, and a training log may be long."""
    weights = {"model": made("ocr")[1]["model"].state_dict()}
    checkpoint.save(tmp_path / "checkpoints", 7, weights, {})
    (tmp_path / "recipe.json").write_text(json.dumps(asdict(made("ocr")[0].recipe)))
    config = {"t": 2.0, "kind": "run_config", "benchmark": "ocr", "options": {"data": None, "workers": 7}}
    log = tmp_path / "events.jsonl"
    first = '{"t": 1.0, "kind": "process_start"}\n'
    log.write_text(first + json.dumps(config) + "\n" + '{"kind": "steps"}\n' * 3)
    assert origin.run_config(tmp_path)["options"]["workers"] == 7
    assert load_job(["ocr"], tmp_path, CPU)[0].options.workers is None  # how the run ran is left out
    log.write_text(first + "no event\n" + json.dumps(config) + "\n")
    with pytest.raises(UserError, match=r"^--checkpoint \S+: \S+events.jsonl: line 2 must be an event, got b'no event"):
        load_job(["ocr"], tmp_path, CPU)


def test_a_backbone_alone_is_not_enough(tmp_path):
    network = made("deeplabv3plus")[1]["model"]
    path = tmp_path / "backbone.pt"
    torch.save(network.backbone.state_dict(), path)
    with pytest.raises(UserError, match=r"must be weights of the whole network, got none of classifier\."):
        load_job(["deeplabv3plus"], path, CPU)


def test_a_missing_checkpoint_and_a_run_without_one(tmp_path):
    with pytest.raises(UserError, match=r"^--checkpoint: must be the directory of a training run, .* no such file$"):
        load_job(["resnet50"], tmp_path / "none", CPU)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="must be a run with a checkpoint, got one without"):
        load_job(["resnet50"], tmp_path, CPU)
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(UserError, match=r"^--checkpoint \S+: must be a readable file of weights"):
        load_job(["resnet50"], tmp_path / "text", CPU)
