"""nn.Conv2d and nn.ConvTranspose2d: torch's values and gradients by their own ways; which way is taken; 16 bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from airank_fast import processor
from airank_fast.engine import weights
from airank_fast.nn import Conv2d, ConvTranspose2d, InstanceNormAct2d, PatchConv2d, PointwiseConv2d, choices, conv
from airank_fast.ops import winograd
from airank_fast.optim import FusedAdam

CPU = torch.device("cpu")
CASES = {
    "winograd": (Conv2d, (4, 6, 3), {"padding": 1}),
    "winograd of what is padded": (Conv2d, (4, 6, 3), {"bias": False}),
    "stride 2": (Conv2d, (4, 6, 4), {"stride": 2, "padding": 1}),
    "dilated": (Conv2d, (4, 6, 3), {"padding": 2, "dilation": 2}),
    "dilated by what does not divide the picture": (Conv2d, (4, 6, 5), {"padding": 6, "dilation": 3, "bias": False}),
    "groups": (Conv2d, (4, 6, 3), {"groups": 2, "dilation": 2, "bias": False}),
    "transposed": (ConvTranspose2d, (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
}


@pytest.fixture
def small_is_enough(monkeypatch):
    """Both ways are taken for few channels too, on any processor, with or without kernels."""
    monkeypatch.setattr(processor, "instruction_set", lambda: "AVX2")
    monkeypatch.setattr(choices, "_has_kernel", lambda op: True)
    monkeypatch.setattr(choices, "DIRECT_WEIGHTS", 0)
    for name in ("CONTIGUOUS_CHANNELS", "WINOGRAD_CHANNELS", "WINOGRAD_PIXELS"):
        monkeypatch.setattr(choices, name, 1)


def gradients(module, x, *, second):
    """The result and the gradients of input and parameters, of the second order too."""
    leaves = [x.clone(memory_format=torch.preserve_format).requires_grad_(), *module.parameters()]
    y = module(leaves[0])
    first = torch.autograd.grad(y.pow(2).sum(), leaves, create_graph=second)
    if not second:
        return y.grad_fn, [y.detach(), *first]
    return y.grad_fn, torch.autograd.grad(sum(g.pow(2).sum() for g in first), leaves)


@pytest.mark.parametrize(("made", "arguments", "options"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("second", [False, True])
def test_values_and_gradients_are_torchs(small_is_enough, made, arguments, options, second):
    torch.manual_seed(0)
    module = made(*arguments, **options).to(memory_format=torch.channels_last)
    plain = made.__mro__[1](*arguments, **options)
    plain.load_state_dict(module.state_dict())
    x = torch.randn(2, 4, 8, 10).contiguous(memory_format=torch.channels_last)
    way, ours = gradients(module, x, second=second)
    _, torchs = gradients(plain, x.contiguous(), second=second)
    by_windows = arguments[2] == 3 and not {"stride", "dilation"} & options.keys()
    assert type(way).__name__ == ("_WinogradBackward" if by_windows else "_ConvolutionBackward")
    if not second:
        assert ours[0].is_contiguous(memory_format=torch.channels_last)
    for got, want in zip(ours, torchs, strict=True):
        assert ((got - want).norm() / want.norm()).item() < 1e-5


DIRECT = {
    "3x3": (Conv2d, (4, 6, 3), {"padding": 1}),
    "stride 2": (PatchConv2d, (4, 6, 4), {"stride": 2, "padding": 1, "bias": False}),
    "dilated": (PatchConv2d, (4, 6, 3), {"padding": 2, "dilation": 2}),
    "1x1": (PointwiseConv2d, (4, 6, 2), {}),
}


@pytest.mark.parametrize(("made", "arguments", "options"), DIRECT.values(), ids=DIRECT)
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("side", [9, 33])
def test_direct_convolutions_are_torchs(monkeypatch, made, arguments, options, second, side):
    """Of large pictures too, which torch convolves itself but for the gradient of the weight."""
    monkeypatch.setattr(processor, "instruction_set", lambda: "AVX2")
    monkeypatch.setattr(choices, "_has_kernel", lambda op: True)
    torch.manual_seed(0)
    module = made(*arguments, **options).to(memory_format=torch.channels_last)
    stride, padding, dilation = module.stride, module.padding, module.dilation
    plain = nn.Conv2d(4, 6, module.kernel_size, stride, padding, dilation, bias=module.bias is not None)
    plain.load_state_dict(module.state_dict())
    x = torch.randn(2, 4, side, side - 1).contiguous(memory_format=torch.channels_last)
    way, ours = gradients(module, x, second=second)
    _, torchs = gradients(plain, x, second=second)
    is_direct = made is not PointwiseConv2d or side == 9
    assert (type(way).__name__ == "_DirectBackward") == is_direct
    for got, want in zip(ours, torchs, strict=True):
        assert ((got - want).norm() / want.norm()).item() < 1e-5


def test_what_cannot_be_direct_is_not(monkeypatch):
    monkeypatch.setattr(processor, "instruction_set", lambda: "AVX2")
    monkeypatch.setattr(choices, "_has_kernel", lambda op: True)
    x = torch.zeros(1, 4, 8, 8).contiguous(memory_format=torch.channels_last)

    def is_direct(x=x, channels=4, **options):
        module = Conv2d(channels, 4, 3, **options).to(x.dtype, memory_format=torch.channels_last)
        return choices.direct_is_faster(module, x)

    assert is_direct()
    assert is_direct(padding=2, stride=2, dilation=3, bias=False)
    assert not is_direct(x.contiguous())
    assert not is_direct(x.double())
    assert not is_direct(x[..., :2])
    for options in ({"groups": 2}, {"padding": (1, 0)}, {"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}):
        assert not is_direct(**options)
    assert not is_direct(stride=(1, 2))
    assert not is_direct(channels=5)
    assert not choices.direct_is_faster(Conv2d(4, 4, 3, 1, 1).to(torch.float32), x), "weights are contiguous"
    monkeypatch.setattr(choices, "DIRECT_WEIGHTS", 4 * 4 * 9 - 1)
    assert not is_direct()
    monkeypatch.setattr(processor, "instruction_set", lambda: "AVX512")
    monkeypatch.setattr(choices, "DIRECT_WEIGHTS", 1000)
    assert not is_direct()


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({"padding": 2, "dilation": 2}, 2),
        ({"padding": 3, "dilation": 3}, 3),
        ({"padding": 1, "dilation": 2}, 1),  # phases have different borders
        ({"padding": 2, "dilation": 2, "stride": 2}, 1),
        ({"padding": (2, 3), "dilation": (2, 3)}, 1),
    ],
)
@pytest.mark.parametrize("made", [Conv2d, PatchConv2d])
def test_the_gradient_of_a_dilated_weight_is_by_phases(small_is_enough, made, options, rate):
    module = made(4, 6, 3, **options).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 9, 10).contiguous(memory_format=torch.channels_last)
    assert module(x).grad_fn.rate == rate


@pytest.mark.parametrize("made", [Conv2d, PatchConv2d])
def test_a_dilated_convolution_can_be_traced_by_itself(small_is_enough, made):
    module = made(4, 6, 3, padding=2, dilation=2)
    x = torch.randn(1, 4, 8, 8)
    assert torch.equal(torch.fx.symbolic_trace(module)(x), module(x))


@pytest.mark.parametrize(("side", "way"), [(30, "ConvolutionBackward0"), (32, "_WinogradBackward")])
def test_a_patch_convolution_of_large_pictures_is_one(small_is_enough, monkeypatch, side, way):
    monkeypatch.setattr("airank_fast.nn.patch_conv.product_is_faster", lambda conv, x: False)
    module = PatchConv2d(4, 6, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(1, 4, side, side).contiguous(memory_format=torch.channels_last)
    assert type(module(x).grad_fn).__name__ == way


def test_winograd_comes_before_the_direct_way(monkeypatch):
    monkeypatch.setattr(processor, "instruction_set", lambda: "AVX2")
    monkeypatch.setattr(choices, "_has_kernel", lambda op: True)
    x = torch.randn(1, 128, 32, 32).contiguous(memory_format=torch.channels_last)
    for made in (Conv2d, PatchConv2d):
        module = made(128, 128, 3, padding=1).to(memory_format=torch.channels_last)
        assert choices.direct_is_faster(module, x)
        assert type(module(x).grad_fn).__name__ == "_WinogradBackward"


@pytest.mark.parametrize("side", [6, 32], ids=["product", "winograd"])
def test_a_relu_behind_it_may_work_in_place(small_is_enough, monkeypatch, side):
    monkeypatch.setattr("airank_fast.nn.patch_conv.product_is_faster", lambda conv, x: side == 6)
    torch.manual_seed(0)
    module = PatchConv2d(4, 6, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, side, side).contiguous(memory_format=torch.channels_last)
    found = []
    for relu in (torch.relu_, torch.relu):
        module.weight.grad = None
        relu(module(x)).square().sum().backward()
        found.append(module.weight.grad)
    assert torch.equal(*found)


def test_winograds_error_is_at_most_twice_a_direct_convolutions(small_is_enough):
    torch.manual_seed(0)
    module = Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
    plain = nn.Conv2d(64, 64, 3, padding=1)
    plain.load_state_dict(module.state_dict())
    x = torch.randn(2, 64, 16, 16).contiguous(memory_format=torch.channels_last)
    _, ours = gradients(module, x, second=False)
    _, torchs = gradients(plain, x, second=False)
    _, exact = gradients(plain.double(), x.double(), second=False)
    for got, other, want in zip(ours, torchs, exact, strict=True):
        assert (got - want).norm() <= 2 * (other - want).norm()


def test_the_way_that_is_taken(monkeypatch):
    monkeypatch.setattr(processor, "instruction_set", lambda: "AVX2")
    monkeypatch.setattr(choices, "_has_kernel", lambda op: True)
    x = torch.zeros(1, 128, 32, 32).contiguous(memory_format=torch.channels_last)

    def ways(module, x=x):
        module = module.to(x.dtype, memory_format=torch.channels_last)
        return conv.winograd_is_faster(module, x), conv.contiguous_is_faster(module, x)

    usual = Conv2d(128, 128, 3, padding=1)
    assert ways(usual) == (True, True)
    assert ways(Conv2d(128, 128, 3, 2, 1)) == ways(ConvTranspose2d(128, 64, 3)) == (False, True)
    assert ways(Conv2d(128, 128, 3, padding=1, padding_mode="reflect")) == (False, True)
    assert ways(usual, x[..., :31].contiguous(memory_format=torch.channels_last)) == (False, True)
    assert ways(usual, x[..., :8, :8].contiguous(memory_format=torch.channels_last)) == (False, True)
    assert ways(Conv2d(64, 64, 3)) == ways(Conv2d(128, 3, 7)) == ways(usual, x.bfloat16()) == (False, False)
    with torch.autocast("cpu", torch.bfloat16):
        assert ways(usual.float()) == (False, False)
    monkeypatch.setattr(processor, "instruction_set", lambda: "AVX512")
    assert ways(usual) == (False, False)
    reflected = Conv2d(128, 128, 3, padding=1, padding_mode="reflect")
    assert reflected(x).shape == x.shape


def generator():
    """A small generator of CycleGAN's layers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.ReflectionPad2d(1),
        Conv2d(3, 8, 3),
        InstanceNormAct2d(8, activation="relu"),
        ConvTranspose2d(8, 4, 3, 2, 1, output_padding=1),
        InstanceNormAct2d(4, affine=True, activation="leaky_relu"),
        nn.Conv2d(4, 3, 3, padding=1),
        nn.Tanh(),
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("masters", [True, False])
def test_a_transposed_convolution_trains_in_16_bits(precision, masters):
    """With 16-bit weights and float32 masters, and under autocast: gradients near float32's, 16 bits in between."""
    exact, network = generator(), generator()
    place = weights.apply if masters else weights.place
    network = place(network, precision, CPU)
    optimizer = FusedAdam(network.parameters(), lr=1e-2) if masters else torch.optim.Adam(network.parameters(), lr=1e-2)
    assert network[3].weight.dtype == (weights.DTYPES[precision] if masters else torch.float32)
    x = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    seen = {}
    for number in (3, 4):
        network[number].register_forward_hook(lambda _, __, y, number=number: seen.update({number: y.dtype}))

    def loss_of(net, x):
        return net(x).float().square().mean()

    with weights.autocast(precision, CPU, masters)():
        loss = loss_of(network, x.to(network[1].weight.dtype))
    loss.backward()
    loss_of(exact, x).backward()
    assert seen == dict.fromkeys((3, 4), weights.DTYPES[precision])
    for (name, got), want in zip(network.named_parameters(), exact.parameters(), strict=True):
        if name in ("1.bias", "3.bias"):  # before an instance norm: their gradient is rounding alone
            continue
        assert ((got.grad.float() - want.grad).norm() / want.grad.norm()).item() < 0.1, name
    before = network[3].weight.detach().clone()
    optimizer.step()
    assert not torch.equal(network[3].weight, before)
    if masters:
        master = optimizer.state[network[3].weight]["master"]
        assert master.dtype == torch.float32
        assert torch.equal(master.to(network[3].weight.dtype), network[3].weight)


def test_windows_are_of_the_size_that_the_op_takes(small_is_enough, monkeypatch):
    """An input that is padded outside, as by a reflection, and is contiguous only in part."""
    sizes = []
    kept = winograd.windows
    monkeypatch.setattr(winograd, "windows", lambda x: sizes.append(list(x.shape)) or kept(x))
    module = Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    x = torch.randn(1, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    torch.testing.assert_close(module(padded), nn.functional.conv2d(padded, module.weight, module.bias))
    assert sizes == [[1, 8, 8, 4]]
