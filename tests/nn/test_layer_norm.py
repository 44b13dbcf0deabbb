"""nn.LayerNorm beside torch.nn.LayerNorm: the same arguments, parameters, state and numbers."""

import inspect

import pytest
import torch

from airank_fast.errors import UserError
from airank_fast.nn import LayerNorm


def test_arguments_are_torchs_and_apexs():
    ours = list(inspect.signature(LayerNorm.__init__).parameters)
    torchs = list(inspect.signature(torch.nn.LayerNorm.__init__).parameters)
    assert ours == [*torchs, "memory_efficient"]
    assert LayerNorm(8, memory_efficient=False).eps == 1e-5
    with pytest.raises(UserError, match="LayerNorm: memory_efficient must be False, got True"):
        LayerNorm(8, memory_efficient=True)


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"elementwise_affine": False}, {"eps": 0.1}], ids=str)
@pytest.mark.parametrize("shape", [8, (4, 8)])
def test_stands_in_for_torchs(shape, options):
    ours, torchs = LayerNorm(shape, **options), torch.nn.LayerNorm(shape, **options)
    for param in torchs.parameters():
        torch.nn.init.normal_(param)
    ours.load_state_dict(torchs.state_dict())
    assert list(ours.state_dict()) == list(torchs.state_dict())
    assert repr(ours) == repr(torchs)
    x = torch.randn(3, 4, 8)
    torch.testing.assert_close(ours(x), torchs(x))
    x.requires_grad_()
    grads = [torch.autograd.grad(module(x).square().sum(), [x, *module.parameters()]) for module in (ours, torchs)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_between_linear_layers_under_autocast_nothing_is_float32():
    network = torch.nn.Sequential(torch.nn.Linear(16, 16), LayerNorm(16), torch.nn.Linear(16, 16), LayerNorm(16))
    x = torch.randn(5, 16)
    dtypes = []
    for module in network:
        module.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = network(x)
    y.sum().backward()
    assert dtypes == [torch.bfloat16] * 4
    assert all(param.grad.dtype == torch.float32 for param in network.parameters())


def test_16_bit_parameters():
    module = LayerNorm(16, dtype=torch.bfloat16)
    y = module(torch.randn(5, 16).bfloat16())
    y.sum().backward()
    assert y.dtype == module.weight.grad.dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match="layer_norm: weight must be float32, got bfloat16"):
        module(torch.randn(5, 16))
