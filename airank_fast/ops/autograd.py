"""An autograd Function of an op that has its formula with torch.library too, in half the time of a call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def function_of(op: Callable, setup_context: Callable, backward: Callable) -> type[torch.autograd.Function]:
    """A Function that gives the first result of `op`, which alone can be differentiated.

    setup_context and backward are what torch.library.register_autograd takes; the latter sees None for the gradients of
    the other results. Under torch.compile the op itself is to be called.
    """

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs) -> Tensor:
            output = op(*inputs)
            ctx.num_others = len(output) - 1
            setup_context(ctx, inputs, output)
            return output[0]

        @staticmethod
        def backward(ctx, grad):
            return backward(ctx, grad, *[None] * ctx.num_others)

    return Function
