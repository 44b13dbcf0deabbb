"""The job of text detection: recipes by data and backbone, options, initial weights, the form of batches."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from data.scene_files import write_strings
from safetensors.torch import save_file

from airank_fast.data.images.text_scene_reader import SceneBatch, Truth
from airank_fast.engine.distributed import World
from airank_fast.engine.state import State
from airank_fast.errors import UserError
from airank_fast.models.resnet import ResNet
from airank_fast.recipes.command_line import parse, resolve
from airank_fast.recipes.ocr_detection import Job

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, 1, CPU)
TINY = ("--blocks=1-1-1-1", "--width=8", "--neck-width=16", "--crop-height=64", "--crop-width=96", "--batch-size=4")


def job(*options: str) -> Job:
    """A tiny network for crops of 64 x 96 pixels."""
    request = parse(["ocr_detection", *TINY, *options])
    return Job(resolve(request, "fp32", 1), request.options)


@pytest.mark.parametrize(
    ("options", "name", "blocks", "benchmark"),
    [
        ((), "digit_strings", "1-1-1-1", "ocr_detection_mini"),
        (("--data", "x"), "db_resnet50", "3-4-6-3", "ocr_detection_resnet50"),
        (("--data", "x", "--backbone", "resnet18"), "db_resnet18", "2-2-2-2", "ocr_detection_resnet18"),
        (("--data", "x", "--backbone", "resnet18", "--width", "8"), "db_resnet18", "2-2-2-2", "ocr_detection_mini"),
    ],
)
def test_the_recipe_by_data_and_backbone(options, name, blocks, benchmark):
    request = parse(["ocr_detection", *options])
    recipe = resolve(request, "fp32", 1)
    assert (recipe.name, recipe.blocks) == (name, blocks)
    assert Job(recipe, request.options).benchmark == benchmark
    if name != "digit_strings":
        assert (recipe.crop_height, recipe.crop_width, recipe.eval_height, recipe.eval_width) == (640, 640, 736, 1280)
        assert (recipe.batch_size, recipe.learning_rate, recipe.epochs, recipe.target) == (16, 1e-3, 1200, None)


def test_a_warm_up_batch_has_the_form_of_a_real_one(tmp_path):
    pytest.importorskip("shapely")
    made = job("--data", str(write_strings(tmp_path, 5, 2)), "--workers", "1", "--eval-height=96", "--eval-width=128")
    data = made.open_data(ALONE, CPU, torch.float32)
    batch, evaluated = next(iter(made.train_batches(0))), next(iter(made.eval_batches()))
    made.close()
    noise = made.warm_up_batch(ALONE, CPU, torch.float32)
    assert (data["train_samples"], data["eval_samples"]) == (5, 2)
    assert noise.num_samples == batch.num_samples == 4
    for key, tensor in batch.tensors().items():
        found = noise.tensors()[key]
        assert (found.dtype, found.shape, found.stride()) == (tensor.dtype, tensor.shape, tensor.stride()), key
    model = made.build()["model"]
    assert torch.isfinite(made.loss(model, noise))
    with torch.inference_mode():
        outputs = made.predict({"model": model.eval()}, evaluated)
    assert [each.shape[1:] for each in outputs] == [(4, 2)] * 2
    examples = made.examples(outputs, evaluated)
    assert [example.picture.shape for example in examples] == [(96, 3 * 128, 3)] * 2


def test_predictions_are_in_the_pixels_of_each_picture():
    """Logits of 4 inside a rectangle of 20 x 40 pixels of a map for pictures of two sizes."""
    pytest.importorskip("shapely")
    logits = torch.full((2, 1, 64, 96), -4.0)
    logits[:, :, 20:40, 30:70] = 4.0
    truth = Truth((), (), ((64, 96), (128, 288)))
    batch = SceneBatch(torch.empty(2, 3, 64, 96), truth)
    first, second = job().predict({"model": lambda images: logits}, batch)
    assert [*first[0].min(0), *first[0].max(0)] == pytest.approx([20, 10, 80, 50], abs=1e-3)
    np.testing.assert_allclose(second, first * (3, 2), atol=1e-3)
    assert len(job("--box-threshold=0.99").predict({"model": lambda images: logits}, batch)[0]) == 0


def test_a_picture_of_predictions_has_both_outlines_in_its_own_place():
    """A picture of twice the size that the network sees: outlines are drawn where the network sees the texts."""
    quads = np.array([[[20, 20], [100, 20], [100, 60], [20, 60]], [[120, 80], [180, 80], [180, 100], [120, 100]]])
    truth = Truth((quads,), (np.array([False, True]),), ((128, 192),))
    batch = SceneBatch(torch.zeros(1, 3, 64, 96), truth)
    (example,) = job().examples([quads[:1] + 8.0], batch)
    plain, found, true = np.hsplit(example.picture, 3)
    assert len(np.unique(plain.reshape(-1, 3), axis=0)) == 1
    assert found[14, 30].tolist() == [255, 220, 0]
    assert true[10, 30].tolist() == [0, 255, 90]
    assert true[40, 70].tolist() == [170, 170, 170]
    assert (found[10, 30] == plain[10, 30]).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("fused", ["--fused", "--no-fused"])
def test_steps_in_both_precisions(fused, precision):
    made = job(fused)
    made.recipe = replace(made.recipe, precision=precision)
    state = State(made, ALONE)
    weight = next(p for p in state.networks["model"].parameters() if p.ndim == 4)
    assert weight.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    batch = made.warm_up_batch(ALONE, CPU, state.dtype)
    batch.maps[:] = 0
    batch.maps[:, 1] = 1
    batch.maps[:, [0, 3], 20:40, 30:70] = 1
    losses = [state.step([batch], learning_rate=0.02).item() for _ in range(15)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_the_backbone_of_a_run_and_its_origin_in_the_log(backbone, tmp_path):
    """The tensors of the classifier are left out; the run's quality stands beside the checksum."""
    pytest.importorskip("shapely")
    own = job("--backbone", backbone).build()["model"].backbone.state_dict()
    weights = {name: tensor + 1 for name, tensor in own.items()}
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000007"
    checkpoint.mkdir(parents=True)
    save_file(weights | {"fc.weight": torch.ones(10, 128)}, checkpoint / "model.safetensors")
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"benchmark": "resnet50", "best_accuracy": 0.761}))
    data = write_strings(tmp_path / "data", 4, 1)
    made = job("--backbone", backbone, "--init-checkpoint", str(checkpoint), "--data", str(data))
    state = made.build()["model"].backbone.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in state.items())
    logged = made.open_data(ALONE, CPU, torch.float32)["init_checkpoint"]
    assert (logged["file"], len(logged["sha256"])) == (str(checkpoint / "model.safetensors"), 64)
    assert logged["summary.json"]["best_accuracy"] == 0.761


