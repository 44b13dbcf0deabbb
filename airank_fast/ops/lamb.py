"""airank_fast::lamb_: one step of LAMB over a whole list of parameters.

Formula in csrc/lamb_math.h (that of apex.optimizers.FusedLAMB). Nothing in it touches the host: learning rate, step
count, gradient norm, loss scale and found_inf are tensors on the parameters' device, so a step can be captured in a
CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

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

_SCHEMA = """lamb_(
    Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] copies,
    Tensor lr, Tensor step, *, float beta1=0.9, float beta2=0.999, float eps=1e-6, float weight_decay=0.01,
    bool bias_correction=True, bool grad_averaging=True, bool adam_w_mode=True, bool use_nvlamb=False,
    float max_grad_norm=1.0, Tensor? grad_norm=None, Tensor? grad_scale=None, Tensor? found_inf=None
) -> ()"""
_library = torch.library.Library("airank_fast", "FRAGMENT")
_library.define(_SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))


def lamb_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    copies: Sequence[Tensor],
    lr: Tensor,
    step: Tensor,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.01,
    bias_correction: bool = True,
    grad_averaging: bool = True,
    adam_w_mode: bool = True,
    use_nvlamb: bool = False,
    max_grad_norm: float = 1.0,
    grad_norm: Tensor | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Update `params` in place by one step of LAMB, as apex's FusedLAMB does.

    Args:
        params: float32, float64, bfloat16 or float16, all of one dtype and on one device.
        grads: one per parameter, of its shape; of the parameters' dtype, or 16-bit beside float32 parameters. They
            are not changed.
        exp_avgs, exp_avg_sqs: first and second moments, updated; one per parameter, of its shape; float32, or float64
            of float64 parameters. They start from zeros.
        copies: bfloat16 or float16, one per (float32) parameter, which is its master; or empty. They are the weights of
            a model: the new parameters, rounded to nearest even, are written there in the same pass. A copy that
            differs from its rounded parameter was changed by other code, and the step begins from it.
            16-bit gradients beside them are of their dtype.
        lr: learning rate, one float32 or float64 number on the parameters' device.
        step: number of this step, counted from 1; one number on the device, like lr.
        adam_w_mode: weight decay is added to the update; without, to the gradient.
        use_nvlamb: scale every tensor by its trust ratio, also without weight decay.
        grad_norm: norm of all gradients of the model (`global_norm`), not yet divided by grad_scale. Where the divided
            norm is larger than max_grad_norm, gradients are scaled down to that. None: no clipping.
        grad_scale: gradients are divided by it; one number on the device, like lr.
        found_inf: where it is not zero, nothing is written; one number on the device, like lr.

    Any strides are accepted; tensors of one parameter with equal strides and no holes are read in the order of memory,
    without a copy. Arithmetic is in float32 (float64 for float64 parameters), norms are summed in float64.

    Raises:
        RuntimeError: "lamb: NAME must be WHAT, got GOT".
    """
    torch.ops.airank_fast.lamb_(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        copies,
        lr,
        step,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        bias_correction=bias_correction,
        grad_averaging=grad_averaging,
        adam_w_mode=adam_w_mode,
        use_nvlamb=use_nvlamb,
        max_grad_norm=max_grad_norm,
        grad_norm=grad_norm,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )
    mark_written(params, exp_avgs, exp_avg_sqs, copies)


