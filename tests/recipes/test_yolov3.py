"""The job of YOLOv3: recipes, first weights, the form of batches, sizes and mixup by step, detections in a file."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from darknet_case import NUM_CLASSES, case
from data.coco_files import write_digits
from safetensors.torch import save_file

from airank_fast.data.images.detection_batch import Window
from airank_fast.engine.distributed import World
from airank_fast.engine.state import State
from airank_fast.errors import UserError
from airank_fast.recipes.command_line import parse, resolve
from airank_fast.recipes.yolov3 import Job, SizeOfStep

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, 1, CPU)
TINY = ("--recipe=digit_scenes", "--image-size=64", "--train-sizes=64", "--batch-size=4", "--workers=1")
NARROW = ("--widths", "4", "4", "4", "4", "8", "8", "--blocks", "1", "1", "1", "2", "1")


def job(*options: str) -> Job:
    """A tiny network for images of 64 x 64 pixels."""
    request = parse(["yolov3", *TINY, *NARROW, *options])
    return Job(resolve(request, "fp32", 1), request.options)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A data set of 8 pictures to train on and 3 to evaluate on."""
    return write_digits(tmp_path_factory.mktemp("scenes"), 8, 3)


@pytest.mark.parametrize(
    ("options", "name", "benchmark"),
    [
        ((), "digit_scenes", "yolov3_mini"),
        (("--data", "x"), "coco", "yolov3"),
        (("--data", "x", "--recipe", "darknet"), "darknet", "yolov3"),
        (("--data", "x", "--recipe", "digit_scenes"), "digit_scenes", "yolov3_mini"),
        (("--data", "x", "--blocks", "1", "1", "1", "1", "1"), "coco", "yolov3_mini"),
    ],
)
def test_the_recipe_by_data_and_name(options, name, benchmark):
    request = parse(["yolov3", *options])
    recipe = resolve(request, "fp32", 1)
    assert recipe.name == name
    assert Job(recipe, request.options).benchmark == benchmark


def test_published_schedules():
    """gluon-cv's of AI-Rank's own result in epochs, and yolov3.cfg's in epochs of train2017."""
    coco, darknet = (
        resolve(parse(["yolov3", "--data", "x", f"--recipe={name}"]), "fp32", 1) for name in ("coco", "darknet")
    )
    assert (coco.epochs, coco.decay_epochs, coco.warmup_epochs, coco.batch_size) == (280, (220, 250), 2, 64)
    assert (coco.image_size, coco.target, coco.mixup, coco.mixup_off_epochs) == (416, 0.348, True, 20)
    steps = [round(epochs * 118_287 / 64) for epochs in (darknet.warmup_epochs, *darknet.decay_epochs)]
    assert steps == [1_000, 400_000, 450_000]
    assert darknet.epochs == pytest.approx(500_200 * 64 / 118_287, abs=0.5)
    plan = SimpleNamespace(step_after=lambda epochs: round(epochs * 100), total_steps=28_000)
    made = Job(coco, parse(["yolov3"]).options)
    rates = [made.learning_rate(step, plan) for step in (0, 99, 199, 21_999, 22_000, 25_000)]
    assert rates == pytest.approx([5e-6, 5e-4, 1e-3, 1e-3, 1e-4, 1e-5])
    burn_in = Job(replace(darknet, warmup_epochs=10.0), parse(["yolov3"]).options)
    assert burn_in.learning_rate(499, plan) == pytest.approx(1e-3 / 16)
    assert resolve(parse(["yolov3", "--data", "x", "--batch-size", "8"]), "fp32", 1).learning_rate == 1.25e-4


