"""ResNet-50 v1.5: names, sizes and strides of torchvision's network, and values of a plain torch one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from airank_fast.models.resnet import Bottleneck, ResNet, resnet50
from airank_fast.nn import BatchNormAct2d, PointwiseConv2d


def torchvision_shapes(num_classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's resnet50 parameters, by rule."""
    shapes = {"conv1.weight": (64, 3, 7, 7), "bn1.weight": (64,), "bn1.bias": (64,)}
    channels = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 1):
        for block in range(blocks):
            prefix = f"layer{stage}.{block}."
            convolutions = {
                "1": (width, channels, 1, 1),
                "2": (width, width, 3, 3),
                "3": (4 * width, width, 1, 1),
            }
            for number, shape in convolutions.items():
                shapes[f"{prefix}conv{number}.weight"] = shape
                shapes |= {f"{prefix}bn{number}.{kind}": shape[:1] for kind in ("weight", "bias")}
            if block == 0:
                shapes[f"{prefix}downsample.0.weight"] = (4 * width, channels, 1, 1)
                shapes |= {f"{prefix}downsample.1.{kind}": (4 * width,) for kind in ("weight", "bias")}
            channels = 4 * width
    return shapes | {"fc.weight": (num_classes, 2048), "fc.bias": (num_classes,)}


def test_parameters_have_torchvisions_names_and_shapes():
    model = resnet50()
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == torchvision_shapes(1000)
    assert sum(p.numel() for p in model.parameters()) == 25_557_032


def test_buffers_have_torchvisions_names():
    parameters = torchvision_shapes(10)
    norms = {name.removesuffix(".bias") for name in parameters if name.endswith(".bias") and name != "fc.bias"}
    expected = {f"{norm}.{kind}" for norm in norms for kind in ("running_mean", "running_var", "num_batches_tracked")}
    assert {name for name, _ in resnet50(10).named_buffers()} == expected


def test_the_3x3_convolution_takes_the_stride():
    block = Bottleneck(64, 32, stride=2)
    assert (block.conv1.stride, block.conv2.stride, block.downsample[0].stride) == ((1, 1), (2, 2), (2, 2))


@pytest.mark.parametrize("zero", [False, True])
def test_zero_initialised_last_batch_norm(zero):
    scales = [m.bn3.weight for m in resnet50(10, zero_init_last_bn=zero).modules() if isinstance(m, Bottleneck)]
    assert len(scales) == 16
    assert all((scale == 0).all() if zero else (scale == 1).all() for scale in scales)


def test_a_batch_of_the_smallest_pictures_goes_through_and_back():
    model = resnet50(10).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last)
    logits = model(images)
    assert logits.shape == (2, 10)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("n", "c_in", "c_out", "size", "stride"),
    [(2, 8, 16, 7, 1), (1, 16, 8, 1, 1), (3, 5, 7, 6, 2), (2, 8, 8, 5, 2)],
)
def test_pointwise_convolution_is_a_convolution(dtype, n, c_in, c_out, size, stride):
    torch.manual_seed(0)
    ours = PointwiseConv2d(c_in, c_out, stride).to(dtype).to(memory_format=torch.channels_last)
    images = torch.randn(n, c_in, size, size).to(dtype, memory_format=torch.channels_last).requires_grad_()
    exact_weight = ours.weight.detach().double().requires_grad_()
    exact_images = images.detach().double().requires_grad_()
    expected = nn.functional.conv2d(exact_images, exact_weight, stride=stride)
    got = ours(images)
    gradient = torch.randn_like(got)
    got.backward(gradient)
    expected.backward(gradient.double())
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    tolerance = {"rtol": 1e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    for ours_is, should_be in (
        (got, expected),
        (images.grad, exact_images.grad),
        (ours.weight.grad, exact_weight.grad),
    ):
        torch.testing.assert_close(ours_is.double(), should_be, **tolerance)


def test_checkpoint_of_a_plain_convolution_loads_into_a_pointwise_one():
    plain = nn.Conv2d(4, 6, 1, bias=False)
    ours = PointwiseConv2d(4, 6)
    ours.load_state_dict(plain.state_dict())
    assert torch.equal(ours.weight, plain.weight)


@pytest.mark.parametrize("training", [True, False])
def test_exports_with_a_dynamic_batch_in_torchs_operators(training):
    """With gradients, at 32 px, where the ReLUs' masks of the last stage have one row."""
    model = small(fused=True).train(training)
    program = torch.export.export(
        model, (torch.randn(4, 3, 32, 32),), dynamic_shapes=[{0: torch.export.Dim("batch", min=2, max=64)}]
    )
    assert not [node for node in program.graph.nodes if "airank_fast" in str(node.target)]
    images = torch.randn(6, 3, 32, 32)
    torch.testing.assert_close(program.module()(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*deprecated")  # torch.jit.trace
@pytest.mark.parametrize("fused", [True, False])
def test_fx_and_jit_trace_it(fused):
    model, images = small(fused=fused), torch.randn(2, 3, 32, 32)
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(images), model(images))
    assert type(traced.get_submodule("layer1.0.bn3")) is type(model.layer1[0].bn3)
    torch.testing.assert_close(torch.jit.trace(model, images)(images), model(images), rtol=1e-4, atol=1e-5)


def small(fused: bool) -> ResNet:
    torch.manual_seed(0)
    return ResNet((1, 1, 1, 1), 10, base_width=4, fused=fused).eval()


def test_fused_and_plain_networks_exchange_state_and_agree():
    """In float64, in which rounding moves no number across a ReLU's threshold."""
    torch.manual_seed(0)
    images = torch.randn(4, 3, 64, 64).double().to(memory_format=torch.channels_last)
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = ResNet((1, 1, 1, 1), 10, base_width=8, fused=fused).double().to(memory_format=torch.channels_last)
        assert any(isinstance(m, BatchNormAct2d | PointwiseConv2d) for m in model.modules()) == fused
        model(images).square().sum().backward()
        gradients = [p.grad.clone() for p in model.parameters()]
        results.append((model, gradients, model.state_dict()))
    (ours, gradients, state), (plain, expected, plain_state) = results
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9 * b.abs().max().item())
    torch.testing.assert_close(state, plain_state, rtol=1e-9, atol=1e-9)
    ours.load_state_dict(plain_state)
    plain.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours.eval()(images), plain.eval()(images), rtol=1e-9, atol=1e-9)