@torch.library.impl(_library, "lamb_", "CompositeExplicitAutograd")
def lamb_reference(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    copies: Sequence[Tensor],
    lr: Tensor,
    step: Tensor,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.01,
    bias_correction: bool = True,
    grad_averaging: bool = True,
    adam_w_mode: bool = True,
    use_nvlamb: bool = False,
    max_grad_norm: float = 1.0,
    grad_norm: Tensor | None = None,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    norms: Callable[[list[Tensor]], Iterable[Tensor]] = norms_of,
) -> None:
    """The same step in plain torch: runs where there is no kernel, and is the oracle of the kernels' tests.

    ``norms`` returns the norms of whole tensors, where the lists hold shards of them.
    """
    _check(params, grads, exp_avgs, exp_avg_sqs, copies, lr, step, grad_norm, grad_scale, found_inf)
    if not params:
        return
    one = torch.ones((), dtype=torch.float64, device=params[0].device)
    scale = one if grad_scale is None else grad_scale.double().reshape(())
    factor = 1 / (scale * _clip(one, scale, grad_norm, max_grad_norm))
    count = step.double().reshape(())
    correction1, correction2 = (1 - beta**count if bias_correction else one for beta in (beta1, beta2))
    olds, updates = [], []
    for i, param in enumerate(params):
        wide = torch.promote_types(param.dtype, torch.float32)
        old = newest(param, copies[i] if copies else None).to(wide)
        g = grads[i].to(wide) * factor.to(wide)
        if weight_decay != 0 and not adam_w_mode:
            g = g + weight_decay * old
        m = beta1 * exp_avgs[i] + (1 - beta1 if grad_averaging else 1) * g
        v = beta2 * exp_avg_sqs[i] + (1 - beta2) * g * g
        update = m / correction1.to(wide) / ((v / correction2.to(wide)).sqrt() + eps)
        if weight_decay != 0 and adam_w_mode:
            update = update + weight_decay * old
        write(exp_avgs[i], m, found_inf)
        write(exp_avg_sqs[i], v, found_inf)
        olds.append(old)
        updates.append(update)
    adapts = use_nvlamb or weight_decay != 0
    of_params, of_updates = (list(norms(tensors)) for tensors in (olds, updates)) if adapts else ([], [])
    for i, (param, old, update) in enumerate(zip(params, olds, updates, strict=True)):
        rate = lr.to(old.dtype).reshape(())
        if adapts:
            rate = rate * _trust(of_params[i], of_updates[i]).to(old.dtype)
        new = old - rate * update
        write(param, new, found_inf)
        if copies:
            write(copies[i], new, found_inf)


@torch.library.register_fake("airank_fast::lamb_", lib=_library)
def _lamb_fake(
    params,
    grads,
    exp_avgs,
    exp_avg_sqs,
    copies,
    lr,
    step,
    *,
    grad_norm=None,
    grad_scale=None,
    found_inf=None,
    **_options,
):
    _check(params, grads, exp_avgs, exp_avg_sqs, copies, lr, step, grad_norm, grad_scale, found_inf)


def _clip(one: Tensor, scale: Tensor, grad_norm: Tensor | None, max_grad_norm: float) -> Tensor:
    """The divisor of the unscaled gradients."""
    if grad_norm is None:
        return one
    norm = grad_norm.double().reshape(()) / scale
    return torch.where(norm > max_grad_norm, norm / max_grad_norm, one)


def _trust(param_norm: Tensor, update_norm: Tensor) -> Tensor:
    return torch.where((param_norm != 0) & (update_norm != 0), param_norm / update_norm, torch.ones_like(param_norm))


def _check(params, grads, exp_avgs, exp_avg_sqs, copies, lr, step, grad_norm, grad_scale, found_inf) -> None:
    """The checks of csrc/lamb_args.h, in the same order and words."""
    moments = {"exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs}
    for name, tensors in {"params": params, "grads": grads, **moments}.items():
        check_list("lamb", name, tensors, params)
    if copies:
        check_list("lamb", "copies", copies, params)
    if not params:
        return
    check_dtypes("lamb", params, grads, copies)
    for name, tensors in moments.items():
        check_list_dtype("lamb", name, tensors, torch.promote_types(params[0].dtype, torch.float32))
    scalars = {"lr": lr, "step": step, "grad_norm": grad_norm, "grad_scale": grad_scale, "found_inf": found_inf}
    check_scalars("lamb", params[0].device, **scalars)
