"""airank_fast::adagrad_: one step of Adagrad over a whole list of parameters.

Formula in csrc/adagrad_math.h (that of torch.optim.Adagrad). Nothing in it touches the host: learning rate, step
counts, loss scale and found_inf are tensors on the parameters' device, so a step can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from airank_fast.ops.tensor_lists import check_adaptive, mark_written, newest, unscaled, write

_SCHEMA = """adagrad_(
    Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] sums, Tensor(c!)[] steps, Tensor(d!)[] copies, Tensor lr, *,
    float lr_decay=0.0, float weight_decay=0.0, float eps=1e-10, bool maximize=False, Tensor? grad_scale=None,
    Tensor? found_inf=None
) -> ()"""
_library = torch.library.Library("airank_fast", "FRAGMENT")
_library.define(_SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))


def adagrad_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    sums: Sequence[Tensor],
    steps: Sequence[Tensor],
    copies: Sequence[Tensor],
    lr: Tensor,
    *,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    eps: float = 1e-10,
    maximize: bool = False,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Update `params` in place by one step of Adagrad, as torch.optim.Adagrad does.

    Args:
        params: float32, float64, bfloat16 or float16, all of one dtype and on one device.
        grads: one per parameter, of its shape; of the parameters' dtype, or 16-bit beside float32 parameters. They
            are not changed.
        sums: sums of squared gradients, updated; one per parameter, of its shape; float32, or float64 of float64
            parameters. They start from zeros, or from an initial value.
        steps: number of steps that each parameter has had, one float32 number per parameter, on its device; advanced
            by one.
        copies: bfloat16 or float16, one per (float32) parameter, which is its master; or empty. They are the weights of
            a model: the new parameters, rounded to nearest even, are written there in the same pass. A copy that
            differs from its rounded parameter was changed by other code, and the step begins from it.
            16-bit gradients beside them are of their dtype.
        lr: learning rate, one float32 or float64 number on the parameters' device.
        lr_decay: the rate of a parameter's step number n, counted from 1, is lr / (1 + (n - 1) * lr_decay).
        weight_decay: weight_decay times the parameter is added to the gradient.
        grad_scale: gradients are divided by it; one number on the device, like lr.
        found_inf: where it is not zero, nothing is written, and no step is counted; one number on the device, like lr.

    Any strides are accepted; tensors of one parameter with equal strides and no holes are read in the order of memory,
    without a copy. Arithmetic is in float32 (float64 for float64 parameters).

    Raises:
        RuntimeError: "adagrad: NAME must be WHAT, got GOT".
    """
    torch.ops.airank_fast.adagrad_(
        params,
        grads,
        sums,
        steps,
        copies,
        lr,
        lr_decay=lr_decay,
        weight_decay=weight_decay,
        eps=eps,
        maximize=maximize,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )
    mark_written(params, sums, steps, copies)


@torch.library.impl(_library, "adagrad_", "CompositeExplicitAutograd")
def adagrad_reference(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    sums: Sequence[Tensor],
    steps: Sequence[Tensor],
    copies: Sequence[Tensor],
    lr: Tensor,
    *,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    eps: float = 1e-10,
    maximize: bool = False,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """The same step in plain torch: runs where there is no kernel, and is the oracle of the kernels' tests."""
    _check(params, grads, sums, steps, copies, lr, grad_scale, found_inf)
    for i, param in enumerate(params):
        wide = torch.promote_types(param.dtype, torch.float32)
        old = newest(param, copies[i] if copies else None).to(wide)
        rate = lr.double().reshape(()) / (1 + steps[i].double().reshape(()) * lr_decay)
        g = unscaled(grads[i], wide, grad_scale, maximize)
        if weight_decay != 0:
            g = g + weight_decay * old
        total = sums[i] + g * g
        new = old - rate.to(wide) * (g / (total.sqrt() + eps))
        write(sums[i], total, found_inf)
        write(steps[i], steps[i] + 1, found_inf)
        write(param, new, found_inf)
        if copies:
            write(copies[i], new, found_inf)


@torch.library.register_fake("airank_fast::adagrad_", lib=_library)
def _adagrad_fake(
    params,
    grads,
    sums,
    steps,
    copies,
    lr,
    *,
    grad_scale=None,
    found_inf=None,
    **_options,
):
    _check(params, grads, sums, steps, copies, lr, grad_scale, found_inf)


def _check(params, grads, sums, steps, copies, lr, grad_scale, found_inf) -> None:
    scalars = {"lr": lr, "grad_scale": grad_scale, "found_inf": found_inf}
    check_adaptive("adagrad", params, grads, {"sums": sums}, steps, copies, **scalars)
