"""CRNN: names and shapes of crnn.pytorch, its steps, mixed precision, and CTC's best path."""

from __future__ import annotations

from itertools import groupby

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from airank_fast.engine.weights import narrow
from airank_fast.models.crnn import CRNN, best_path, num_steps
from airank_fast.nn import BatchNormAct2d


def shapes(num_classes: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of crnn.pytorch's parameters, by rule."""
    found: dict[str, tuple[int, ...]] = {}
    inputs = 1
    for number, outputs in enumerate((64, 128, 256, 256, 512, 512, 512)):
        kernel = 2 if number == 6 else 3
        found |= {f"cnn.conv{number}.weight": (outputs, inputs, kernel, kernel), f"cnn.conv{number}.bias": (outputs,)}
        if number in (2, 4, 6):
            found |= {f"cnn.batchnorm{number}.{kind}": (outputs,) for kind in ("weight", "bias")}
        inputs = outputs
    for number, (size, outputs) in enumerate(((512, hidden), (hidden, num_classes))):
        for direction in ("", "_reverse"):
            prefix = f"rnn.{number}.rnn."
            found[f"{prefix}weight_ih_l0{direction}"] = (4 * hidden, size)
            found[f"{prefix}weight_hh_l0{direction}"] = (4 * hidden, hidden)
            found |= {f"{prefix}bias_{kind}_l0{direction}": (4 * hidden,) for kind in ("ih", "hh")}
        found |= {f"rnn.{number}.embedding.weight": (outputs, 2 * hidden), f"rnn.{number}.embedding.bias": (outputs,)}
    return found


@pytest.fixture(scope="module")
def whole():
    return CRNN(37)


def test_parameters_have_crnn_pytorchs_names_and_shapes(whole):
    assert {name: tuple(p.shape) for name, p in whole.named_parameters()} == shapes(37, 256)
    assert sum(p.numel() for p in whole.parameters()) == 8_331_301
    constant = {name for name, p in whole.named_parameters() if not p.requires_grad}
    assert constant == {f"cnn.conv{number}.bias" for number in (2, 4, 6)}
    buffers = {
        f"cnn.batchnorm{number}.{kind}"
        for number in (2, 4, 6)
        for kind in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert {name for name, _ in whole.named_buffers()} == buffers


def test_values_are_those_of_torchs_operators_in_crnn_pytorchs_order():
    torch.manual_seed(0)
    model, images = CRNN(7, width=4, hidden=5).eval(), torch.randn(2, 1, 32, 40)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_mean"):
            nn.init.normal_(tensor, std=0.1)
        elif name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 2)
    x = images
    flat = (2, 2), (2, 1), (0, 1)
    for number, pooling in enumerate(((2, 2), (2, 2), None, flat, None, flat, None)):
        convolution = getattr(model.cnn, f"conv{number}")
        x = F.conv2d(x, convolution.weight, convolution.bias, padding=0 if number == 6 else 1)
        if number in (2, 4, 6):
            norm = getattr(model.cnn, f"batchnorm{number}")
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        x = F.relu(x)
        if pooling:
            x = F.max_pool2d(x, *pooling)
    x = x[:, :, 0].permute(2, 0, 1)
    for part in model.rnn:
        x = part.embedding(part.rnn(x)[0])
    torch.testing.assert_close(model(images), x)


@pytest.mark.parametrize("width", [4, 7, 40, 96, 100, 101])
def test_a_quarter_of_the_width_and_one_are_the_steps(width):
    assert CRNN(5, width=1, hidden=2).eval()(torch.zeros(1, 1, 32, width)).shape == (num_steps(width), 1, 5)


def test_the_fused_network_is_the_plain_one():
    torch.manual_seed(0)
    fused, plain = CRNN(7, width=8, hidden=6), CRNN(7, width=8, hidden=6, fused=False)
    assert sum(isinstance(module, BatchNormAct2d) for module in fused.modules()) == 3
    assert not any(isinstance(module, BatchNormAct2d) for module in plain.modules())
    plain.load_state_dict(fused.state_dict())
    images = torch.randn(3, 1, 32, 40)
    for training in (True, False):
        ours, theirs = (model.train(training)(images) for model in (fused, plain))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_16_bit_weights_around_float32_lstms():
    torch.manual_seed(0)
    model = CRNN(7, width=8, hidden=6).eval()
    images = torch.randn(3, 1, 32, 40)
    expected = model(images)
    narrow(model, "bf16")
    assert model.cnn.conv0.weight.dtype == model.rnn[0].embedding.weight.dtype == torch.bfloat16
    assert model.rnn[0].rnn.weight_ih_l0.dtype == torch.float32
    found = model(images.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.03)


def test_a_picture_of_another_height():
    with pytest.raises(AssertionError, match="images must be 32 pixels high, got 64"):
        CRNN(5, width=1, hidden=2).eval()(torch.zeros(1, 1, 64, 40))


def test_the_best_path_has_no_blanks_and_no_repeats():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 30, 3, generator=generator)
    for row, of_line in zip(best_path(logits), logits.argmax(2).T.tolist(), strict=True):
        assert row[row != 0].tolist() == [number for number, _ in groupby(of_line) if number]
    assert best_path(torch.eye(3)[[1, 1, 0, 1, 2, 2]][:, None]).tolist() == [[1, 0, 0, 1, 2, 0]]
