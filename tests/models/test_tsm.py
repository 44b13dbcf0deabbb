"""TSM: names, sizes and outputs of mit-han-lab's network, the meaning of the shift, and what it adds to a ResNet."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from airank_fast.models.resnet import ResNet
from airank_fast.models.tsm import TSM
from airank_fast.nn import TemporalShift
from airank_fast.recipes.checkpoints import load_into

LOGITS = Path(__file__).with_name("tsm_logits.json")


def uniform(name: str, shape, low: float, high: float) -> torch.Tensor:
    """Numbers that depend on the name alone: NumPy keeps Philox's raw words in every version."""
    words = np.random.Philox(key=zlib.crc32(name.encode())).random_raw(math.prod(shape)) >> np.uint64(11)
    return torch.from_numpy((low + (high - low) * words * 2.0**-53).astype(np.float32)).reshape(shape)


def filled(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state of these names and shapes: weights of variance 1 / fan-in, scales and variances around 1."""
    found = {}
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            found[name] = torch.zeros_like(tensor)
        elif tensor.ndim > 1:
            bound = (3 / tensor[0].numel()) ** 0.5
            found[name] = uniform(name, tensor.shape, -bound, bound)
        else:
            is_scale = name.endswith(("running_var", "weight"))
            found[name] = uniform(name, tensor.shape, *((0.5, 1.5) if is_scale else (-0.5, 0.5)))
    return found


@pytest.fixture(scope="module")
def whole():
    return TSM(400)


def test_parameters_have_mit_han_labs_names_and_shapes(whole):
    shapes = {f"base_model.{name}": p.shape for name, p in ResNet((3, 4, 6, 3)).named_parameters() if "fc." not in name}
    expected = {name.replace(".conv1.", ".conv1.net.") if "layer" in name else name: s for name, s in shapes.items()}
    expected |= {"new_fc.weight": (400, 2048), "new_fc.bias": (400,)}
    assert {name: p.shape for name, p in whole.named_parameters()} == expected
    assert "base_model.layer4.2.conv1.net.weight" in expected
    assert sum(p.numel() for p in whole.parameters()) == 24_327_632
    shifts = [module for module in whole.modules() if isinstance(module, TemporalShift)]
    assert [(each.num_segments, each.fold_div) for each in shifts] == [(8, 8)] * 16
    assert whole.new_fc.bias.abs().max() == 0
    assert whole.new_fc.weight.std().item() == pytest.approx(0.001, rel=0.05)


def test_a_checkpoint_of_mit_han_lab_gives_its_outputs(tmp_path):
    """Of two clips of 8 frames of 64 pixels, with the weights of `filled`, in evaluation.

    tsm_logits.json was made by mit-han-lab/temporal-shift-module's own code, ops/models.py and ops/temporal_shift.py:
    TSN(16, 8, "RGB", base_model="resnet50", dropout=0.5, is_shift=True, shift_div=8, shift_place="blockres") over a
    ResNet-50 in plain torch under torchvision's names, in float32 on a CPU.
    """
    model = TSM(16).eval()
    state = filled(model.state_dict())
    path = tmp_path / "TSM_kinetics_RGB_resnet50_shift8_blockres_avg_segment8_e50.pth"
    content = {"epoch": 50, "arch": "resnet50", "best_prec1": torch.tensor(71.0)}
    torch.save(content | {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    load_into(model, path, renamed=model.from_resnet)
    frames = uniform("frames", (16, 3, 64, 64), -2, 2)
    expected = torch.tensor(json.loads(LOGITS.read_text(encoding="utf-8")))
    with torch.inference_mode():
        torch.testing.assert_close(model(frames), expected, rtol=1e-4, atol=5e-4)
        in_order = model(frames.contiguous(memory_format=torch.channels_last))
        reversed_ = model(frames.unflatten(0, (2, 8)).flip(1).flatten(0, 1))
    torch.testing.assert_close(in_order, expected, rtol=1e-4, atol=5e-4)
    assert (reversed_ - expected).abs().max() > 0.1


def small(**options) -> TSM:
    torch.manual_seed(0)
    return TSM(5, num_segments=4, blocks=(1, 1, 1, 1), base_width=16, dropout=0.0, **options)


def frames_of(clips: int) -> torch.Tensor:
    images = torch.randn(4 * clips, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return images.contiguous(memory_format=torch.channels_last)


def test_clips_do_not_see_each_other():
    model, frames = small().eval(), frames_of(3)
    both = model(frames)
    alone = torch.cat([model(clip) for clip in frames.split(4)])
    assert both.shape == (3, 5)
    torch.testing.assert_close(both, alone)


@pytest.mark.parametrize("shift", [True, False])
def test_only_the_shift_makes_the_order_of_frames_matter(shift):
    model, frames = small(shift=shift).eval(), frames_of(2)
    torch.nn.init.normal_(model.new_fc.weight)
    reversed_ = frames.unflatten(0, (2, 4)).flip(1).flatten(0, 1)
    difference = (model(frames) - model(reversed_)).abs().max()
    assert (difference > 1e-2) if shift else (difference < 1e-5)


def test_the_fused_network_is_the_plain_one():
    fused, plain = small(), small(fused=False)
    plain.load_state_dict(fused.state_dict())
    for training in (True, False):
        ours, theirs = (model.train(training)(frames_of(2)) for model in (fused, plain))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("num_classes", [7, None])
def test_a_resnet_s_weights_under_torchvision_s_names_are_taken_without_the_last_layer(num_classes, tmp_path):
    resnet = ResNet((1, 1, 1, 1), num_classes, base_width=16)
    path = tmp_path / "resnet.pth"
    torch.save(filled(resnet.state_dict()), path)
    for shift in (True, False):
        model = small(shift=shift)
        own = model.new_fc.weight.clone()
        load_into(model, path, renamed=model.from_resnet)
        weights = {name.replace(".net.", "."): tensor for name, tensor in model.base_model.state_dict().items()}
        for name, tensor in filled(resnet.state_dict()).items():
            assert name.startswith("fc.") or torch.equal(weights[name], tensor)
        assert torch.equal(model.new_fc.weight, own)


def test_dropout_is_of_features_in_training_alone():
    torch.manual_seed(0)
    model = TSM(5, num_segments=4, blocks=(1, 1, 1, 1), base_width=16, dropout=0.5)
    features = torch.ones(1000, 512)
    dropped = model.base_model.fc(features)
    assert {*dropped.unique().tolist()} == {0.0, 2.0}
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(model.eval().base_model.fc(features), features)
