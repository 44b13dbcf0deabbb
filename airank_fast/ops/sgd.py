"""airank_fast::sgd_: one step of SGD with momentum over a whole list of parameters.

Formula in csrc/sgd_math.h (that of torch.optim.SGD). Nothing in it touches the host: learning rate, loss
scale and found_inf are tensors on the parameters' device, so a step can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from airank_fast.ops.checks import require
from airank_fast.ops.tensor_lists import (
    check_dtypes,
    check_list,
    check_list_dtype,
    check_scalars,
    mark_written,
    newest,
    unscaled,
    write,
)

_SCHEMA = """sgd_(
    Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] momentum_buffers, Tensor(c!)[] copies, Tensor lr, *,
    float momentum=0.0, float dampening=0.0, float weight_decay=0.0, bool nesterov=False, bool maximize=False,
    Tensor? grad_scale=None, Tensor? found_inf=None
) -> ()"""
_library = torch.library.Library("airank_fast", "FRAGMENT")
_library.define(_SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))


def sgd_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    copies: Sequence[Tensor],
    lr: Tensor,
    *,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Update `params` in place by one step of SGD, as torch.optim.SGD does.

    Args:
        params: float32, float64, bfloat16 or float16, all of one dtype and on one device.
        grads: one per parameter, of its shape; of the parameters' dtype, or 16-bit beside float32
            parameters. They are not changed.
        momentum_buffers: one per parameter, of its shape and dtype, updated; empty if momentum is 0. They start from
            zeros; PyTorch's first step, which is never dampened, is a call with dampening=0.
        copies: bfloat16 or float16, one per (float32) parameter, which is its master; or empty. They are the weights of
            a model: the new parameters, rounded to nearest even, are written there in the same pass. A copy that
            differs from its rounded parameter was changed by other code, and the step begins from it.
            16-bit gradients beside them are of their dtype.
        lr: learning rate, one float32 or float64 number on the parameters' device.
        grad_scale: gradients are divided by it; one number on the device, like lr.
        found_inf: where it is not zero, nothing is written; one number on the device, like lr.

    Any strides are accepted; tensors of one parameter with equal strides and no holes are read in the order of memory,
    without a copy. Arithmetic is in float32 (float64 for float64 parameters).

    Raises:
        RuntimeError: "sgd: NAME must be WHAT, got GOT".
    """
    torch.ops.airank_fast.sgd_(
        params,
        grads,
        momentum_buffers,
        copies,
        lr,
        momentum=momentum,
        dampening=dampening,
        weight_decay=weight_decay,
        nesterov=nesterov,
        maximize=maximize,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )
    mark_written(params, momentum_buffers, copies)


@torch.library.impl(_library, "sgd_", "CompositeExplicitAutograd")
def sgd_reference(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    momentum_buffers: Sequence[Tensor],
    copies: Sequence[Tensor],
    lr: Tensor,
    *,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    maximize: bool = False,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """The same step in plain torch: runs where there is no kernel, and is the oracle of the kernels' tests."""
    _check(params, grads, momentum_buffers, copies, lr, momentum, grad_scale, found_inf)
    for i, param in enumerate(params):
        wide = torch.promote_types(param.dtype, torch.float32)
        old = newest(param, copies[i] if copies else None).to(wide)
        g = unscaled(grads[i], wide, grad_scale, maximize)
        if weight_decay != 0:
            g = g + weight_decay * old
        if momentum != 0:
            buffer = momentum * momentum_buffers[i].to(wide) + (1 - dampening) * g
            write(momentum_buffers[i], buffer, found_inf)
            g = g + momentum * buffer if nesterov else buffer
        new = old - lr.to(wide) * g
        write(param, new, found_inf)
        if copies:
            write(copies[i], new, found_inf)


@torch.library.register_fake("airank_fast::sgd_", lib=_library)
def _sgd_fake(
    params,
    grads,
    momentum_buffers,
    copies,
    lr,
    *,
    momentum=0.0,
    grad_scale=None,
    found_inf=None,
    **_options,
):
    _check(params, grads, momentum_buffers, copies, lr, momentum, grad_scale, found_inf)


def _check(params, grads, momentum_buffers, copies, lr, momentum, grad_scale, found_inf) -> None:
    """The checks of csrc/sgd_args.h, in the same order and words."""
    check_list("sgd", "params", params, params)
    check_list("sgd", "grads", grads, params)
    if momentum == 0:
        required = "momentum_buffers must be empty without momentum"
        require("sgd", not momentum_buffers, required, len(momentum_buffers))
    else:
        check_list("sgd", "momentum_buffers", momentum_buffers, params)
    if copies:
        check_list("sgd", "copies", copies, params)
    if not params:
        return
    check_dtypes("sgd", params, grads, copies)
    if momentum != 0:
        check_list_dtype("sgd", "momentum_buffers", momentum_buffers, params[0].dtype)
    check_scalars("sgd", params[0].device, lr=lr, grad_scale=grad_scale, found_inf=found_inf)
