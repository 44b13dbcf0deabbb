"""Lets torch.fx record a fused module as one call, as it does torch.nn's own modules."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import nn
from torch.fx import Proxy


def one_call(forward: Callable) -> Callable:
    """Make a module's forward one node, "call_module", of a graph that torch.fx traces.

    So a traced network keeps its kernels and modes, and the code of the module (a test of a shape, a branch for a
    dtype) need not be traceable. A module that is traced by itself runs its forward.
    """

    @functools.wraps(forward)
    def call(self: nn.Module, *args: object, **kwargs: object) -> object:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Proxy) and (path := _path_in(value.tracer, self)):
                return value.tracer.create_proxy("call_module", path, args, kwargs)
        return forward(self, *args, **kwargs)

    return call


def _path_in(tracer: object, module: nn.Module) -> str | None:
    """The module's name in the traced one; "" for the traced module itself, None for one outside it."""
    try:
        return tracer.path_of_module(module)
    except NameError:
        return None