def test_a_warm_up_batch_has_the_form_of_a_real_one(scenes):
    made = job("--data", str(scenes))
    data = made.open_data(ALONE, CPU, torch.float32)
    batch, evaluated = next(iter(made.train_batches(0))), next(iter(made.eval_batches()))
    made.close()
    noise = made.warm_up_batch(ALONE, CPU, torch.float32)
    assert (data["train_samples"], data["eval_samples"], data["classes"]) == (8, 3, 10)
    assert noise.num_samples == batch.num_samples == 4
    assert set(noise.tensors()) == set(batch.tensors())
    for name, tensor in batch.tensors().items():
        found = noise.tensors()[name]
        assert (found.dtype, found.shape[1:], found.stride()) == (tensor.dtype, tensor.shape[1:], tensor.stride()), name
    model = made.build()["model"]
    assert torch.isfinite(made.loss(model, noise))
    with torch.inference_mode():
        outputs = made.predict({"model": model.eval()}, evaluated)
    assert len(outputs) == 3
    examples = made.examples(outputs, evaluated)
    assert [example.picture.shape for example in examples] == [(320, 2 * 320, 3)] * 3
    assert torch.isfinite(made.loss(model.train(), batch))  # with the places that the prediction has made


def test_detections_are_in_the_pixels_of_each_file(scenes):
    """Of an image of 64 x 64 pixels that is letterboxed and one that is stretched."""
    anchors = [*range(12, 24), 30, 20, 40, 30, 50, 40]
    made = job("--data", str(scenes), "--anchors", *map(str, anchors))
    made.open_data(ALONE, CPU, torch.float32)
    batch = replace(
        next(iter(made.eval_batches())),
        windows=(Window(16, 0, 32, 64), Window(0, 0, 64, 64), Window(0, 0, 64, 64)),
        sizes=((320, 640), (128, 640), (64, 64)),
    )
    made.close()
    logits = torch.full((3, 3 * (4 + 16 + 64), 15), -20.0)
    logits[:, 0, :4] = 0
    logits[:, 0, [4, 7]] = 20
    with torch.inference_mode():
        first, second, third = made.predict({"model": lambda images: logits}, batch)
    width, height = made.recipe.anchor_sizes[6]
    box = 16 - width / 2, 16 - height / 2, 16 + width / 2, 16 + height / 2
    np.testing.assert_allclose(third.boxes, [np.clip(box, 0, 64)], rtol=1e-5)
    np.testing.assert_allclose(second.boxes, third.boxes * [10, 2, 10, 2], rtol=1e-5)
    letterboxed = (np.array(box) - [0, 16, 0, 16]) * 10
    np.testing.assert_allclose(first.boxes, [letterboxed.clip(0, [640, 320, 640, 320])], rtol=1e-5)
    assert (third.labels.tolist(), third.boxes.dtype, third.labels.dtype) == ([2], np.float32, np.int64)
    np.testing.assert_allclose(third.scores, [1.0], rtol=1e-5)


def test_sizes_are_of_blocks_of_ten_steps():
    size_of = SizeOfStep((320, 352, 384), seed=3)
    sizes = [size_of(step) for step in range(2000)]
    assert all(len(set(sizes[start : start + 10])) == 1 for start in range(0, 2000, 10))
    assert {size: sizes.count(size) for size in (320, 352, 384)} == pytest.approx(
        dict.fromkeys((320, 352, 384), 667), rel=0.2
    )
    assert [SizeOfStep((320, 352, 384), seed=4)(step) for step in range(2000)] != sizes


def test_batches_are_a_function_of_the_step(scenes):
    """Their size and mixture too; the last epoch is without mixup."""
    options = ("--train-sizes", "64", "96", "--mixup", "--mixup-off-epochs", "1", "--epochs", "12")
    made = job("--data", str(scenes), *options)
    made.open_data(ALONE, CPU, torch.float32)
    through = made.train_batches(0)
    batches = [next(through) for _ in range(24)]
    resumed = next(made.train_batches(13))
    made.close()
    assert all(torch.equal(tensor, resumed.tensors()[name]) for name, tensor in batches[13].tensors().items())
    sizes = [batch.images.shape[2] for batch in batches]
    assert len({*sizes[:10]}) == len({*sizes[10:20]}) == 1
    assert [bool((batch.weights < 1).any()) for batch in batches] == [True] * 22 + [False] * 2


