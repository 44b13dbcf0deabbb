"""Ops with a gradient, called in eager mode in half the time that torch.library's way takes.

What torch.library makes of a formula is a kernel in Python that the dispatcher visits on the way to every call of the
op, with gradients or without. torch.compile needs it; eager calls pass it by.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def differentiable(
    op: torch._ops.OpOverload,
    setup_context: Callable,
    backward: Callable,
    *,
    lib: torch.library.Library,
    num_results: int = 1,
) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """Register a formula as torch.library.register_autograd does, and return what calls the op with it.

    The returned function takes what the op takes, in order, and gives the first `num_results` of its results, which
    alone can be differentiated; `backward` sees None for the gradients of the others.
    """
    torch.library.register_autograd(op._schema.name, backward, setup_context=setup_context, lib=lib)
    no_grads = (None,) * (len(op._schema.returns) - num_results)

    def first(output: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        if isinstance(output, Tensor):
            return output
        return output[0] if num_results == 1 else output[:num_results]

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            with torch._C._AutoDispatchBelowAutograd():
                output = op(*inputs)
            setup_context(ctx, inputs, output)
            return first(output)

        @staticmethod
        def backward(ctx, *grads):
            return backward(ctx, *grads, *no_grads)

    def call(*inputs: object) -> Tensor | tuple[Tensor, ...]:
        if torch.compiler.is_compiling() or not _records(*inputs):
            return first(without_gradient(op, *inputs))
        return Function.apply(*inputs)

    return call


def without_gradient(op: torch._ops.OpOverload, *inputs: object) -> Tensor | tuple[Tensor, ...]:
    """op(*inputs), past its formula unless that is needed: for a second derivative, say, in a backward pass."""
    if torch.compiler.is_compiling() or _records(*inputs):
        return op(*inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*inputs)


def only_once(op: str) -> Callable:
    """The formula of a backward op, which has none: an error instead of silently wrong gradients."""

    def backward(_ctx, *_grads):
        raise RuntimeError(f"{op}: must be differentiated once, got a second derivative")

    return backward


def _records(*inputs: object) -> bool:
    return torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs)
