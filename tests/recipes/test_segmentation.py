"""Segmentation's jobs: recipes by data, options, optimizers, initial weights, the form of batches."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from data.label_files import write_list, write_tree
from safetensors.torch import save_file

from airank_fast.engine.distributed import World
from airank_fast.engine.state import State
from airank_fast.errors import UserError
from airank_fast.models.hrnet import HRNet
from airank_fast.models.resnet import ResNet
from airank_fast.recipes import deeplabv3plus, hrnet
from airank_fast.recipes.command_line import parse, resolve

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, 1, CPU)
SMALL = ("--num-classes", "5", "--crop-height", "32", "--crop-width", "48", "--batch-size", "4")
TINY = {
    "deeplabv3plus": (
        "--blocks=1-1-1-1",
        "--width=4",
        "--decoder-width=8",
        "--shortcut-width=4",
        "--rates=1-2-3",
    ),
    "hrnet": ("--width=2", "--modules=1-1-1", "--blocks=1", "--stem=4"),
}


def job(*options: str, name: str = "deeplabv3plus") -> deeplabv3plus.Job | hrnet.Job:
    """A tiny network for crops of 32 x 48 pixels and 5 classes."""
    request = parse([name, *SMALL, *TINY[name], *options])
    return JOBS[name](resolve(request, "fp32", 1), request.options)


JOBS = {"deeplabv3plus": deeplabv3plus.Job, "hrnet": hrnet.Job}
NAMES = pytest.mark.parametrize("name", JOBS)


@NAMES
def test_the_recipe_by_data(name, tmp_path):
    embedded = resolve(parse([name]), "fp32", 1)
    assert (embedded.name, embedded.num_classes, embedded.crop_height) == ("digit_objects", 11, 96)
    write_tree(tmp_path)
    request = parse([name, "--data", str(tmp_path)])
    recipe = resolve(request, "fp32", 1)
    assert (recipe.name, recipe.num_classes, recipe.crop_height, recipe.crop_width) == ("cityscapes", 19, 512, 1024)
    assert recipe.target == {"deeplabv3plus": 0.785, "hrnet": 0.78}[name]
    assert JOBS[name](embedded, request.options).benchmark == f"{name}_mini"
    assert JOBS[name](recipe, request.options).benchmark == {"hrnet": "hrnet_w18"}.get(name, name)


@NAMES
def test_a_warm_up_batch_has_the_form_of_a_real_one(name, tmp_path):
    path = write_list(tmp_path, 5)
    made = job("--data", str(path), "--eval-data", str(path), "--workers", "1", name=name)
    data = made.open_data(ALONE, CPU, torch.float32)
    batch = next(iter(made.train_batches(0)))
    made.close()
    noise = made.warm_up_batch(ALONE, CPU, torch.float32)
    assert (data["train_samples"], data["eval_samples"], data["classes"]) == (5, 5, 5)
    assert noise.num_samples == batch.num_samples == 4
    for key, tensor in batch.tensors().items():
        found = noise.tensors()[key]
        assert (found.dtype, found.shape, found.stride()) == (tensor.dtype, tensor.shape, tensor.stride()), key
    model = made.build()["model"]
    assert torch.isfinite(made.loss(model, noise))
    assert made.predict({"model": model}, noise).shape == noise.labels.shape


@NAMES
@pytest.mark.parametrize(("optimizer", "precision"), [("sgd", "fp32"), ("adamw", "bf16")])
def test_steps_in_both_precisions(name, precision, optimizer):
    made = job("--optimizer", optimizer, name=name)
    made.recipe = replace(made.recipe, precision=precision)
    state = State(made, ALONE)
    weight = next(p for p in state.networks["model"].parameters() if p.ndim == 4)
    assert weight.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    decays = [group["weight_decay"] for group in state.optimizers[0].param_groups]
    assert decays == [made.recipe.weight_decay, 0.0]
    batch = made.warm_up_batch(ALONE, CPU, state.dtype)
    batch.labels.fill_(3)
    losses = [state.step([batch], learning_rate=0.02).item() for _ in range(12)]
    assert losses[-1] < losses[0] / 2


@NAMES
@pytest.mark.parametrize(("optimizer", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_without_fused_operators_all_is_torchs_own(name, optimizer, kind):
    """Modules, loss and optimizer: the same steps, within the rounding of a few."""
    states = [State(job("--optimizer", optimizer, fused, name=name), ALONE) for fused in ("--fused", "--no-fused")]
    batch = states[0].job.warm_up_batch(ALONE, CPU, torch.float32)
    batch.labels.fill_(3)
    losses = [[state.step([batch], learning_rate=1e-3).item() for _ in range(3)] for state in states]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0][2] < losses[0][0]
    (optimizer,) = states[1].optimizers
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [states[1].job.recipe.weight_decay, 0.0]
    rooms = [{type(m).__module__.rpartition(".")[0] for m in state.networks["model"].modules()} for state in states]
    assert ["airank_fast.nn" in of_network for of_network in rooms] == [True, False]


def test_the_backbone_of_a_run_of_resnet50_and_its_origin_in_the_log(tmp_path):
    """The tensors of the classifier are left out; the run's recipe and quality stand beside the checksum."""
    torch.manual_seed(3)
    weights = ResNet((1, 1, 1, 1), 10, base_width=4).state_dict()
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000007"
    checkpoint.mkdir(parents=True)
    save_file(weights, checkpoint / "model.safetensors")
    summary = {"benchmark": "resnet50", "best_accuracy": 0.761, "epochs": 40, "steps": 7}
    (tmp_path / "run" / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "run" / "recipe.json").write_text('{"seed": 3}')
    path = write_list(tmp_path, 4)
    made = job("--init-checkpoint", str(checkpoint), "--data", str(path), "--eval-data", str(path))
    backbone = made.build()["model"].backbone.state_dict()
    assert weights.keys() - backbone.keys() == {"fc.weight", "fc.bias"}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in backbone.items())
    logged = made.open_data(ALONE, CPU, torch.float32)["init_checkpoint"]
    assert logged["file"] == str(checkpoint / "model.safetensors")
    assert len(logged["sha256"]) == 64
    assert logged["recipe.json"] == {"seed": 3}
    assert logged["summary.json"] == {"benchmark": "resnet50", "best_accuracy": 0.761, "epochs": 40}