@pytest.mark.parametrize(("fused", "precision"), [("--fused", "fp32"), ("--fused", "bf16"), ("--no-fused", "fp32")])
def test_steps_in_both_precisions(fused, precision, tmp_path):
    """And --weights has float32 weights, of as many pictures as were seen."""
    made = job(fused)
    made.recipe = replace(made.recipe, precision=precision)
    state = State(made, ALONE)
    batch = made.warm_up_batch(ALONE, CPU, state.dtype)
    losses = [state.step([batch], learning_rate=0.01).item() for _ in range(4)]
    assert losses[-1] < 0.95 * losses[0]
    path = tmp_path / "out.weights"
    made.write_weights(path)
    numbers = np.frombuffer(path.read_bytes(), "<f4", offset=20)
    assert np.frombuffer(path.read_bytes(), "<i8", 1, 12) == [4 * 4]
    first = state.networks["model"].backbone.first.conv.weight
    rounded = torch.from_numpy(numbers[4 * 4 :][: first.numel()].copy()).view(first.shape)
    assert torch.equal(rounded.to(first.dtype), first.detach())
    assert torch.equal(rounded, first.detach().float()) == (precision == "fp32")


def test_first_weights(tmp_path):
    """Darknet's, of the network and of its backbone, and those of a run of this project; others are named."""
    fitting = ("--num-classes", str(NUM_CLASSES), "--init-checkpoint")
    content = case()["weights"].numpy().tobytes()
    (tmp_path / "whole.weights").write_bytes(content)
    model = job(*fitting, str(tmp_path / "whole.weights")).build()["model"]
    assert model.backbone.first.norm.bias.tolist() == np.frombuffer(content, "<f4", 4, 20).tolist()
    numbers = sum(t.numel() for n, t in model.backbone.state_dict().items() if "num_batches" not in n)
    (tmp_path / "darknet53.conv.74").write_bytes(content[: 20 + 4 * numbers])
    part = job(*fitting, str(tmp_path / "darknet53.conv.74")).build()["model"]
    assert torch.equal(part.backbone.first.conv.weight, model.backbone.first.conv.weight)
    assert not torch.equal(part.fine.output.weight, model.fine.output.weight)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    again = job(*fitting, str(tmp_path / "model.safetensors")).build()["model"]
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(UserError, match=r"of this model: backbone.first.conv.weight must have shape \[6, 3, 3, 3\]"):
        job(*fitting, str(tmp_path / "model.safetensors"), "--widths", "6", "4", "4", "4", "8", "8").build()


def test_the_data_sets_classes_must_fit(scenes):
    with pytest.raises(UserError, match="--num-classes: must be at least the 10 of the data set, got 9"):
        job("--data", str(scenes), "--num-classes", "9").open_data(ALONE, CPU, torch.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image-size", "100"], "--image-size: must be multiples of 32 pixels, got 100"),
        (["--train-sizes", "320", "0"], "--train-sizes: must be multiples of 32 pixels, got 320 0"),
        (["--widths", "4", "4", "4", "4", "8", "7"], r"--widths: must be even from the second number on, got \(4, 4"),
        (["--blocks", "1", "1", "0", "1", "1"], r"--blocks: must be at least 1 in every stage, got \(1, 1, 0"),
        (["--anchors", "10", "13"], r"--anchors: must be 18 numbers above 0, nine pairs .*, got \(10.0, 13.0\)"),
        (["--jitter", "0.5"], r"--jitter: must be in \[0, 0.5\), got 0.5"),
        (["--expand", "0.5"], "--expand: must be at least 1, got 0.5"),
        (["--mixup-off-epochs", "99"], r"--mixup-off-epochs: must be in \[0, "),
        (["--label-smoothing", "0.5"], r"--label-smoothing: must be in \[0, 0.5\), got 0.5"),
        (["--warmup-epochs", "99"], r"--warmup-epochs: must be in \[0, "),
        (["--warmup-power", "-1"], "--warmup-power: must be at least 0, got -1"),
        (["--decay-epochs", "-1"], "--decay-epochs: must be at least 0, got "),
        (["--max-grad-norm", "0"], "--max-grad-norm: must be above 0, or None, got 0"),
        (["--nms-iou", "1.5"], r"--nms-iou: must be in \[0, 1\], got 1.5"),
        (["--num-classes", "0"], "--num-classes: must be at least 1, got 0"),
        (["--target", "mask_ap=0.5"], "--target: must be of box_ap, box_ap50, box_ap75, .*, got mask_ap"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        job(*options)
