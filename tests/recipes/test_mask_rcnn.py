"""The job of Mask R-CNN: recipes by data and batch, options, initial weights, the form of batches and predictions."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from data.coco_files import annotation, write_coco
from safetensors.torch import save_file

from airank_fast.data.images import digit_coco
from airank_fast.data.images.run_lengths import decode
from airank_fast.engine.distributed import World
from airank_fast.engine.state import State
from airank_fast.errors import UserError
from airank_fast.models.resnet import ResNet
from airank_fast.models.roi_heads import Detections
from airank_fast.recipes.command_line import parse, resolve
from airank_fast.recipes.mask_rcnn import Job, sample_keys

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, 1, CPU)
TINY = ("--width=4", "--neck-width=8", "--box-width=16", "--mask-width=8", "--batch-size=2", "--eval-batch-size=2")


def job(*options: str) -> Job:
    """A tiny network for scenes of digits."""
    request = parse(["mask_rcnn", "--recipe=digit_scenes", *TINY, *options])
    return Job(resolve(request, "fp32", 1), request.options)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Five scenes to train on and three to evaluate on, in the form of COCO; tests must not change them."""
    root = tmp_path_factory.mktemp("scenes")
    for side, number in (("train", 5), ("val", 3)):
        digit_coco.write(root, side, number)
    return root


@pytest.mark.parametrize(
    ("options", "name", "rate", "steps", "decay_steps", "eval_every"),
    [
        (("--data", "x"), "coco", 0.02, 90_000, (60_000, 80_000), 7500),
        (("--data", "x", "--batch-size", "2"), "coco", 0.0025, 720_000, (480_000, 640_000), 60_000),
        # The rates and decays of rcps_maskrcnn.json, training rounds 2.0 to 3.1.
        (("--recipe", "coco_mlperf", "--batch-size", "8"), "coco_mlperf", 0.01, 216_000, (144_000, 192_000), 14_659),
        (("--recipe", "coco_mlperf", "--batch-size", "48"), "coco_mlperf", 0.06, 36_000, (24_000, 32_000), 2444),
        (("--recipe", "coco_mlperf", "--batch-size", "128"), "coco_mlperf", 0.16, 13_500, (9000, 12_000), 917),
    ],
)
def test_the_recipe_by_data_and_batch(options, name, rate, steps, decay_steps, eval_every):
    request = parse(["mask_rcnn", *options])
    recipe = resolve(request, "fp32", 1)
    assert recipe.name == name
    assert recipe.learning_rate == pytest.approx(rate)
    assert (recipe.steps, recipe.decay_steps, recipe.eval_every) == (steps, decay_steps, eval_every)
    made = Job(recipe, request.options)
    assert made.target == {"box_ap": 0.377, "mask_ap": 0.339}
    assert made.benchmark == "mask_rcnn"
    keys = made.reported(None)
    assert keys["num_image_candidates"] == 1000
    assert (keys["min_image_size"], keys["max_image_size"]) == (800, 1333)


def test_without_data_it_is_the_small_recipe():
    request = parse(["mask_rcnn"])
    recipe = resolve(request, "fp32", 1)
    assert recipe.name == "digit_scenes"
    made = Job(recipe, request.options)
    assert made.benchmark == "mask_rcnn_mini"
    assert made.target.keys() == {"box_ap", "mask_ap"}
    rates = [made.learning_rate(step, None) for step in (0, recipe.warmup_steps, recipe.decay_steps[0])]
    assert rates == pytest.approx([recipe.learning_rate * f for f in (1 / recipe.warmup_steps, 1, 0.1)])


def test_a_warm_up_batch_has_the_form_of_a_real_one(scenes):
    made = job("--data", str(scenes), "--workers", "1")
    data = made.open_data(ALONE, CPU, torch.float32)
    batch, evaluated = next(iter(made.train_batches(0))), next(iter(made.eval_batches()))
    made.close()
    assert (data["train_samples"], data["eval_samples"]) == (5, 3)
    noise = made.warm_up_batch(ALONE, CPU, torch.float32)
    assert noise.num_samples == batch.num_samples == 2
    assert noise.images.stride() == batch.images.stride()
    for key, tensor in batch.tensors().items():
        found = noise.tensors()[key]
        assert (found.dtype, found.shape[1:]) == (tensor.dtype, tensor.shape[1:]), key
    model = made.build()["model"]
    assert torch.isfinite(made.loss(model, noise))
    assert torch.isfinite(made.loss(model, batch))
    with torch.inference_mode():
        outputs = made.predict({"model": model.eval()}, evaluated)
    meter = made.meter()
    assert len(outputs) == 2
    meter.update(outputs, evaluated)
    with pytest.raises(UserError, match="of all 3 pictures, got 2"):
        meter.values(ALONE)


