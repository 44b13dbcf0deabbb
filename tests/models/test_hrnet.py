"""HRNet: names and outputs of the official network, its exchange of features, its operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from known_weights import fill, picture
from torch.nn import functional as F

from airank_fast.models.hrnet import HighResolutionModule, HRNet
from airank_fast.nn import BatchNormAct2d, PointwiseConv2d

EXPECTED = Path(__file__).with_name("hrnet_official.npz")


def small(**options) -> HRNet:
    torch.manual_seed(0)
    return HRNet(5, **({"width": 2, "modules": (1, 1, 1), "num_blocks": 1, "stem": 4} | options))


def test_outputs_are_those_of_the_official_network():
    """Of W18 of HRNet/HRNet-Semantic-Segmentation (commit 0bbb288), seg_hrnet.py with 19 classes.

    Its configuration was that of W48 for Cityscapes with 18, 36, 72 and 144 channels. The reference was filled by
    `known_weights.fill`, in which a weight follows from its name; the file has every second row and column of its
    output for `known_weights.picture()`, [19, 16, 24].
    """
    with torch.device("meta"):
        model = HRNet(19)
    fill(model.to_empty(device="cpu"))
    with np.load(EXPECTED) as file:
        expected = torch.from_numpy(file["w18"])
    with torch.no_grad():
        found = model(picture())[0, :, ::2, ::2]
    scale = expected.std(dim=(1, 2)).mean().item()  # over the pixels of a class
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("width", "parameters"), [(18, 9_641_119), (48, 65_859_379)])
def test_names_and_sizes_are_the_official_ones(width, parameters):
    """The numbers of parameters and of tensors are those of the official network."""
    with torch.device("meta"):
        model = HRNet(19, width=width)
    state = model.state_dict()
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert len(state) == 1839
    shapes = {
        "conv2.weight": (64, 64, 3, 3),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "transition1.0.0.weight": (width, 256, 3, 3),
        "transition1.1.0.0.weight": (2 * width, 256, 3, 3),
        "transition3.3.0.0.weight": (8 * width, 4 * width, 3, 3),
        "stage2.0.branches.1.3.bn2.running_var": (2 * width,),
        "stage3.3.fuse_layers.0.2.0.weight": (width, 4 * width, 1, 1),
        "stage4.2.fuse_layers.3.0.1.0.weight": (width, width, 3, 3),
        "stage4.2.fuse_layers.3.0.2.0.weight": (8 * width, width, 3, 3),
        "last_layer.0.bias": (15 * width,),
        "last_layer.3.weight": (19, 15 * width, 1, 1),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


@pytest.mark.parametrize("fused", [True, False])
def test_each_resolution_gets_the_sum_over_all(fused):
    torch.manual_seed(0)
    module = HighResolutionModule((2, 4, 8), 1, fused=fused).eval()
    features = [torch.randn(1, 2 * 2**i, 12 // 2**i, 20 // 2**i) for i in range(3)]
    branches = [branch(x) for branch, x in zip(module.branches, features, strict=True)]
    for target, found in enumerate(module(features)):
        total = torch.zeros_like(features[target])
        for source, x in enumerate(branches):
            moved = x if source == target else module.fuse_layers[target][str(source)](x)
            total += F.interpolate(moved, total.shape[2:], mode="bilinear") if source > target else moved
        torch.testing.assert_close(found, total.relu())


@pytest.mark.parametrize(("height", "width"), [(32, 64), (70, 101)])
def test_logits_are_a_quarter_of_the_pictures_size(height, width):
    logits = small().eval()(torch.randn(1, 3, height, width))
    assert logits.shape == (1, 5, -(-height // 4), -(-width // 4))


@pytest.mark.parametrize("training", [True, False])
def test_the_fused_network_is_the_plain_one(training):
    """In float64, in which rounding moves no number across a ReLU's threshold."""
    images, results = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)).double(), []
    for fused in (True, False):
        model = small(fused=fused).double().to(memory_format=torch.channels_last).train(training)
        assert any(isinstance(m, BatchNormAct2d | PointwiseConv2d) for m in model.modules()) == fused
        torch.nn.init.constant_(model.last_layer[0].bias, 0.5)  # of a checkpoint
        logits = model(images)
        logits.square().sum().backward()
        results.append([logits.detach(), *(p.grad for p in model.parameters() if p.requires_grad)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * theirs.abs().max().item())
