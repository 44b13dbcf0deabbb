"""The networks of pix2pix and CycleGAN: names, sizes and outputs of junyanz's, their operators, and their losses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from known_weights import fill, uniform
from torch import nn
from torch.nn import functional as F

from airank_fast import processor
from airank_fast.engine.weights import place
from airank_fast.models.cyclegan import ResNetGenerator
from airank_fast.models.gan_layers import PatchGAN, adversarial_loss
from airank_fast.models.pix2pix import UNet
from airank_fast.nn import BatchNormAct2d, InstanceNormAct2d

EXPECTED = Path(__file__).with_name("gan_junyanz.npz")
NETWORKS = {  # class, its options, (C, H, W) of a picture, which rows and columns of the output are expected
    "unet": (UNet, {}, (3, 256, 256), (23, 23)),
    "resnet_9blocks": (ResNetGenerator, {}, (3, 64, 96), (7, 9)),
    "resnet_6blocks": (ResNetGenerator, {"blocks": 6}, (3, 64, 96), (7, 9)),
    "patchgan_batch": (PatchGAN, {"in_channels": 6, "norm": "batch"}, (6, 64, 96), (1, 1)),
    "patchgan_instance": (PatchGAN, {"in_channels": 3, "norm": "instance"}, (3, 64, 96), (1, 1)),
}
PARAMETERS = {  # as junyanz's program prints them, in millions, or counted
    "unet": 54_413_955,
    "resnet_9blocks": 11_378_179,
    "resnet_6blocks": 7_837_699,
    "patchgan_batch": 2_768_705,
    "patchgan_instance": 2_764_737,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_junyanzs_networks(name):
    """Of junyanz/pytorch-CycleGAN-and-pix2pix (networks.py, commit 000f298), whose layers were put behind one another
    in plain torch in the same order, with 8 channels in the first convolution.

    That reference was filled by `known_weights.fill`, in which a weight follows from its name; the file has every
    so-manieth row and column of its outputs in evaluation.
    """
    network, options, shape, (rows, columns) = NETWORKS[name]
    with torch.device("meta"):
        assert sum(p.numel() for p in network(**options).parameters()) == PARAMETERS[name]
    with np.load(EXPECTED) as file:
        expected = torch.from_numpy(file[name])
    picture = 0.9 * uniform("picture {} {} {}".format(*shape), (1, *shape))
    with torch.no_grad():
        output = fill(network(width=8, **options))(picture)
    torch.testing.assert_close(output[0, :, ::rows, ::columns].reshape(expected.shape), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["unet", "resnet_6blocks", "patchgan_batch", "patchgan_instance"])
def test_the_fused_network_is_the_plain_one(name):
    """In training, in float64, in which rounding moves no number across a ReLU's threshold."""
    network, options, (channels, *_), _ = NETWORKS[name]
    options |= {"levels": 5} if network is UNet else {}
    results, kinds = [], []
    for fused in (True, False):
        torch.manual_seed(0)
        model = network(width=4, fused=fused, **options).double().to(memory_format=torch.channels_last)
        kinds.append(any(isinstance(m, BatchNormAct2d | InstanceNormAct2d) for m in model.modules()))
        picture = uniform("picture", (2, channels, 32, 32)).double().requires_grad_()
        output = model(picture)
        (output * uniform("weights", output.shape)).sum().backward()
        results.append([output.detach(), picture.grad, *(p.grad for p in model.parameters())])
        results[-1] += [buffer.double() for buffer in model.buffers()]
    assert kinds == [True, False]
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_first_weights():
    for model in (UNet(width=16), ResNetGenerator(width=16), PatchGAN(6, 16, norm="batch")):
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight.numel() > 4000:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
            if isinstance(module, nn.BatchNorm2d):
                assert module.weight.mean().item() == pytest.approx(1, abs=0.02)
            if getattr(module, "bias", None) is not None:
                assert not module.bias.any()


def test_levels_and_dropout_of_a_unet():
    """Dropout is in the levels behind the fourth, but for the last, in training alone."""
    with torch.device("meta"):
        places = {n: [k for k, m in UNet(levels=n).named_modules() if isinstance(m, nn.Dropout)] for n in (5, 6, 8)}
        assert UNet(levels=5).model.model[1].model[3].model[3].model[3].is_last
    assert {levels: len(found) for levels, found in places.items()} == {5: 0, 6: 1, 8: 3}
    assert all(name.endswith("model.7") for found in places.values() for name in found)
    model = UNet(width=2, levels=6)
    picture = torch.randn(2, 3, 64, 64)
    assert not torch.equal(model(picture), model(picture))
    model.eval()
    assert torch.equal(model(picture), model(picture))


def test_a_block_with_dropout_has_other_numbers():
    names = [set(dict(ResNetGenerator(width=4, blocks=1, dropout=p).named_parameters())) for p in (0.0, 0.5)]
    numbers = [sorted(n.split(".")[3] for n in found if "conv_block" in n and n.endswith("weight")) for found in names]
    assert numbers == [["1", "5"], ["1", "6"]]


def test_adversarial_losses_by_their_definition():
    logits = torch.tensor([[-2.0, 0.5], [3.0, 100.0]]).view(1, 1, 2, 2)
    for is_real in (True, False):
        target = torch.full_like(logits, float(is_real))
        squares = adversarial_loss(logits.bfloat16(), is_real, "least_squares")
        assert squares.dtype == torch.float32
        torch.testing.assert_close(squares, F.mse_loss(logits, target))
        entropy = adversarial_loss(logits, is_real, "bce")
        torch.testing.assert_close(entropy, F.binary_cross_entropy_with_logits(logits, target))


@pytest.mark.parametrize(
    ("instructions", "device", "width", "expected"),
    [
        ("AVX2", "cpu", 64, torch.contiguous_format),
        ("AVX2", "cpu", 8, torch.channels_last),
        ("AVX512", "cpu", 64, torch.channels_last),
        ("AVX2", "cuda", 64, torch.channels_last),
    ],
)
def test_networks_with_batch_norm_are_contiguous_where_that_is_faster(
    monkeypatch, instructions, device, width, expected
):
    monkeypatch.setattr(processor, "instruction_set", lambda: instructions)
    for network in (UNet(3, 3, width, 2), PatchGAN(6, width, 1, norm="batch")):
        assert network.layout(torch.device(device)) == expected
    assert UNet(3, 3, width, 2, fused=False).layout(torch.device(device)) == torch.channels_last
    assert PatchGAN(3, width, 1, norm="instance").layout(torch.device(device)) == torch.channels_last


def test_both_layouts_have_the_same_values_and_gradients(monkeypatch):
    pictures = torch.randn(2, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    found = []
    for instructions in ("AVX2", "AVX512"):
        monkeypatch.setattr(processor, "instruction_set", lambda name=instructions: name)
        torch.manual_seed(0)
        network = place(UNet(3, 3, 64, 3), "fp32", torch.device("cpu"))
        made = network(pictures)
        assert made.is_contiguous() == (instructions == "AVX2")
        found.append([made, *torch.autograd.grad(made.square().sum(), [*network.parameters()])])
        found[-1] += [norm.running_var for norm in network.modules() if isinstance(norm, nn.BatchNorm2d)]
    for got, want in zip(*found, strict=True):
        assert (got - want).norm() <= 1e-4 * want.norm()
