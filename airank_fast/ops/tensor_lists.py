"""Checks the optimizer ops' lists of tensors, in the order and words of csrc/tensor_lists.h."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from airank_fast.ops.checks import (
    IN_16_BITS,
    check_dense,
    check_device,
    check_dtype,
    check_floating,
    check_shape,
    name_of,
    require,
    text_of,
)


def check_list(op: str, name: str, tensors: Sequence[Tensor], params: Sequence[Tensor]) -> None:
    """``tensors`` must be parallel to ``params``, of one dtype and on the device of params[0]."""
    required = f"{name} must have as many tensors as params ({len(params)})"
    require(op, len(tensors) == len(params), required, len(tensors))
    for i, (tensor, param) in enumerate(zip(tensors, params, strict=True)):
        this, dtype = f"{name}[{i}]", tensors[0].dtype
        check_device(op, this, tensor, params[0].device)
        check_dense(op, this, tensor)
        require(op, tensor.dtype == dtype, f"{this} must be {name_of(dtype)} like the others", name_of(tensor.dtype))
        check_shape(op, this, tensor, param.shape)


def check_dtypes(op: str, params: Sequence[Tensor], grads: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
    """Parameters of any floating type, gradients like them or 16-bit beside float32, 16-bit copies of float32.

    Beside copies, 16-bit gradients have their dtype.
    """
    check_floating(op, "params", params[0])
    param, grad = params[0].dtype, grads[0].dtype
    narrow = param == torch.float32
    required = f"grads must be {name_of(param)}" + ", bfloat16 or float16" * narrow
    require(op, grad == param or (narrow and grad in IN_16_BITS), required, name_of(grad))
    if copies:
        required, dtype = "copies must be bfloat16 or float16, of float32 params", copies[0].dtype
        require(op, narrow and dtype in IN_16_BITS, required, f"{name_of(dtype)} of {name_of(param)}")
        require(op, grad in (param, dtype), f"grads must be float32 or {name_of(dtype)} as the copies", name_of(grad))


def check_list_dtype(op: str, name: str, tensors: Sequence[Tensor], required: torch.dtype) -> None:
    """The list must be of that dtype."""
    check_dtype(op, name, tensors[0], required)


def check_counts(op: str, name: str, counts: Sequence[Tensor], params: Sequence[Tensor]) -> None:
    """Numbers of steps: a float32 number for each parameter."""
    required = f"{name} must have as many tensors as params ({len(params)})"
    require(op, len(counts) == len(params), required, len(counts))
    for i, count in enumerate(counts):
        device = params[0].device
        good = count.numel() == 1 and count.dtype == torch.float32 and count.device == device
        require(op, good, f"{name}[{i}] must be one float32 number on {device}", text_of(count))


def check_adaptive(
    op: str,
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: dict[str, Sequence[Tensor]],
    steps: Sequence[Tensor],
    copies: Sequence[Tensor],
    **scalars: Tensor | None,
) -> None:
    """The checks of csrc/adaptive_args.h, in the same order and words; ``states``: name -> list."""
    for name, tensors in {"params": params, "grads": grads, **states}.items():
        check_list(op, name, tensors, params)
    check_counts(op, "steps", steps, params)
    if copies:
        check_list(op, "copies", copies, params)
    if not params:
        return
    check_dtypes(op, params, grads, copies)
    for name, tensors in states.items():
        check_list_dtype(op, name, tensors, torch.promote_types(params[0].dtype, torch.float32))
    check_scalars(op, params[0].device, **scalars)


def check_scalars(op: str, device: torch.device, **scalars: Tensor | None) -> None:
    """Each that is given must be one float32 or float64 number on ``device``."""
    for name, scalar in scalars.items():
        if scalar is not None:
            good = scalar.numel() == 1 and scalar.dtype in (torch.float32, torch.float64) and scalar.device == device
            require(op, good, f"{name} must be one float32 or float64 number on {device}", text_of(scalar))


def newest(param: Tensor, copy: Tensor | None) -> Tensor:
    """The parameter, or its 16-bit copy where that differs from the rounded parameter: other code wrote it."""
    return param if copy is None else torch.where(param.to(copy.dtype) == copy, param, copy.to(param.dtype))


def norms_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The 2-norm of each."""
    return [torch.linalg.vector_norm(tensor) for tensor in tensors]


def mark_written(*lists: Sequence[Tensor]) -> None:
    """Let autograd detect that an op has changed these tensors, where it saved one of them."""
    if not torch.compiler.is_compiling():  # a compiled graph does this by itself
        torch.autograd.graph.increment_version([tensor for tensors in lists for tensor in tensors])


def unscaled(grad: Tensor, dtype: torch.dtype, grad_scale: Tensor | None, maximize: bool) -> Tensor:
    """The gradient in ``dtype``, divided by the scale, negative to maximise."""
    grad = grad.to(dtype)
    if grad_scale is not None:
        grad = grad * grad_scale.double().reciprocal().to(dtype).reshape(())
    return -grad if maximize else grad


def write(to: Tensor, new: Tensor, found_inf: Tensor | None) -> None:
    """Round ``new`` into ``to`` unless ``found_inf`` is set."""
    to.copy_(new if found_inf is None else torch.where(found_inf.reshape(()) == 0, new.to(to.dtype), to))
