"""Gives ops their gradients, with eager calls in half the time that torch.library.register_autograd takes.

torch.library registers a gradient as a kernel in Python, which the dispatcher calls before every call of the op, with
gradients or without. torch.compile needs it; eager calls skip it.

A kernel is opaque to code that reads or transforms the arithmetic. Exports (torch.export, ONNX, torch.jit.trace),
torch.func and vmap, forward-mode differentiation and DTensor therefore get the same formula in torch's own operators,
which have rules for all of them; `needs_torchs_own` alone decides. So do backward passes that are differentiated
themselves: their second derivatives are torch's.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.overrides import handle_torch_function, has_torch_function

_ORDINARY = frozenset((Tensor, Parameter, type(None), int, float, bool, str, torch.dtype))


def differentiable(
    op: torch._ops.OpOverload,
    setup_context: Callable,
    backward: Callable,
    torchs_own: Callable,
    *,
    lib: torch.library.Library,
    num_results: int = 1,
) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    """Register a gradient as torch.library.register_autograd does, and return a function that calls the op with it.

    The function takes the op's arguments, in order, and returns the first `num_results` of its results, the only ones
    that can be differentiated; `backward` gets None for the gradients of the others. `torchs_own` takes and returns
    the same, in torch's own operators.
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
        if needs_torchs_own(*inputs):
            return torchs_own(*inputs)
        if torch.compiler.is_compiling():
            return first(op(*inputs))
        if not records(*inputs):
            with torch._C._AutoDispatchBelowAutograd():
                return first(op(*inputs))
        return Function.apply(*inputs)

    return call


def overridable(function: Callable) -> Callable:
    """Call __torch_function__ of tensor-like arguments, as torch's functions do: torch.fx records one node."""

    @functools.wraps(function)
    def call(*args: object, **kwargs: object) -> Tensor | tuple[Tensor, ...]:
        values = (*args, *kwargs.values())
        if has_torch_function(values):
            return handle_torch_function(call, values, *args, **kwargs)
        return function(*args, **kwargs)

    return call


def needs_torchs_own(*inputs: object) -> bool:
    """Whether the arithmetic must be visible: to an export, a transform of torch.func, forward mode, DTensor."""
    if torch._C._are_functorch_transforms_active():
        return True
    if torch.compiler.is_compiling():
        return torch.compiler.is_exporting()
    if torch._C._get_tracing_state() is not None or forward_ad._current_level >= 0:
        return True
    unusual = [value for value in inputs if type(value) not in _ORDINARY]
    return any(map(_is_distributed, unusual))


def backward_of(kernel: Callable, formula: Callable, *inputs: object) -> Tensor | tuple[Tensor | None, ...]:
    """kernel(*inputs), one op or several; formula(*inputs) where the result is differentiated, or under vmap."""
    if torch.compiler.is_compiling():
        return kernel(*inputs)
    if in_vmap(*inputs) or records(*inputs):
        return formula(*inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return kernel(*inputs)


def in_vmap(*inputs: object) -> bool:
    """Whether a backward pass gets a batch of gradients, from torch.func or `is_grads_batched`."""
    is_batched = torch._C._functorch.is_legacy_batchedtensor
    return torch._C._are_functorch_transforms_active() or any(is_batched(t) for t in inputs if isinstance(t, Tensor))


def refuse_derivatives(lib: torch.library.Library, *ops: str) -> None:
    """Make the derivative of these backward ops, which backward_of() never takes, an error instead of zero."""

    def refuse(op: str) -> Callable:
        def backward(_ctx, *_grads):
            raise RuntimeError(f"{op}: must not be differentiated by itself, got a gradient")

        return backward

    for op in ops:
        torch.library.register_autograd(f"airank_fast::{op}", refuse(op), lib=lib)


def tied(value: Tensor, function: Tensor) -> Tensor:
    """The saved value, with the derivatives of `function`, the same value computed from a tensor."""
    return value + (function - function.detach())


def records(*inputs: object) -> bool:
    """Whether autograd records operators on these."""
    if torch.compiler.is_compiling():  # it cannot trace _any_requires_grad
        return torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in inputs)
    return torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs)


def _is_distributed(value: object) -> bool:
    tensor = sys.modules.get("torch.distributed.tensor")
    return tensor is not None and isinstance(value, tensor.DTensor)