def test_hrnet_begins_with_a_checkpoint_of_imagenet_but_for_its_last_layer(tmp_path):
    """Official ones have other last layers, of which HRNet for segmentation has none."""
    torch.manual_seed(3)
    model = HRNet(5, width=2, modules=(1, 1, 1), num_blocks=1, stem=4)
    weights = {name: tensor + 1 for name, tensor in model.state_dict().items() if not name.startswith("last_layer.")}
    others = {"incre_modules.0.0.conv1.weight": torch.ones(1), "classifier.bias": torch.ones(3)}
    wrapped = {f"module.{name}": tensor for name, tensor in (weights | others).items()}
    torch.save({"state_dict": wrapped}, tmp_path / "w")
    state = job("--init-checkpoint", str(tmp_path / "w"), name="hrnet").build()["model"].state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in weights.items())
    assert len(state) == len(weights) + 9
    del weights["stage2.0.branches.0.0.conv1.weight"]
    torch.save(weights, tmp_path / "w")
    with pytest.raises(UserError, match=r"stage2.0.branches.0.0.conv1.weight is missing"):
        job("--init-checkpoint", str(tmp_path / "w"), name="hrnet").build()


def wrapped(state: dict, wrapper: str, prefix: str = "", **others: torch.Tensor) -> dict:
    """A checkpoint as other programs write it, with tensors of other parts and other things beside."""
    named = {f"module.{prefix}{name}": tensor for name, tensor in state.items()}
    return {wrapper: named | others, "cur_itrs": 30_000, "best_score": np.float64(0.77)}


CHECKPOINTS = {
    "VainF's": ("deeplabv3plus", {"wrapper": "model_state"}),
    "ours": ("deeplabv3plus", {"wrapper": "model"}),
    "HRNet's": (
        "hrnet",
        {"wrapper": "state_dict", "prefix": "model.", "module.loss.criterion.weight": torch.ones(5)},
    ),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_checkpoint_of_the_whole_network(kind, tmp_path):
    """With its last layer; that of HRNet-Semantic-Segmentation is of a network and its loss."""
    name, form = CHECKPOINTS[kind]
    state = {key: tensor + 1 for key, tensor in job(name=name).build()["model"].state_dict().items()}
    torch.save(wrapped(state, **form), tmp_path / "whole.pth")
    found = job("--init-checkpoint", str(tmp_path / "whole.pth"), name=name).build()["model"].state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in state.items())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda weights: weights.pop("layer2.0.bn1.bias"), "backbone.layer2.0.bn1.bias is missing"),
        (lambda weights: weights.update(conv9=torch.ones(1)), "backbone.conv9 is not one of its tensors"),
    ],
)
def test_weights_of_another_backbone(spoil, message, tmp_path):
    weights = ResNet((1, 1, 1, 1), 10, base_width=4).state_dict()
    spoil(weights)
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=f"must have weights of this model: {message}"):
        job("--init-checkpoint", str(tmp_path / "weights.safetensors")).build()


def test_one_picture_of_each_rank_has_no_statistics_of_its_own(monkeypatch):
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 4)
    with pytest.raises(UserError, match=r"--batch-size: must be at least 2 pictures of each rank .* got 1"):
        job("--no-fused").build()


def test_a_list_that_is_missing(tmp_path):
    made = job("--data", str(tmp_path / "typo.txt"), "--eval-data", __file__)
    with pytest.raises(UserError, match=r"typo.txt: must be Cityscapes' tree .* or a list .*, got no such path"):
        made.open_data(ALONE, CPU, torch.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--blocks", "3-4-6"], "--blocks: must be 4 numbers, as 3-4-6-3, got '3-4-6'"),
        (["--blocks", "0-1-1-1"], "--blocks: must be of at least 1 in the first stage, got '0-1-1-1'"),
        (["--rates", "1-2-x"], "--rates: must be 3 numbers, as 6-12-18, got '1-2-x'"),
        (["--rates", "0-1-2"], "--rates: must be of at least 1, got '0-1-2'"),
        (["--width", "0"], "--width: must be at least 1, got 0"),
        (["--dropout", "1"], r"--dropout: must be in \[0, 1\), got 1"),
        (["--num-classes", "255"], r"--num-classes: must be in \[2, 254\], got 255"),
        (["--min-scale", "0"], "--min-scale: must be above 0, got 0"),
        (["--min-scale", "2"], "--max-scale: must be at least 2.0, got 1.0"),
        (["--warmup-steps", "9999"], r"--warmup-steps: must be in \[0, "),
        (["--momentum", "-1"], "--momentum: must be at least 0, got -1"),
        (["--batch-size", "1"], "--batch-size: must be at least 2 pictures at a time, for batch norm, got 1"),
        (["--eval-data", "x"], "--eval-data: must be left out without a list as --data, got x"),
        (["--data", __file__], "--eval-data: must be a list to evaluate on, with a list as --data, got none"),
        (["--data", __file__, "--eval-data", "x"], "--eval-data: must be a list, as --data, got x, which is no file"),
        (["--target", "mean_iou=2"], r"--target: must be a fraction in \(0, 1\], got 2"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        job(*options)
