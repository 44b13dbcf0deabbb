"""YOLOv3: darknet's outputs for its weights, the sizes of its files, and the same network in torch's own operators."""

from __future__ import annotations

import pytest
import torch
from darknet_case import case, network

from airank_fast.models.yolov3 import YOLOv3


@pytest.mark.parametrize("fused", [True, False])
def test_outputs_are_darknets(fused, tmp_path):
    """Darknet's CPU code divides by sqrt(variance) + 1e-6 instead of sqrt(variance + 1e-5)."""
    expected = case()
    picture = expected["picture"][None].float() / 255
    with torch.no_grad():
        logits = network(tmp_path, fused=fused)(picture)
    assert logits.shape == expected["logits"].shape
    torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=1e-4 * expected["logits"].std().item())


def test_numbers_of_parameters():
    """Those of yolov3.cfg for COCO, and of darknet53.conv.74."""
    with torch.device("meta"):
        model = YOLOv3()
    assert sum(p.numel() for p in model.parameters()) == 61_949_149
    of_files = [
        sum(tensor.numel() for name, tensor in part.state_dict().items() if not name.endswith("num_batches_tracked"))
        for part in (model, model.backbone)
    ]
    assert of_files == [62_001_757, 40_620_640]


def test_the_fused_network_is_the_plain_one():
    """Outputs, statistics and gradients of a training step."""
    torch.manual_seed(0)
    options = {"widths": (4, 8, 8, 8, 8, 16), "blocks": (1, 1, 2, 1, 1)}
    fused, plain = (YOLOv3(4, **options, fused=is_fused).double() for is_fused in (True, False))
    plain.load_state_dict(fused.state_dict())
    images = torch.rand(2, 3, 64, 96).double().contiguous(memory_format=torch.channels_last)
    outputs = [model(images) for model in (fused, plain)]
    torch.testing.assert_close(*outputs)
    weights = torch.randn_like(outputs[0])
    for output in outputs:
        (output * weights).sum().backward()
    for name, parameter in fused.named_parameters():
        torch.testing.assert_close(parameter.grad, plain.get_parameter(name).grad)
    for name, buffer in fused.named_buffers():
        torch.testing.assert_close(buffer, plain.get_buffer(name))


def test_first_outputs_find_next_to_nothing():
    torch.manual_seed(0)
    logits = YOLOv3(4, widths=(4, 8, 8, 8, 8, 16), blocks=(1,) * 5)(torch.rand(2, 3, 64, 64))
    assert logits.shape == (2, 3 * (4 + 16 + 64), 9)
    assert logits[..., 4].sigmoid().mean().item() == pytest.approx(0.01, rel=0.1)
    assert logits[..., 5:].abs().max() < 1
