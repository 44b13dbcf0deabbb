"""airank_fast::adam_: one step of Adam or AdamW over a whole list of parameters.

Formula in csrc/adam_math.h (that of torch.optim.Adam and AdamW). Nothing in it touches the host: learning rate, step
counts, loss scale and found_inf are tensors on the parameters' device, so a step can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from airank_fast.ops.tensor_lists import check_adaptive, mark_written, newest, unscaled, write

_SCHEMA = """adam_(
    Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] steps,
    Tensor(e!)[] copies, Tensor lr, *, float beta1=0.9, float beta2=0.999, float eps=1e-8, float weight_decay=0.0,
    bool decoupled_weight_decay=False, bool bias_correction=True, bool maximize=False, Tensor? grad_scale=None,
    Tensor? found_inf=None
) -> ()"""
_library = torch.library.Library("airank_fast", "FRAGMENT")
_library.define(_SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))


def adam_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    copies: Sequence[Tensor],
    lr: Tensor,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    bias_correction: bool = True,
    maximize: bool = False,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Update `params` in place by one step of Adam, as torch.optim.Adam and AdamW do.

    Args:
        params: float32, float64, bfloat16 or float16, all of one dtype and on one device.
        grads: one per parameter, of its shape; of the parameters' dtype, or 16-bit beside float32 parameters. They
            are not changed.
        exp_avgs, exp_avg_sqs: first and second moments, updated; one per parameter, of its shape; float32, or float64
            of float64 parameters. They start from zeros.
        steps: number of steps that each parameter has had, one float32 number per parameter, on its device; advanced
            by one.
        copies: bfloat16 or float16, one per (float32) parameter, which is its master; or empty. They are the weights of
            a model: the new parameters, rounded to nearest even, are written there in the same pass. A copy that
            differs from its rounded parameter was changed by other code, and the step begins from it.
            16-bit gradients beside them are of their dtype.
        lr: learning rate, one float32 or float64 number on the parameters' device.
        weight_decay: weight_decay times the parameter is added to the gradient (Adam).
        decoupled_weight_decay: instead, the parameter loses lr * weight_decay of itself (AdamW).
        bias_correction: divide the moments by 1 - beta ** step.
        grad_scale: gradients are divided by it; one number on the device, like lr.
        found_inf: where it is not zero, nothing is written, and no step is counted; one number on the device, like lr.

    Any strides are accepted; tensors of one parameter with equal strides and no holes are read in the order of memory,
    without a copy. Arithmetic is in float32 (float64 for float64 parameters).

    Raises:
        RuntimeError: "adam: NAME must be WHAT, got GOT".
    """
    torch.ops.airank_fast.adam_(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        steps,
        copies,
        lr,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        decoupled_weight_decay=decoupled_weight_decay,
        bias_correction=bias_correction,
        maximize=maximize,
        grad_scale=grad_scale,
        found_inf=found_inf,
    )
    mark_written(params, exp_avgs, exp_avg_sqs, steps, copies)


@torch.library.impl(_library, "adam_", "CompositeExplicitAutograd")
def adam_reference(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    steps: Sequence[Tensor],
    copies: Sequence[Tensor],
    lr: Tensor,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    bias_correction: bool = True,
    maximize: bool = False,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """The same step in plain torch: runs where there is no kernel, and is the oracle of the kernels' tests."""
    _check(params, grads, exp_avgs, exp_avg_sqs, steps, copies, lr, grad_scale, found_inf)
    rate = lr.double().reshape(())
    one = torch.ones_like(rate)
    for i, param in enumerate(params):
        wide = torch.promote_types(param.dtype, torch.float32)
        old = newest(param, copies[i] if copies else None).to(wide)
        count = steps[i].double().reshape(()) + 1
        correction1, correction2 = (1 - beta**count if bias_correction else one for beta in (beta1, beta2))
        g = unscaled(grads[i], wide, grad_scale, maximize)
        if weight_decay != 0 and not decoupled_weight_decay:
            g = g + weight_decay * old
        m = beta1 * exp_avgs[i] + (1 - beta1) * g
        v = beta2 * exp_avg_sqs[i] + (1 - beta2) * g * g
        update = (rate / correction1).to(wide) * (m / (correction2.rsqrt().to(wide) * v.sqrt() + eps))
        if weight_decay != 0 and decoupled_weight_decay:
            update = update + (rate * weight_decay).to(wide) * old
        new = old - update
        write(exp_avgs[i], m, found_inf)
        write(exp_avg_sqs[i], v, found_inf)
        write(steps[i], steps[i] + 1, found_inf)
        write(param, new, found_inf)
        if copies:
            write(copies[i], new, found_inf)


@torch.library.register_fake("airank_fast::adam_", lib=_library)
def _adam_fake(
    params,
    grads,
    exp_avgs,
    exp_avg_sqs,
    steps,
    copies,
    lr,
    *,
    grad_scale=None,
    found_inf=None,
    **_options,
):
    _check(params, grads, exp_avgs, exp_avg_sqs, steps, copies, lr, grad_scale, found_inf)


def _check(params, grads, exp_avgs, exp_avg_sqs, steps, copies, lr, grad_scale, found_inf) -> None:
    states = {"exp_avgs": exp_avgs, "exp_avg_sqs": exp_avg_sqs}
    check_adaptive("adam", params, grads, states, steps, copies, lr=lr, grad_scale=grad_scale, found_inf=found_inf)
