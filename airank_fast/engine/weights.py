"""Places the weights of a run: device, memory format, and the dtype, which depends on the optimizers.

Where they keep float32 "master" weights, convolution and linear weights are in 16 bits in the network, and the
optimizer writes the 16-bit copy in the pass that updates the master. Batch norm and the loss stay in float32. Products
are those of autocast, without its casts of every weight and gradient in every step. Where an optimizer keeps no
masters, as torch's own, weights stay in float32 and autocast is around the loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from airank_fast.engine.precision import DTYPES

Autocast = Callable[[], contextlib.AbstractContextManager]


@runtime_checkable
class Particular(Protocol):
    """A network that has a layout of its own for its weights."""

    def layout(self, device: torch.device) -> torch.memory_format:
        """The layout on that device; called before the network is placed there."""


def place(network: nn.Module, precision: str, device: torch.device) -> nn.Module:
    """Move ``network`` to ``device`` in the dtypes it has, and set the TF32 switches.

    Its layout is channels_last, or the one that it prefers: see ``Particular``.
    """
    float32_products = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = float32_products
    # Not cudnn.conv.fp32_precision: after it torch.export refuses every network of the process.
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    layout = torch.channels_last
    if isinstance(network, Particular):
        layout = network.layout(device)
    return network.to(device=device, memory_format=layout)  # type: ignore[call-overload]


def narrow(network: nn.Module, precision: str) -> nn.Module:
    """Convolution and linear weights of ``network`` in ``precision``, in place: parameters stay the same objects."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            module.to(DTYPES[precision])
    return network


def apply(network: nn.Module, precision: str, device: torch.device) -> nn.Module:
    """Move ``network`` to ``device``, with weights for an optimizer that keeps masters."""
    return narrow(place(network, precision, device), precision)


def keep_masters(optimizers: Iterable[Optimizer]) -> bool:
    """Whether every optimizer updates float32 masters of 16-bit weights."""
    return all(getattr(optimizer, "master_weights", False) for optimizer in optimizers)


def autocast(precision: str, device: torch.device, masters: bool) -> Autocast:
    """The context of losses and predictions; it does nothing where the weights are in ``precision`` themselves."""
    if masters or DTYPES[precision] == torch.float32:
        return contextlib.nullcontext
    return partial(torch.autocast, device.type, DTYPES[precision])


def full_state(network: nn.Module, optimizers: Iterable[Optimizer]) -> dict[str, Tensor]:
    """The network's state dict with float32 master weights in place of their 16-bit copies."""
    state = network.state_dict()
    return state | {name: master for name, master in _masters(network, optimizers) if name in state}


def load_full_state(network: nn.Module, optimizers: Iterable[Optimizer], state: dict[str, Tensor]) -> None:
    """The inverse of ``full_state``, in place; every value lands in the network and in its master."""
    network.load_state_dict(state)
    for name, master in _masters(network, optimizers):
        master.copy_(state[name])


def _masters(network: nn.Module, optimizers: Iterable[Optimizer]) -> Iterable[tuple[str, Tensor]]:
    optimizers = list(optimizers)
    for name, parameter in network.named_parameters():
        for optimizer in optimizers:
            if "master" in optimizer.state.get(parameter, {}):
                yield name, optimizer.state[parameter]["master"]
