"""airank_fast::ftrl_: one step of FTRL-Proximal over a whole list of parameters.

Formula in csrc/ftrl_math.h (McMahan et al. 2013, with the options of Keras's Ftrl). Nothing in it touches the host:
learning rate, step counts, loss scale and found_inf are tensors on the parameters' device, so a step can be captured in
a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from airank_fast.ops.tensor_lists import check_adaptive, mark_written, newest, unscaled, write

_SCHEMA = """ftrl_(
    Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] accumulators, Tensor(c!)[] linears, Tensor(d!)[] steps,
    Tensor(e!)[] copies, Tensor lr, *, float lr_power=-0.5, float l1=0.0, float l2=0.0, float l2_shrinkage=0.0,
    float beta=0.0, bool maximize=False, Tensor? grad_scale=None, Tensor? found_inf=None
) -> ()"""
_library = torch.library.Library("airank_fast", "FRAGMENT")
_library.define(_SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))


def ftrl_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    accumulators: Sequence[Tensor],
    linears: Sequence[Tensor],
    steps: Sequence[Tensor],
    copies: Sequence[Tensor],
    lr: Tensor,
    *,
    lr_power: float = -0.5,
    l1: float = 0.0,
    l2: float = 0.0,
    l2_shrinkage: float = 0.0,
    beta: float = 0.0,
    maximize: bool = False,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Update `params` in place by one step of FTRL-Proximal, as Keras's Ftrl does.

    Args:
        params: float32, float64, bfloat16 or float16, all of one dtype and on one device.
        grads: one per parameter, of its shape; of the parameters' dtype, or 16-bit beside float32 parameters. They
            are not changed.
        accumulators: sums of squared gradients, n, updated; one per parameter, of its shape; float32, or float64 of
            float64 parameters. They start from an initial value, 0.1 in Keras.
        linears: the linear terms, z, updated; likewise; they start from zeros.
        steps: number of steps that each parameter has had, one float32 number per parameter, on its device; advanced
            by one. The formula does not depend on them.
        copies: bfloat16 or float16, one per (float32) parameter, which is its master; or empty. They are the weights of
            a model: the new parameters, rounded to nearest even, are written there in the same pass. A copy that
            differs from its rounded parameter was changed by other code, and the step begins from it.
            16-bit gradients beside them are of their dtype.
        lr: learning rate, one float32 or float64 number on the parameters' device. Where it is 0, a step is counted
            and nothing else changes.
        lr_power: the rate of a weight is lr * n^lr_power; at most 0.
        l1: weights whose linear term is at most this are exactly 0.
        l2: strength of the penalty on squared weights, which keeps them near 0.
        l2_shrinkage: 2 * l2_shrinkage times the parameter is added to the gradient in the linear term alone.
        beta: added to n^-lr_power, the paper's.
        grad_scale: gradients are divided by it; one number on the device, like lr.
        found_inf: where it is not zero, nothing is written, and no step is counted; one number on the device, like lr.

    Any strides are accepted; tensors of one parameter with equal strides and no holes are read in the order of memory,
    without a copy. Arithmetic is in float32 (float64 for float64 parameters).

    Raises:
        RuntimeError: "ftrl: NAME must be WHAT, got GOT".
    """
    torch.ops.airank_fast.ftrl_(
        params,
        grads,
        accumulators,
        linears,
        steps,
        copies,
        lr,
        lr_power=lr_power,
        l1=l1,
        l2=l2,
        l2_shrinkage=l2_shrinkage,
        beta=beta,
        maximize=maximize,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )
    mark_written(params, accumulators, linears, steps, copies)


@torch.library.impl(_library, "ftrl_", "CompositeExplicitAutograd")
def ftrl_reference(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    accumulators: Sequence[Tensor],
    linears: Sequence[Tensor],
    steps: Sequence[Tensor],
    copies: Sequence[Tensor],
    lr: Tensor,
    *,
    lr_power: float = -0.5,
    l1: float = 0.0,
    l2: float = 0.0,
    l2_shrinkage: float = 0.0,
    beta: float = 0.0,
    maximize: bool = False,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """The same step in plain torch: runs where there is no kernel, and is the oracle of the kernels' tests."""
    _check(params, grads, accumulators, linears, steps, copies, lr, grad_scale, found_inf)
    for i, param in enumerate(params):
        wide = torch.promote_types(param.dtype, torch.float32)
        old = newest(param, copies[i] if copies else None).to(wide)
        g = unscaled(grads[i], wide, grad_scale, maximize)
        new, accumulator, linear = ftrl_formula(
            old,
            g,
            accumulators[i],
            linears[i],
            lr,
            lr_power=lr_power,
            l1=l1,
            l2=l2,
            l2_shrinkage=l2_shrinkage,
            beta=beta,
        )
        write(steps[i], steps[i] + 1, found_inf)
        write(accumulators[i], accumulator, found_inf)
        write(linears[i], linear, found_inf)
        for to in (param, *copies[i : i + 1]):
            write(to, new, found_inf)


def ftrl_formula(
    old: Tensor,
    g: Tensor,
    accumulator: Tensor,
    linear: Tensor,
    lr: Tensor,
    *,
    lr_power: float,
    l1: float,
    l2: float,
    l2_shrinkage: float,
    beta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The new parameter, accumulator and linear term, of the dtype of the old ones; `g` is the unscaled gradient."""
    tiny = torch.finfo(old.dtype).tiny
    rate = lr.double().reshape(())
    inverse_lr = torch.where(rate == 0, 0.0, 1 / rate)
    total = accumulator + g * g
    if lr_power == -0.5:
        after = total.sqrt()
        growth = g * g / (after + accumulator.sqrt() + tiny)
    else:
        after = total.pow(-lr_power)
        growth = after - accumulator.pow(-lr_power)
    added = g + 2 * l2_shrinkage * old if l2_shrinkage != 0 else g
    new_linear = linear + (added - growth * inverse_lr.to(old.dtype) * old)
    curvature = (beta * inverse_lr + 2 * l2).to(old.dtype)
    new = (new_linear.clamp(-l1, l1) - new_linear) / (after * inverse_lr.to(old.dtype) + curvature + tiny)
    changed = ((new, old), (total, accumulator), (new_linear, linear))
    new, total, new_linear = (torch.where(rate == 0, unchanged, value) for value, unchanged in changed)
    return new, total, new_linear


@torch.library.register_fake("airank_fast::ftrl_", lib=_library)
def _ftrl_fake(
    params,
    grads,
    accumulators,
    linears,
    steps,
    copies,
    lr,
    *,
    grad_scale=None,
    found_inf=None,
    **_options,
):
    _check(params, grads, accumulators, linears, steps, copies, lr, grad_scale, found_inf)


def _check(params, grads, accumulators, linears, steps, copies, lr, grad_scale, found_inf) -> None:
    states = {"accumulators": accumulators, "linears": linears}
    scalars = {"lr": lr, "grad_scale": grad_scale, "found_inf": found_inf}
    check_adaptive("ftrl", params, grads, states, steps, copies, **scalars)
