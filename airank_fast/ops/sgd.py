"""airank_fast::sgd_: one step of SGD with momentum over a whole list of parameters.

Formula in csrc/sgd_math.h (that of torch.optim.SGD). Nothing in it touches the host: learning rate, loss
scale and found_inf are tensors on the parameters' device, so a step can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_SCHEMA = """sgd_(
    Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] momentum_buffers, Tensor(c!)[] copies, Tensor lr, *,
    float momentum=0.0, float dampening=0.0, float weight_decay=0.0, bool nesterov=False, bool maximize=False,
    Tensor? grad_scale=None, Tensor? found_inf=None
) -> ()"""
_library = torch.library.Library("airank_fast", "FRAGMENT")
_library.define(_SCHEMA, tags=(torch.Tag.pt2_compliant_tag,))

_16_BIT = (torch.bfloat16, torch.float16)
_PARAM_DTYPES = (torch.float32, torch.float64, *_16_BIT)


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
    """Update `params` in place by one step of SGD, as torch.optim.SGD does it.

    Args:
        params: float32, float64, bfloat16 or float16, all of one dtype and on one device.
        grads: one per parameter, of its shape; of the parameters' dtype, or 16-bit beside float32
            parameters. They are not changed.
        momentum_buffers: one per parameter, of its shape and dtype, updated; empty if momentum is 0. Start
            from zeros; PyTorch's first step, which is never dampened, is had by dampening=0 in that call.
        copies: bfloat16 or float16, one per (float32) parameter: the new parameters, rounded to nearest
            even, written in the same pass; or empty.
        lr: learning rate, one float32 or float64 number on the parameters' device.
        grad_scale: gradients are divided by it; one number on the device, like lr.
        found_inf: nothing at all is written where it is not zero; one number on the device, like lr.

    Any strides will do; where the tensors of one parameter have equal strides and no holes, memory is walked
    in order and nothing is copied. Arithmetic is in float32 (float64 for float64 parameters).

    Raises:
        RuntimeError: "sgd: what is required, got what".
    """
    torch.ops.airank_fast.sgd_(
        params, grads, momentum_buffers, copies, lr, momentum=momentum, dampening=dampening,
        weight_decay=weight_decay, nesterov=nesterov, maximize=maximize,
        grad_scale=grad_scale, found_inf=found_inf,
    )  # fmt: skip
    if not torch.compiler.is_compiling():  # a compiled graph does this by itself
        # Lets autograd notice when something that it saved has been changed.
        torch.autograd.graph.increment_version([*params, *momentum_buffers, *copies])


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
    """The same step in plain torch: runs where there is no kernel, and is what kernels are tested against."""
    _check(params, grads, momentum_buffers, copies, lr, momentum, grad_scale, found_inf)
    for i, param in enumerate(params):
        wide = torch.promote_types(param.dtype, torch.float32)
        old = param.to(wide)
        g = grads[i].to(wide)
        if grad_scale is not None:
            g = g * grad_scale.to(torch.float64).reciprocal().to(wide)
        if maximize:
            g = -g
        if weight_decay != 0:
            g = g + weight_decay * old
        if momentum != 0:
            buffer = momentum * momentum_buffers[i].to(wide) + (1 - dampening) * g
            _write(momentum_buffers[i], buffer, found_inf)
            g = g + momentum * buffer if nesterov else buffer
        new = old - lr.to(wide) * g
        _write(param, new, found_inf)
        if copies:
            _write(copies[i], new, found_inf)


@torch.library.register_fake("airank_fast::sgd_", lib=_library)
def _sgd_fake(
    params, grads, momentum_buffers, copies, lr, *, momentum=0.0, dampening=0.0, weight_decay=0.0,
    nesterov=False, maximize=False, grad_scale=None, found_inf=None,
):  # fmt: skip
    _check(params, grads, momentum_buffers, copies, lr, momentum, grad_scale, found_inf)


def _write(to: Tensor, new: Tensor, found_inf: Tensor | None) -> None:
    to.copy_(new if found_inf is None else torch.where(found_inf.reshape(()) == 0, new.to(to.dtype), to))


def _require(condition: bool, required: str, got: object) -> None:
    if not condition:
        raise RuntimeError(f"sgd: {required}, got {got}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check(params, grads, momentum_buffers, copies, lr, momentum, grad_scale, found_inf) -> None:
    """The checks of csrc/sgd_args.h, in the same order and words."""
    _check_list("params", params, params)
    _check_list("grads", grads, params)
    if momentum == 0:
        required = "momentum_buffers must be empty without momentum"
        _require(not momentum_buffers, required, len(momentum_buffers))
    else:
        _check_list("momentum_buffers", momentum_buffers, params)
    if copies:
        _check_list("copies", copies, params)
    if not params:
        return

    param, grad = params[0].dtype, grads[0].dtype
    _require(param in _PARAM_DTYPES, "params must be float32, float64, bfloat16 or float16", _name(param))
    narrow = param == torch.float32
    required = f"grads must be {_name(param)}" + ", bfloat16 or float16" * narrow
    _require(grad == param or (narrow and grad in _16_BIT), required, _name(grad))
    if momentum != 0:
        dtype = momentum_buffers[0].dtype
        _require(dtype == param, f"momentum_buffers must be {_name(param)}", _name(dtype))
    if copies:
        required, dtype = "copies must be bfloat16 or float16, of float32 params", copies[0].dtype
        _require(narrow and dtype in _16_BIT, required, f"{_name(dtype)} of {_name(param)}")
    for name, scalar in (("lr", lr), ("grad_scale", grad_scale), ("found_inf", found_inf)):
        if scalar is not None:
            _check_scalar(name, scalar, params[0].device)


def _check_list(name: str, tensors: Sequence[Tensor], params: Sequence[Tensor]) -> None:
    required = f"{name} must have as many tensors as params ({len(params)})"
    _require(len(tensors) == len(params), required, len(tensors))
    for i, (tensor, param) in enumerate(zip(tensors, params, strict=True)):
        this, device, dtype = f"{name}[{i}]", params[0].device, tensors[0].dtype
        _require(tensor.device == device, f"{this} must be on {device}", tensor.device)
        _require(tensor.layout == torch.strided, f"{this} must be dense", "a sparse tensor")
        _require(tensor.dtype == dtype, f"{this} must be {_name(dtype)} like the others", _name(tensor.dtype))
        shape, got = list(param.shape), list(tensor.shape)
        _require(shape == got, f"{this} must have shape {shape}", got)


def _check_scalar(name: str, scalar: Tensor, device: torch.device) -> None:
    good = scalar.numel() == 1 and scalar.dtype in (torch.float32, torch.float64) and scalar.device == device
    got = f"{_name(scalar.dtype)} of shape {list(scalar.shape)} on {scalar.device}"
    _require(good, f"{name} must be one float32 or float64 number on {device}", got)