def test_batches_are_of_wide_or_of_upright_pictures(tmp_path):
    for side in ("train", "val"):
        sizes = [(40, 64) if number % 3 else (64, 40) for number in range(48)]
        pictures = [(number, f"{number}.png", *size) for number, size in enumerate(sizes)]
        write_coco(tmp_path, side, pictures, [annotation(n + 1, n, (4, 4, 20, 20)) for n in range(48)])
    made = job("--data", str(tmp_path), "--workers", "1", "--min-size", "32", "--max-size", "64")
    made.open_data(ALONE, CPU, torch.float32)
    shapes = [tuple(batch.images.shape[2:]) for batch in islice(made.train_batches(0), 24)]
    made.close()
    assert set(shapes) <= {(32, 64), (64, 32), (64, 64)}
    assert shapes.count((64, 64)) <= 2
    assert shapes.count((64, 32)) >= 7


def test_predictions_are_in_the_pixels_of_each_picture(scenes):
    """Of a network that finds a box of half the picture, filled on its left side, in the second of two."""
    made = job("--data", str(scenes), "--workers", "1", "--min-size", "192", "--max-size", "192")
    made.open_data(ALONE, CPU, torch.float32)
    batch = next(iter(made.eval_batches()))
    made.close()
    masks = torch.zeros(1, 28, 28)
    masks[:, :, :14] = 1
    box = torch.tensor([[40.0, 20, 136, 116]])
    found = Detections(box, torch.tensor([0.75]), torch.tensor([3]), masks, (0, 1))
    nothing, outputs = made.predict({"model": lambda images, sizes: found}, batch)
    assert len(nothing.boxes) == len(nothing.masks.sizes) == 0
    assert outputs.boxes.tolist() == [[20, 10, 68, 58]]
    assert (outputs.scores.tolist(), outputs.labels.tolist()) == ([0.75], [2])
    drawn = decode(outputs.masks, 0)
    assert drawn.shape == (96, 96)
    assert drawn.sum() == pytest.approx(24 * 48, rel=0.06)
    assert drawn[34, 22:42].all()
    assert not drawn[:, 47:].any()


@pytest.mark.parametrize("options", [("--fused",), ("--fused", "bf16"), ("--no-fused", "--optimizer", "sgd")])
def test_steps_in_both_precisions(options):
    precision = "bf16" if "bf16" in options else "fp32"
    small = ("--min-size=64", "--max-size=64", "--proposals=20", "--candidates=40", "--region-samples=16")
    made = job(*small, *(option for option in options if option != "bf16"))
    made.recipe = replace(made.recipe, precision=precision)
    state = State(made, ALONE)
    weight = next(p for p in state.networks["model"].parameters() if p.ndim == 4)
    assert weight.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    torch.manual_seed(1)
    batch = made.warm_up_batch(ALONE, CPU, state.dtype)
    rate = 0.03 if made.recipe.optimizer == "sgd" else 0.01
    losses = [state.step([batch], learning_rate=rate).item() for _ in range(5)]
    assert losses[-1] < 0.9 * losses[0]


def test_frozen_weights_stay():
    made = job("--frozen-stages=2", "--frozen-norm")
    state = State(made, ALONE)
    body = state.networks["model"].backbone.body
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    state.step([made.warm_up_batch(ALONE, CPU, state.dtype)], learning_rate=0.01)
    changed = {name for name, tensor in body.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.split(".")[0] for name in changed} == {"layer2", "layer3", "layer4"}
    assert not any(".bn" in name for name in changed)


def test_samples_follow_from_seed_and_position():
    keys = torch.cat([sample_keys(seed, torch.arange(1000)) for seed in (0, 1, 2**40 + 1)])
    assert len(keys[:2000].unique()) == 2000
    assert torch.equal(sample_keys(1, torch.tensor([7])), sample_keys(1, torch.arange(9))[7:8])


