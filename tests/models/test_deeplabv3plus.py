"""DeepLabv3+: names and outputs of VainF's network, its strides, its backbone's weights, its operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from known_weights import fill, picture
from torch.nn import functional as F

from airank_fast.models.deeplabv3plus import DeepLabV3Plus
from airank_fast.models.resnet import ResNet
from airank_fast.nn import BatchNormAct2d, PointwiseConv2d

EXPECTED = Path(__file__).with_name("deeplabv3plus_vainf.npz")


def small(**options) -> DeepLabV3Plus:
    torch.manual_seed(0)
    shape = {"blocks": (1, 1, 1, 1), "base_width": 4, "channels": 16, "low_level": 3, "rates": (1, 2, 3)}
    return DeepLabV3Plus(5, **(shape | options))


def test_outputs_are_those_of_vainfs_network():
    """Of deeplabv3plus_resnet50 in VainF/DeepLabV3Plus-Pytorch (commit 4e1087d) with 19 classes.

    The reference was filled by `known_weights.fill`, in which a weight follows from its name; of its output for
    `known_weights.picture()`, [19, 64, 96], the file has every eighth row and column, for both output strides.
    """
    state: dict[str, torch.Tensor] = {}
    for stride in (16, 8):
        with torch.device("meta"):
            model = DeepLabV3Plus(19, output_stride=stride, rates=tuple(rate * 16 // stride for rate in (6, 12, 18)))
        state = state or fill(model.to_empty(device="cpu")).state_dict()
        model.load_state_dict(state, assign=True)
        assert sum(p.numel() for p in model.parameters()) == 39_761_331
        with np.load(EXPECTED) as file:
            expected = torch.from_numpy(file[f"stride{stride}"])
        with torch.no_grad():
            logits = model.eval()(picture())
        assert logits.shape == (1, 19, 16, 24)
        found = F.interpolate(logits, (64, 96), mode="bilinear", align_corners=False)[0, :, ::8, ::8]
        scale = expected.std(dim=(1, 2)).mean().item()  # over the pixels of a class
        torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-4)


def test_the_backbone_takes_the_weights_of_a_resnet():
    torch.manual_seed(1)
    weights = ResNet((1, 1, 1, 1), 10, base_width=4).state_dict()
    backbone = {name: tensor for name, tensor in weights.items() if not name.startswith("fc.")}
    model = small()
    model.backbone.load_state_dict(backbone)
    assert torch.equal(model.backbone.layer4[0].conv2.weight, weights["layer4.0.conv2.weight"])


@pytest.mark.parametrize(("stride", "sizes"), [(16, (16, 8, 4, 4)), (8, (16, 8, 8, 8)), (32, (16, 8, 4, 2))])
def test_strides_become_dilations_as_in_torchvision(stride, sizes):
    """By replace_stride_with_dilation: the first block of a stage has the dilation of the stage before."""
    backbone = ResNet((2, 2, 2, 2), None, base_width=2, output_stride=stride)
    x = backbone.maxpool(backbone.bn1(backbone.conv1(torch.randn(2, 3, 64, 64))))
    dilations = []
    for stage, size in enumerate(sizes, 1):
        layer = getattr(backbone, f"layer{stage}")
        x = layer(x)
        assert x.shape[2] == size
        dilations += [block.conv2.dilation[0] for block in layer]
    assert dilations == {32: [1] * 8, 16: [1] * 7 + [2], 8: [1] * 5 + [2, 2, 4]}[stride]
    assert backbone.out_channels == x.shape[1] == 64


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 64), (70, 101)])
def test_logits_are_a_quarter_of_the_pictures_size(height, width):
    logits = small().eval()(torch.randn(1, 3, height, width))
    assert logits.shape == (1, 5, -(-height // 4), -(-width // 4))


@pytest.mark.parametrize("training", [True, False])
def test_the_fused_network_is_the_plain_one(training):
    """In float64, in which rounding moves no number across a ReLU's threshold."""
    images, results = torch.randn(3, 3, 64, 48, generator=torch.Generator().manual_seed(0)).double(), []
    for fused in (True, False):
        model = small(fused=fused, dropout=0.0).double().to(memory_format=torch.channels_last).train(training)
        assert any(isinstance(m, BatchNormAct2d | PointwiseConv2d) for m in model.modules()) == fused
        logits = model(images)
        logits.square().sum().backward()
        results.append([logits.detach(), *(p.grad for p in model.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * theirs.abs().max().item())


def test_a_stage_without_blocks_is_left_out():
    model = small(blocks=(1, 1, 1, 0))
    assert not list(model.backbone.layer4)
    assert model.backbone.out_channels == 64
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5, 16, 16)
