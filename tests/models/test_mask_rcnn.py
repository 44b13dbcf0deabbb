"""Mask R-CNN: names, detections and losses of torchvision's network, and what holds for any weights."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from known_weights import fill, picture

from airank_fast.models import roi_heads
from airank_fast.models.mask_rcnn import MaskRCNN
from airank_fast.models.roi_heads import Detections, RoIOptions
from airank_fast.models.rpn import RPNOptions, Truths
from airank_fast.nn import BatchNormAct2d, FrozenBatchNormAct2d, roi_align

EXPECTED = Path(__file__).with_name("mask_rcnn_torchvision.npz")
SIZES = torch.tensor([[64.0, 96.0], [50.0, 70.0]])


@pytest.fixture(scope="module")
def expected():
    """Of torchvision 0.29.1 in float64: its MaskRCNN with a ResNet of one Bottleneck per stage and narrow heads.

    It was filled by `known_weights.fill`, in which a weight follows from its name, but for the bias of the classes,
    with which no class is likely everywhere. It was given `batch()` behind its transform. Its samplers took what
    `balanced_samples` takes for these keys. "state" are names and shapes of maskrcnn_resnet50_fpn.
    """
    with np.load(EXPECTED) as file:
        return {name: torch.from_numpy(file[name]) if name != "state" else file[name].tolist() for name in file.files}


def batch() -> torch.Tensor:
    """Two pictures, [2, 3, 64, 96]; the second one is smaller."""
    images = torch.cat([picture(), picture().flip(3)])
    images[1, :, 50:] = 0
    images[1, :, :, 70:] = 0
    return images


def narrow(**options) -> MaskRCNN:
    """As the reference; only the backbone has torchvision's widths."""
    return MaskRCNN(
        5,
        **{
            "blocks": (1, 1, 1, 1),
            "channels": 16,
            "box_width": 32,
            "mask_widths": (16, 16),
            "rpn": RPNOptions((8, 16, 32, 64, 128), before_nms=(60, 60), after_nms=(50, 40), samples=64),
            "roi": RoIOptions(canonical_size=56, samples=32, detections=20),
        }
        | options,
    )


@pytest.fixture(scope="module")
def reference(expected) -> MaskRCNN:
    """With the weights of the reference; tests must not change them."""
    with torch.device("meta"):
        model = narrow()
    model = fill(model.to_empty(device="cpu")).to(memory_format=torch.channels_last)
    model.roi_heads.box_predictor.cls_score.bias.data.copy_(expected["cls_score_bias"])
    return model


def small(**options) -> MaskRCNN:
    torch.manual_seed(0)
    return narrow(**{"base_width": 4, "roi": RoIOptions(canonical_size=56, samples=32, min_score=0.1)} | options)


def ellipse(box: torch.Tensor) -> torch.Tensor:
    """The pixels whose centres are in the ellipse that a box contains: float32 [64, 96]."""
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(96) + 0.5, indexing="ij")
    (left, top), (right, bottom) = box[:2].tolist(), box[2:].tolist()
    across, down = (2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top)
    return (across**2 + down**2 <= 1).float()