def test_weights_of_a_backbone(tmp_path):
    path = tmp_path / "w.safetensors"
    weights = {f"{name}": t + 1 for name, t in ResNet((1, 1, 1, 1), 10, base_width=4).state_dict().items()}
    save_file(weights, path)
    body = job("--init-checkpoint", str(path)).build()["model"].backbone.body.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in body.items())
    with pytest.raises(UserError, match=r"backbone.body.conv1.weight must have shape \[8, 3, 7, 7\], got \[4, 3"):
        job("--init-checkpoint", str(path), "--width=8").build()
    del weights["layer2.0.bn1.bias"]
    save_file(weights, path)
    with pytest.raises(UserError, match=r"of this model: backbone.body.layer2.0.bn1.bias is missing"):
        job("--init-checkpoint", str(path)).build()


def test_weights_of_a_network_with_torchvisions_91_classes(tmp_path):
    """Of the ids 0 to 90 the ten are left out that no category of COCO has."""
    path = tmp_path / "w.safetensors"
    weights = job("--num-classes=90").build()["model"].state_dict()
    weights["roi_heads.box_predictor.cls_score.bias"] = torch.arange(91.0)
    weights["roi_heads.box_predictor.bbox_pred.bias"] = torch.arange(364.0)
    save_file(weights, path)
    model = job("--num-classes=80", "--init-checkpoint", str(path)).build()["model"]
    ids = model.roi_heads.box_predictor.cls_score.bias
    absent = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert ids.tolist() == [number for number in range(91) if number not in absent]
    boxes = model.roi_heads.box_predictor.bbox_pred.bias.view(81, 4)
    assert torch.equal(boxes[:, 0], 4 * ids)
    expected = weights["roi_heads.mask_predictor.mask_fcn_logits.weight"][90]
    assert torch.equal(model.roi_heads.mask_predictor.mask_fcn_logits.weight[80], expected)
    same = job("--num-classes=90", "--init-checkpoint", str(path)).build()["model"].state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in same.items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--frozen-stages=6",), "--frozen-stages: must be in [0, 5], got 6"),
        (("--region-samples=3",), "--region-samples: must be at least 4, got 3"),
        (("--max-size=90",), "--max-size: must be at least 96, got 90"),
        (("--min-score=1",), "--min-score: must be in [0, 1), got 1.0"),
        (("--warmup-steps=2000",), "--warmup-steps: must be in [0, "),
        (("--blocks", "1", "0", "1", "1"), "--blocks: must be 4 numbers from 1 on"),
        (("--anchor-sizes", "16", "0", "1", "1", "1"), "--anchor-sizes: must be 5 numbers above 0"),
        (("--detections=0",), "--detections: must be at least 1, got 0"),
        (("--norm-eps=-1",), "--norm-eps: must be at least 0, got -1.0"),
        (("--target", "box_ap=0.5,mask=0.5"), "--target: must be of box_ap, mask_ap, got mask"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(UserError) as error:
        job(*options)
    assert message in str(error.value)


def test_too_few_classes(scenes):
    made = job("--data", str(scenes), "--num-classes=9")
    with pytest.raises(UserError, match="--num-classes: must be at least the 10 of the data set, got 9"):
        made.open_data(ALONE, CPU, torch.float32)


def test_a_run_of_masks_is_exact_when_the_network_is(scenes):
    """The truth, as a network's outputs, has an AP of 1; boxes of other pictures have less."""
    made = job("--data", str(scenes), "--workers", "1")
    made.open_data(ALONE, CPU, torch.float32)
    batches = list(made.eval_batches())
    made.close()
    meter = made.meter()
    for batch in batches:
        number = len(batch.labels)
        masks = torch.ones(number, 28, 28)
        truth = Detections(batch.boxes, torch.ones(number), batch.labels + 1, masks, batch.splits)
        meter.update(made.predict({"model": lambda images, sizes, truth=truth: truth}, batch), batch)
    values = meter.values(ALONE)
    assert values["box_ap"] == pytest.approx(1.0)
    assert 0 < values["mask_ap"] < 1  # a full box is no digit
    assert np.isfinite(list(values.values())).all()
