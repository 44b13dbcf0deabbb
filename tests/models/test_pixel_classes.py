"""The loss and the classes of pixels, by their definition: the same over any parts of a batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from airank_fast.models.pixel_classes import pixel_classes, pixel_loss

both = pytest.mark.parametrize("fused", [True, False])


def logits_and_labels():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (3, 14, 18), generator=generator).to(torch.uint8)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = 255
    return torch.randn(3, 4, 5, 6, generator=generator), labels


@both
def test_the_loss_is_cross_entropy_of_enlarged_logits_over_all_pixels(fused):
    logits, labels = logits_and_labels()
    enlarged = F.interpolate(logits, (14, 18), mode="bilinear", align_corners=False).double().log_softmax(1)
    total = -sum(
        enlarged[n, int(labels[n, y, x]), y, x].item()
        for n in range(3)
        for y in range(14)
        for x in range(18)
        if labels[n, y, x] != 255
    )
    loss = pixel_loss(logits, labels, fused=fused)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(total / labels.numel(), rel=1e-5)
    assert pixel_loss(logits.bfloat16(), labels, fused=fused).item() == pytest.approx(loss.item(), rel=0.02)


@both
def test_the_mean_over_parts_is_the_loss_of_the_whole(fused):
    """Although they have different numbers of labelled pixels."""
    logits, labels = logits_and_labels()
    parts = [pixel_loss(logits[n : n + 1], labels[n : n + 1], fused=fused) for n in range(3)]
    assert pixel_loss(logits, labels, fused=fused).item() == pytest.approx(
        sum(part.item() for part in parts) / 3, rel=1e-6
    )


@both
def test_a_crop_without_labels_has_no_loss_and_no_gradient(fused):
    logits, labels = logits_and_labels()
    logits.requires_grad_()
    loss = pixel_loss(logits, torch.full_like(labels, 255), fused=fused)
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()
    assert math.isfinite(loss.item())


@both
def test_classes_are_those_of_the_enlarged_logits(fused):
    logits, _ = logits_and_labels()
    found = pixel_classes(logits, (10, 12), fused=fused)
    assert found.shape == (3, 10, 12)
    assert torch.equal(found, F.interpolate(logits, scale_factor=2, mode="bilinear").argmax(1))
