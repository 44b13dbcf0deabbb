"""airank_fast::lars_: one step of LARS with momentum over a whole list of parameters.

Formula in csrc/lars_math.h (that of MLPerf's closed division and of apex.optimizers.FusedLARS). Nothing in it
touches the host: learning rate, loss scale and found_inf are tensors on the parameters' device, so a step can be
captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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
    norms_of,
    write,
)

_SCHEMA = """lars_(
    Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] velocities, Tensor(c!)[] copies, Tensor lr, *,
    float momentum=0.0, float weight_decay=0.0, float trust_coefficient=0.001, float eps=0.0, bool nesterov=False,
    bool adapt=True, Tensor? grad_scale=None, Tensor? found_inf=None
) -> ()"""
_library = torch.library.Library("airank_fast", "FRAGMENT")
_library.define(_SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))


def lars_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    velocities: Sequence[Tensor],
    copies: Sequence[Tensor],
    lr: Tensor,
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    trust_coefficient: float = 0.001,
    eps: float = 0.0,
    nesterov: bool = False,
    adapt: bool = True,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Update `params` in place by one step of LARS, as in MLPerf's closed division.

    Args:
        params: float32, float64, bfloat16 or float16, all of one dtype and on one device.
        grads: one per parameter, of its shape; of the parameters' dtype, or 16-bit beside float32 parameters. They
            are not changed.
        velocities: one per parameter, of its shape and dtype, updated; empty if momentum is 0. They start from zeros.
            They include the learning rate, and are added to the parameter.
        copies: bfloat16 or float16, one per (float32) parameter, which is its master; or empty. They are the weights of
            a model: the new parameters, rounded to nearest even, are written there in the same pass. A copy that
            differs from its rounded parameter was changed by other code, and the step begins from it.
            16-bit gradients beside them are of their dtype.
        lr: learning rate, one float32 or float64 number on the parameters' device.
        adapt: scale each tensor's learning rate by its trust ratio; MLPerf leaves batch norm and bias out.
        grad_scale: gradients are divided by it; one number on the device, like lr.
        found_inf: where it is not zero, nothing is written; one number on the device, like lr.

    Any strides are accepted; tensors of one parameter with equal strides and no holes are read in the order of memory,
    without a copy. Arithmetic is in float32 (float64 for float64 parameters), norms are summed in float64.

    Raises:
        RuntimeError: "lars: NAME must be WHAT, got GOT".
    """
    torch.ops.airank_fast.lars_(
        params,
        grads,
        velocities,
        copies,
        lr,
        momentum=momentum,
        weight_decay=weight_decay,
        trust_coefficient=trust_coefficient,
        eps=eps,
        nesterov=nesterov,
        adapt=adapt,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )
    mark_written(params, velocities, copies)


@torch.library.impl(_library, "lars_", "CompositeExplicitAutograd")
def lars_reference(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    velocities: Sequence[Tensor],
    copies: Sequence[Tensor],
    lr: Tensor,
    *,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    trust_coefficient: float = 0.001,
    eps: float = 0.0,
    nesterov: bool = False,
    adapt: bool = True,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    norms: Callable[[list[Tensor]], Iterable[Tensor]] = norms_of,
) -> None:
    """The same step in plain torch: runs where there is no kernel, and is the oracle of the kernels' tests.

    ``norms`` returns the norms of whole tensors, where the lists hold shards of them.
    """
    _check(params, grads, velocities, copies, lr, momentum, grad_scale, found_inf)
    wide = [torch.promote_types(param.dtype, torch.float32) for param in params]
    olds = [newest(param, copies[i] if copies else None).to(wide[i]) for i, param in enumerate(params)]
    gs = [grad.to(wide[i]) for i, grad in enumerate(grads)]
    if grad_scale is not None:
        gs = [g * grad_scale.to(torch.float64).reciprocal().to(g.dtype) for g in gs]
    of_params, of_grads = (list(norms(tensors)) for tensors in (olds, gs)) if adapt and params else ([], [])
    for i, (param, old, g) in enumerate(zip(params, olds, gs, strict=True)):
        rate = lr.to(wide[i]).reshape(())
        if adapt:
            rate = rate * _trust(of_params[i], of_grads[i], weight_decay, trust_coefficient, eps).to(wide[i])
        d = g + weight_decay * old if weight_decay != 0 else g
        down = rate * d
        change = -down
        if momentum != 0:
            velocity = momentum * velocities[i].to(wide[i]) - down
            write(velocities[i], velocity, found_inf)
            change = momentum * velocity - down if nesterov else velocity
        new = old + change
        write(param, new, found_inf)
        if copies:
            write(copies[i], new, found_inf)


@torch.library.register_fake("airank_fast::lars_", lib=_library)
def _lars_fake(
    params,
    grads,
    velocities,
    copies,
    lr,
    *,
    momentum=0.0,
    grad_scale=None,
    found_inf=None,
    **_options,
):
    _check(params, grads, velocities, copies, lr, momentum, grad_scale, found_inf)


def _trust(w: Tensor, g: Tensor, weight_decay: float, trust_coefficient: float, eps: float) -> Tensor:
    return torch.where((w > 0) & (g > 0), trust_coefficient * w / (g + weight_decay * w + eps), torch.ones_like(w))


def _check(params, grads, velocities, copies, lr, momentum, grad_scale, found_inf) -> None:
    """The checks of csrc/lars_args.h, in the same order and words."""
    check_list("lars", "params", params, params)
    check_list("lars", "grads", grads, params)
    if momentum == 0:
        require("lars", not velocities, "velocities must be empty without momentum", len(velocities))
    else:
        check_list("lars", "velocities", velocities, params)
    if copies:
        check_list("lars", "copies", copies, params)
    if not params:
        return
    check_dtypes("lars", params, grads, copies)
    if momentum != 0:
        check_list_dtype("lars", "velocities", velocities, params[0].dtype)
    check_scalars("lars", params[0].device, lr=lr, grad_scale=grad_scale, found_inf=found_inf)