def truths(*numbers: int) -> Truths:
    """The first of these numbers of objects for each picture."""
    boxes = (
        torch.tensor([[8, 6, 44, 40], [30, 20, 90, 60], [50, 2, 70, 18]]).float(),
        torch.tensor([[10.0, 12, 50, 44]]),
    )
    labels = torch.tensor([1, 3, 4]), torch.tensor([2])
    shown, known = (
        torch.cat([each[:number] for each, number in zip(both, numbers, strict=True)]) for both in (boxes, labels)
    )
    masks = torch.stack([ellipse(box) for box in shown])[:, None] if len(shown) else torch.zeros(1, 1, 64, 96)

    def targets(regions: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
        return roi_align(masks, torch.cat([objects[:, None].float(), regions], 1), 28)[:, 0]

    offsets = torch.tensor([0, *numbers]).cumsum(0)
    return Truths(shown, known, numbers, offsets, torch.tensor([11, 2**40 + 7]), targets)


def test_detections_are_torchvisions(expected, reference):
    model = reference.eval()
    with torch.no_grad():
        images = batch()
        proposals, losses = model.rpn(images, model.backbone(images), SIZES)
        found = model(images, SIZES)
    assert losses == {}
    assert proposals.there.sum(1).tolist() == expected["proposal_splits"].tolist()
    torch.testing.assert_close(proposals.boxes[proposals.there], expected["proposals"], rtol=1e-4, atol=1e-3)
    assert isinstance(found, Detections)
    assert found.splits == tuple(expected["splits"].tolist())
    assert found.labels.tolist() == expected["labels"].tolist()
    assert set(found.labels.tolist()) == {1, 2, 3, 4}
    torch.testing.assert_close(found.boxes, expected["boxes"], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.scores, expected["scores"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.masks[:, ::3, ::3], expected["masks"], rtol=1e-4, atol=1e-5)


def test_losses_and_gradients_are_torchvisions(expected, reference):
    model = reference.train()
    losses = model(batch(), SIZES, truths(3, 1))
    theirs = {
        "objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "classifier": "loss_classifier",
        "box": "loss_box_reg",
        "mask": "loss_mask",
    }
    assert losses.keys() == theirs.keys()
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[theirs[name]], rtol=1e-4, atol=0)
    sum(losses.values()).backward()
    gradients = {name.removeprefix("grad "): norm for name, norm in expected.items() if name.startswith("grad ")}
    assert len(gradients) == 6
    for name, norm in gradients.items():
        torch.testing.assert_close(model.get_parameter(name).grad.norm(), norm, rtol=1e-3, atol=0)


def test_names_and_shapes_are_torchvisions(expected):
    """Those of maskrcnn_resnet50_fpn with 91 classes, and of its file of COCO weights, which is older than 0.13."""
    with torch.device("meta"):
        model = MaskRCNN()
        state = {}
        for line in expected["state"]:
            name, *shape = line.split()
            state[name] = torch.empty(tuple(map(int, shape)))
    assert len(state) == 307
    assert sum(p.numel() for p in model.parameters()) == 44_401_393
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == {
        name: tensor.shape for name, tensor in state.items()
    }
    old = {}
    for name, tensor in state.items():
        flat = re.sub(r"(_blocks\.\d)\.0\.", r"\1.", name).replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        flat = re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", flat)
        old[flat] = tensor
    assert len(old.keys() - state.keys()) == 2 * (4 + 4 + 1 + 4)
    for weights in (state, old):
        model.load_state_dict(weights, assign=True)


def test_old_names_are_the_same_weights():
    model, other = small(), small()
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    for new, flat in (
        ("backbone.fpn.layer_blocks.2.0", "backbone.fpn.layer_blocks.2"),
        ("rpn.head.conv.0.0", "rpn.head.conv"),
        ("roi_heads.mask_head.1.0", "roi_heads.mask_head.mask_fcn2"),
    ):
        state[f"{flat}.weight"] = state.pop(f"{new}.weight")
    other.load_state_dict(state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor + 1), name


def test_what_is_frozen():
    model = small()
    fixed = {name.split(".")[2] for name, p in model.named_parameters() if not p.requires_grad}
    assert fixed == {"conv1", "layer1"}
    assert not any(isinstance(module, BatchNormAct2d) for module in model.modules())
    assert {module.eps for module in model.modules() if isinstance(module, FrozenBatchNormAct2d)} == {1e-5}
    other = small(frozen_stages=0, frozen_norm_eps=None)
    assert all(p.requires_grad for p in other.parameters())
    assert any(isinstance(module, BatchNormAct2d) for module in other.modules())
    exact = small(frozen_stages=5, frozen_norm_eps=0.0)
    assert not any(p.requires_grad for p in exact.backbone.body.parameters())
    assert {module.eps for module in exact.modules() if isinstance(module, FrozenBatchNormAct2d)} == {0.0}
    with pytest.raises(ValueError, match="frozen_stages must be from 0 to 5, got 6"):
        small(frozen_stages=6)


@pytest.mark.parametrize("numbers", [(0, 1), (0, 0)])
def test_pictures_without_objects(numbers):
    """They are background; where there are no others, boxes and masks learn nothing, and every gradient is there."""
    model = small(frozen_stages=0).train()
    losses = model(batch(), SIZES, truths(*numbers))
    assert all(loss.isfinite() for loss in losses.values())
    assert losses["objectness"] > 0
    assert losses["classifier"] > 0
    assert all((losses[name] > 0) == any(numbers) for name in ("rpn_box", "box", "mask"))
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert (model.rpn.head.bbox_pred.weight.grad.abs().sum() > 0) == any(numbers)


def test_masks_of_a_fixed_number_have_the_same_loss(monkeypatch):
    """As on a device whose results the host does not wait for."""
    results = []
    for is_known in (True, False):
        monkeypatch.setattr(roi_heads, "_number_is_known", lambda _, is_known=is_known: is_known)
        model = small().train()
        objects = truths(3, 1)

        def targets(regions, numbers, objects=objects):
            of_first_place = torch.arange(len(regions)) % 8 == 7  # the last of each picture's 8 is not positive
            return torch.where(of_first_place[:, None, None], torch.nan, objects.mask_targets(regions, numbers))

        loss = model(batch(), SIZES, objects if is_known else objects._replace(mask_targets=targets))["mask"]
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.roi_heads.mask_head.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_picture_is_the_same_alone():
    """Its detections and its samples do not depend on the others of a batch."""
    model, images = small().eval(), batch()
    with torch.no_grad():
        both, one = model(images, SIZES), model(images[1:], SIZES[1:])
    assert both.splits[1] == one.splits[0] > 0
    for together, alone in zip(both[:4], one[:4], strict=True):
        torch.testing.assert_close(together[both.splits[0] :], alone, rtol=1e-5, atol=1e-5)
    model.train()
    with torch.no_grad():
        levels, single = model.backbone(images), model.backbone(images[1:])
        several, few = (
            truths(3, 1),
            truths(0, 1)._replace(splits=(1,), offsets=torch.tensor([0, 1]), keys=truths(3, 1).keys[1:]),
        )
        proposals, _ = model.rpn(images, levels, SIZES)
        alone, _ = model.rpn(images[1:], single, SIZES[1:])
        regions, _, samples = model.roi_heads.sampled(proposals, several)
        of_one, _, samples_of_one = model.roi_heads.sampled(alone, few)
    assert torch.equal(samples.taken[1], samples_of_one.taken[0])
    taken = samples.taken[1]
    torch.testing.assert_close(regions[1][taken], of_one[0][taken], rtol=1e-5, atol=1e-3)


def test_nothing_is_found_where_no_class_is_likely():
    model = small(roi=RoIOptions(canonical_size=56, min_score=0.999)).eval()
    with torch.no_grad():
        found = model(batch(), SIZES)
    assert found.splits == (0, 0)
    assert found.boxes.shape == (0, 4)
    assert found.masks.shape == (0, 28, 28)


def test_the_fused_network_is_the_plain_one():
    images, results = batch(), []
    for fused in (True, False):
        model = small(fused=fused, frozen_stages=0, frozen_norm_eps=None).train()
        losses = model(images, SIZES, truths(3, 1))
        results.append(torch.stack(list(losses.values())).detach())
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_anchors_by_their_definition():
    """Each is centred on a cell's corner, of an area of size ** 2 before its sides are rounded."""
    rpn = small().rpn
    images = torch.empty(1, 3, 64, 96)
    levels = [torch.empty(1, 16, -(-64 // stride), -(-96 // stride)) for stride in (4, 8, 16, 32, 64)]
    anchors = rpn.anchors(images, levels)
    assert [len(boxes) for boxes in anchors] == [3 * level.shape[2] * level.shape[3] for level in levels]
    for boxes, level, size in zip(anchors, levels, (8, 16, 32, 64, 128), strict=True):
        (height, width), by_cell = level.shape[2:], boxes.view(*level.shape[2:], 3, 4)
        for row, column in ((0, 0), (height - 1, 0), (height - 1, width - 1)):
            for index, ratio in enumerate((0.5, 1.0, 2.0)):
                x, y = column * (96 // width), row * (64 // height)
                across, down = round(size / ratio**0.5 / 2), round(size * ratio**0.5 / 2)
                assert by_cell[row, column, index].tolist() == [x - across, y - down, x + across, y + down]