def test_weights_of_another_backbone(tmp_path):
    """Of another width, and without a tensor."""
    path = tmp_path / "w.safetensors"
    weights = ResNet((1, 1, 1, 1), 10, base_width=4).state_dict()
    arguments = ("--backbone", "resnet50", "--init-checkpoint", str(path))
    save_file(weights, path)
    with pytest.raises(UserError, match=r"of this model: conv1.weight must have shape \[8, 3, 7, 7\], got \[4, 3"):
        job(*arguments).build()
    del weights["layer2.0.bn1.bias"]
    save_file(weights, path)
    with pytest.raises(UserError, match=r"of this model: layer2.0.bn1.bias is missing"):
        job(*arguments, "--width=4").build()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--blocks", "3-4-6"], "--blocks: must be 4 numbers from 1 on, as 3-4-6-3, got '3-4-6'"),
        (["--blocks", "1-1-1-0"], "--blocks: must be 4 numbers from 1 on, as 3-4-6-3, got '1-1-1-0'"),
        (["--width", "0"], "--width: must be at least 1, got 0"),
        (["--neck-width", "10"], "--neck-width: must be a multiple of 4, got 10"),
        (["--crop-height", "100"], "--crop-height: must be a multiple of 32 pixels, got 100"),
        (["--eval-width", "0"], "--eval-width: must be a multiple of 32 pixels, got 0"),
        (["--min-scale", "0"], "--min-scale: must be above 0, got 0"),
        (["--min-scale", "2"], "--max-scale: must be at least 2.0, got 1.0"),
        (["--max-rotation", "-1"], r"--max-rotation: must be in \[0, 180\] degrees, got -1"),
        (["--box-threshold", "1"], r"--box-threshold: must be in \(0, 1\), got 1"),
        (["--binary-threshold", "0"], r"--binary-threshold: must be in \(0, 1\), got 0"),
        (["--unclip-ratio", "-1"], "--unclip-ratio: must be at least 0, got -1"),
        (["--decay-power", "-1"], "--decay-power: must be at least 0, got -1"),
        (["--max-grad-norm", "0"], "--max-grad-norm: must be above 0, or None, got 0"),
        (["--warmup-epochs", "99"], r"--warmup-epochs: must be in \[0, "),
        (["--batch-size", "1"], "--batch-size: must be at least 2 pictures at a time, for batch norm, got 1"),
        (["--target", "mean_iou=0.5"], "--target: must be of h_mean, precision, recall, got mean_iou"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        job(*options)
