"""airank_fast::fm: the second-order term of a factorization machine, and its backward, one read of the embeddings each.

Formula in csrc/fm_math.h (Rendle 2010). Only the embeddings are saved for backward, which takes their sums again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from airank_fast.ops import autograd
from airank_fast.ops.checks import check_device, check_dtype, check_floating, check_shape, require

_SCHEMAS = ("fm(Tensor x) -> Tensor", "fm_backward(Tensor grad, Tensor x) -> Tensor")
_library = torch.library.Library("airank_fast", "FRAGMENT")
for _schema in _SCHEMAS:
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


@autograd.overridable
def fm(x: Tensor) -> Tensor:
    """The sum over all pairs of fields of their embeddings' dot product.

    By 1/2 * ((sum of the fields)^2 - sum of their squares), summed over the dimensions.

    Args:
        x: embeddings [..., fields, dim], float32, float64, bfloat16 or float16; copied where it is not contiguous.

    Returns:
        [...], float32, or float64 of float64 x, as is the arithmetic: a term of a logit is not rounded to 16 bits. The
        gradient has the dtype of x.

    Raises:
        RuntimeError: "fm: NAME must be WHAT, got GOT".
    """
    return _fm(x)


@torch.library.impl(_library, "fm", "CompositeExplicitAutograd")
def fm_reference(x: Tensor) -> Tensor:
    """The same in plain torch."""
    _check(x)
    return _second_order(x)


@torch.library.impl(_library, "fm_backward", "CompositeExplicitAutograd")
def fm_backward_reference(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of x in plain torch."""
    _check_backward(grad, x)
    return _gradient(grad, x).contiguous()


def _second_order(x: Tensor) -> Tensor:
    wide = x.to(_wide(x))
    return 0.5 * (wide.sum(-2).square() - wide.square().sum(-2)).sum(-1)


def _gradient(grad: Tensor, x: Tensor) -> Tensor:
    wide = x.to(_wide(x))
    return (grad[..., None, None] * (wide.sum(-2, keepdim=True) - wide)).to(x.dtype)


@torch.library.register_fake("airank_fast::fm", lib=_library)
def _fake(x):
    _check(x)
    return x.new_empty(x.shape[:-2], dtype=_wide(x))


@torch.library.register_fake("airank_fast::fm_backward", lib=_library)
def _backward_fake(grad, x):
    _check_backward(grad, x)
    return x.new_empty(x.shape)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    (x,) = ctx.saved_tensors
    return autograd.backward_of(torch.ops.airank_fast.fm_backward.default, _gradient, grad, x)


_fm = autograd.differentiable(torch.ops.airank_fast.fm.default, _setup_context, _backward, _second_order, lib=_library)
autograd.refuse_derivatives(_library, "fm_backward")


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _check(x: Tensor, op: str = "fm") -> None:
    """The checks of csrc/fm_args.h, in the same order and words."""
    check_floating(op, "x", x)
    require(op, x.dim() >= 2, "x must have shape [..., fields, dim]", list(x.shape))


def _check_backward(grad: Tensor, x: Tensor) -> None:
    op = "fm_backward"
    _check(x, op)
    check_device(op, "grad", grad, x.device)
    check_dtype(op, "grad", grad, _wide(x))
    check_shape(op, "grad", grad, x.shape[:-2])
