"""Networks for inference alone: batch norms are folded into the convolutions before them.

In evaluation a batch norm is a factor and an addend of each channel, which the convolution's weight and bias can have.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airank_fast.engine.distributed import World
from airank_fast.job import Batch, Job
from airank_fast.models.resnet import PlainBatchNormAct2d
from airank_fast.models.yolov3 import SLOPE, PlainBatchNormLeakyReLU
from airank_fast.nn import BatchNormAct2d, FrozenBatchNormAct2d

TOLERANCE = 1e-4  # of the largest output, between a folded network and the one it was made of
_ALONE = World(0, 1, 0, 1, torch.device("cpu"))


class Call:
    """The arguments of a network's call, as `Job.predict` makes it."""

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.args, self.kwargs = args, dict(kwargs)

    def of(self, network: nn.Module) -> Any:
        """What the network returns."""
        return network(*self.args, **self.kwargs)


class _Recorded(Exception):
    pass


class _Recorder(nn.Module):
    """Stands in for a network: keeps its arguments, and computes nothing."""

    call: Call | None = None

    def forward(self, *args: Any, **kwargs: Any) -> None:
        self.call = Call(args, kwargs)
        raise _Recorded


def call_for(job: Job, batch: Batch) -> Call:
    """How `Job.predict` calls its network for a batch."""
    recorder = _Recorder()
    with contextlib.suppress(_Recorded):
        job.predict({"model": recorder}, batch)
    assert recorder.call is not None, f"{job.benchmark} predicts without its network"
    return recorder.call


def noise_call(job: Job) -> Call:
    """The call for one sample of noise, in the shape of one to train on; no data set is read."""
    recipe: Any = replace(job.recipe, batch_size=1, gradient_accumulation_steps=1)
    single: Job = type(job)(recipe, job.options)  # type: ignore[call-arg, attr-defined]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return call_for(job, single.warm_up_batch(_ALONE, _ALONE.device, torch.float32))


class Activated(nn.Module):
    """What is left of a batch norm that was folded: the addition and the activation behind it, in place.

    activation, negative_slope: see airank_fast.nn.BatchNormAct2d.
    """

    def __init__(self, activation: str | None, negative_slope: float) -> None:
        super().__init__()
        self.activation, self.negative_slope = activation, negative_slope

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if residual is not None:
            x = x.add_(residual)
        if self.activation == "relu":
            return F.relu(x, inplace=True)
        if self.activation == "leaky_relu":
            return F.leaky_relu(x, self.negative_slope, inplace=True)
        return x


def folded(network: nn.Module, call: Call) -> tuple[nn.Module, int]:
    """(a copy of the network in evaluation, how many of its batch norms are folded); on the CPU in float32.

    call: one of this network. It shows which convolution's output each batch norm takes; one whose input is anything
    else, or is changed in between, stays. A copy whose outputs for the call are not those of the network, within
    TOLERANCE, is thrown away: then nothing is folded.
    """
    copied = copy.deepcopy(network).eval()
    with torch.inference_mode(False), torch.no_grad():
        pairs, expected = _pairs(copied, call)
        for conv, norm in pairs:
            _replace(copied, norm, Activated(*_activation(copied.get_submodule(norm))), conv)
        if pairs and not _is_close(call.of(copied), expected):
            return copy.deepcopy(network).eval(), 0
    return copied, len(pairs)


def _activation(norm: nn.Module) -> tuple[str | None, float]:
    """Of a batch norm that `_is_norm` accepts: its activation, and the slope of a leaky ReLU."""
    if isinstance(norm, BatchNormAct2d | FrozenBatchNormAct2d):
        return norm.activation, norm.negative_slope
    if isinstance(norm, PlainBatchNormLeakyReLU):
        return "leaky_relu", SLOPE
    return ("relu" if isinstance(norm, PlainBatchNormAct2d) and norm.relu else None), 0.0


