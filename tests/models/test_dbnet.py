"""DBNet: names and outputs of MhLiao's network, its operators, and its loss by its definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from known_weights import fill, picture
from torch.nn import functional as F

from airank_fast.models.dbnet import DBNet, db_loss
from airank_fast.models.resnet import BasicBlock, Bottleneck
from airank_fast.nn import BatchNormAct2d, PointwiseConv2d

EXPECTED = Path(__file__).with_name("dbnet_mhliao.npz")
SIZES = {"resnet18": (BasicBlock, (2, 2, 2, 2), 12_340_930), "resnet50": (Bottleneck, (3, 4, 6, 3), 25_409_730)}
UNUSED = {"fc.weight": (1000, 512), "fc.bias": (1000,), "smooth.weight": (256, 2048, 1, 1), "smooth.bias": (256,)}


def small(**options) -> DBNet:
    torch.manual_seed(0)
    return DBNet(*options.pop("shape", (BasicBlock, (1, 1, 1, 1))), base_width=8, channels=16, **options)


@pytest.mark.parametrize("name", SIZES)
def test_outputs_are_those_of_mhliaos_network(name):
    """Of MhLiao/DB (commits 57a71d3 and 39ba48f), whose seg_detector.py and resnet.py were followed layer by layer in
    plain torch: backbones resnet18 and resnet50, SegDetector(adaptive=True, k=50) with 256 channels.

    That reference was filled by `known_weights.fill`, in which a weight follows from its name; of the outputs for
    `known_weights.picture()`, before the sigmoids, the file has every fifth row and column: [2, 13, 20].
    """
    block, blocks, number = SIZES[name]
    with torch.device("meta"):
        model = DBNet(block, blocks)
    assert sum(p.numel() for p in model.parameters()) == number
    state = fill(model.to_empty(device="cpu")).state_dict()
    with torch.device("meta"):
        model = DBNet(block, blocks)
    wrapped = {f"model.module.{key}": tensor for key, tensor in state.items()}
    wrapped |= {f"model.module.backbone.{key}": torch.ones(shape) for key, shape in UNUSED.items()}
    model.load_state_dict(wrapped, assign=True)
    with np.load(EXPECTED) as file:
        expected = torch.from_numpy(file[name])
    with torch.no_grad():
        model.eval()
        model.decoder.training = True  # the threshold too, by the known statistics
        logits = model(picture())
    assert logits.shape == (1, 2, 64, 96)
    scale = expected.std().item()
    torch.testing.assert_close(logits[0, :, ::5, ::5] / scale, expected / scale, rtol=0, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(model.eval()(picture()), logits[:, :1])


@pytest.mark.parametrize("shape", [(BasicBlock, (1, 2, 1, 1)), (Bottleneck, (1, 1, 1, 1))], ids=["basic", "bottleneck"])
@pytest.mark.parametrize("training", [True, False])
def test_the_fused_network_is_the_plain_one(training, shape):
    """In float64, in which rounding moves no number across a ReLU's threshold."""
    images, results = torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(0)).double(), []
    for fused in (True, False):
        model = small(fused=fused, shape=shape).double().to(memory_format=torch.channels_last).train(training)
        assert any(isinstance(m, BatchNormAct2d | PointwiseConv2d) for m in model.modules()) == fused
        logits = model(images)
        logits.square().sum().backward()
        results.append([logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * theirs.abs().max().item())


def test_what_is_trained():
    """All but the biases in front of batch norms."""
    model = small()
    db_loss(model(torch.randn(2, 3, 64, 64)), maps_of(2, 64, 64)).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without == {"decoder.binarize.3.bias", "decoder.thresh.3.bias"}


def maps_of(num: int, height: int, width: int) -> torch.Tensor:
    """Maps by chance: some text, some that does not count, thresholds in a part."""
    rng = np.random.default_rng(0)
    text, counted, near = (rng.random((num, height, width)) < share for share in (0.1, 0.8, 0.3))
    maps = np.stack([text, counted, rng.integers(0, 256, text.shape) * near, near], 1)
    return torch.from_numpy(maps.astype(np.uint8))


def by_definition(logits: torch.Tensor, maps: torch.Tensor) -> float:
    """The loss of one picture, pixel by pixel where it matters."""
    text_logits, threshold_logits = logits.double()
    text, counted, level, near = maps.double()
    p, t = text_logits.sigmoid(), threshold_logits.sigmoid()
    entropy = -(text * p.log() + (1 - text) * (1 - p).log())
    positive = entropy[(text == 1) & (counted == 1)].tolist()
    negative = sorted(entropy[(text == 0) & (counted == 1)].tolist(), reverse=True)
    kept = negative[: 3 * len(positive)] if positive else negative[: round(0.01 * text.numel())]
    text_loss = (sum(positive) + sum(kept)) / (len(positive) + len(kept))
    target = 0.3 + 0.4 * level / 255
    threshold_loss = ((t - target).abs() * near).sum().item() / max(1, near.sum().item())
    binary = 1 / (1 + torch.exp(-50 * (p - t)))
    shared = (binary * text * counted).sum()
    dice = 1 - 2 * shared / ((binary * counted).sum() + (text * counted).sum())
    return 5 * text_loss + 10 * threshold_loss + dice.item()


def test_the_loss_by_its_definition():
    """Of each picture alone: one without texts, and one of which little counts, are among them."""
    maps = maps_of(4, 20, 24)
    maps[2, 0] = maps[2, 2:] = 0
    maps[3, 1] = 0
    maps[3, 1, :4] = 1
    logits = torch.randn(4, 2, 20, 24, generator=torch.Generator().manual_seed(1))
    each = [by_definition(*picture) for picture in zip(logits, maps, strict=True)]
    loss = db_loss(logits, maps)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(sum(each) / 4, rel=1e-5)
    halves = [db_loss(logits[part], maps[part]).item() for part in (slice(2), slice(2, 4))]
    assert sum(halves) / 2 == pytest.approx(loss.item(), rel=1e-6)
    assert db_loss(logits.bfloat16(), maps).item() == pytest.approx(loss.item(), rel=0.02)


def test_pixels_that_do_not_count_have_no_gradient():
    maps = maps_of(1, 16, 16)
    maps[:, 1, :, 8:] = 0
    maps[:, 3] = 0
    logits = torch.randn(1, 2, 16, 16, requires_grad=True)
    db_loss(logits, maps).backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[..., 8:] == 0).all()
    assert (logits.grad[:, 0, :, :8] != 0).any()


def test_nothing_counts():
    """A loss that is finite and teaches nothing."""
    logits = torch.randn(2, 2, 16, 16, requires_grad=True)
    loss = db_loss(logits, torch.zeros(2, 4, 16, 16, dtype=torch.uint8))
    loss.backward()
    assert torch.isfinite(loss)
    assert (logits.grad == 0).all()


def test_extreme_logits_have_a_finite_loss():
    for value in (-100.0, 100.0):
        logits = torch.full((1, 2, 16, 16), value, requires_grad=True)
        loss = db_loss(logits, maps_of(1, 16, 16))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()


def test_enlarging_is_by_the_nearest_pixel():
    x, other = torch.randn(1, 16, 8, 12), torch.randn(1, 16, 4, 6)
    expected = x + F.interpolate(other, scale_factor=2, mode="nearest")
    for fused in (True, False):
        torch.testing.assert_close(small(fused=fused).decoder.sum(x, other), expected)