def _is_norm(module: nn.Module) -> bool:
    """Whether it is a batch norm whose forward pass is known here, with running statistics."""
    known = (BatchNormAct2d, FrozenBatchNormAct2d, PlainBatchNormAct2d, PlainBatchNormLeakyReLU, nn.BatchNorm2d)
    return type(module) in known and module.running_mean is not None


def _is_convolution(module: nn.Module) -> bool:
    if isinstance(module, nn.ConvTranspose2d):
        return module.groups == 1
    return isinstance(module, nn.Conv2d)


def _pairs(network: nn.Module, call: Call) -> tuple[list[tuple[str, str]], Any]:
    """(names of convolutions and of the batch norms that alone follow them, outputs) of one call."""
    outputs: dict[int, tuple[str, Tensor, int]] = {}  # they are kept, so that no other tensor gets an id again
    calls: dict[str, list[str | None]] = {}
    uses: dict[str, int] = {}
    hooks = []

    def convolved(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
            uses[name] = uses.get(name, 0) + 1
            outputs[id(output)] = name, output, output._version

        return hook

    def normalised(name: str) -> Any:
        def hook(_module: nn.Module, args: Any) -> None:
            source, _, version = outputs.get(id(args[0]), (None, None, -1))
            is_unchanged = source is not None and args[0]._version == version
            calls.setdefault(name, []).append(source if is_unchanged else None)

        return hook

    for name, module in network.named_modules():
        if _is_convolution(module):
            hooks.append(module.register_forward_hook(convolved(name)))
        elif _is_norm(module):
            hooks.append(module.register_forward_pre_hook(normalised(name)))
    try:
        result = call.of(network)
    finally:
        for hook in hooks:
            hook.remove()
    sources = [source for of_norm in calls.values() for source in of_norm]
    pairs = [
        (of_norm[0], name)
        for name, of_norm in calls.items()
        if len(of_norm) == 1 and of_norm[0] is not None and uses[of_norm[0]] == 1 and sources.count(of_norm[0]) == 1
    ]
    return pairs, result


def _replace(network: nn.Module, norm_name: str, rest: nn.Module, conv_name: str) -> None:
    """Put a convolution with the batch norm inside in the place of the convolution, and the rest in the norm's."""
    conv, norm = network.get_submodule(conv_name), network.get_submodule(norm_name)
    _set(network, conv_name, _with_norm(conv, norm))
    _set(network, norm_name, rest)


def _set(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    network.get_submodule(parent)._modules[last] = module


def _with_norm(conv: Any, norm: Any) -> nn.Module:
    """torch's convolution, which computes both; its weights are rounded once, from float64."""
    transposed = isinstance(conv, nn.ConvTranspose2d)
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    geometry = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    options = {"dilation": conv.dilation, "groups": conv.groups, "padding_mode": conv.padding_mode, "bias": True}
    if transposed:
        options["output_padding"] = conv.output_padding
    kind: Any = nn.ConvTranspose2d if transposed else nn.Conv2d
    made: Any = kind(*geometry, **options, device="meta")  # without random weights; both are replaced below
    by_channel = scale.view(1, -1, 1, 1) if transposed else scale.view(-1, 1, 1, 1)
    made.weight = nn.Parameter((conv.weight.double() * by_channel).to(conv.weight), requires_grad=False)
    made.bias = nn.Parameter(shift.to(conv.weight), requires_grad=False)
    return made.eval()


def _is_close(got: Any, expected: Any) -> bool:
    """Whether outputs, tensors or tuples and lists of them, agree within TOLERANCE."""
    if isinstance(expected, Tensor):
        if got.shape != expected.shape:  # other objects are found
            return False
        if not expected.numel() or not expected.is_floating_point():
            return torch.equal(got, expected)
        largest = expected.abs().max()
        return bool(((got - expected).abs().max() <= TOLERANCE * largest + 1e-12).item())
    if isinstance(expected, tuple | list):
        return len(got) == len(expected) and all(map(_is_close, got, expected))
    return bool(got == expected)
