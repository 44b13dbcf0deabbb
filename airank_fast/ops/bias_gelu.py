"""airank_fast::bias_gelu: GELU of x + bias, and its backward, one pass each.

Formula in csrc/bias_gelu_math.h (that of torch.nn.functional.gelu). Backward recomputes from x and bias, which alone
are saved, and sums the bias's gradient in a fixed order.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.ops import autograd
from airank_fast.ops.checks import check_device, check_dtype, check_floating, check_shape, param_dtypes, require

_SCHEMAS = (
    "bias_gelu(Tensor x, Tensor bias, str approximate) -> Tensor",
    "bias_gelu_backward(Tensor grad, Tensor x, Tensor bias, str approximate) -> (Tensor, Tensor)",
)
_library = torch.library.Library("airank_fast", "FRAGMENT")
for _schema in _SCHEMAS:
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


@autograd.overridable
def bias_gelu(x: Tensor, bias: Tensor, approximate: str = "none") -> Tensor:
    """gelu(x + bias), as torch.nn.functional.gelu.

    Args:
        x: [..., features], float32, float64, bfloat16 or float16; copied where it is not contiguous.
        bias: [features], of the dtype of x, or float32 beside a 16-bit x.
        approximate: "none" for the exact normal distribution, "tanh" for its approximation.

    Returns:
        A contiguous tensor of the shape and dtype of x. Arithmetic, and the sum that is the bias's gradient, are in
        float32 (float64 for float64): x + bias is not rounded to 16 bits.

    Raises:
        RuntimeError: "bias_gelu: NAME must be WHAT, got GOT".
    """
    return _bias_gelu(x, bias, approximate)


@torch.library.impl(_library, "bias_gelu", "CompositeExplicitAutograd")
def bias_gelu_reference(x: Tensor, bias: Tensor, approximate: str) -> Tensor:
    """The same in plain torch."""
    _check(x, bias, approximate)
    return F.gelu(_sum(x, bias), approximate=approximate).to(x.dtype).contiguous()


@torch.library.impl(_library, "bias_gelu_backward", "CompositeExplicitAutograd")
def bias_gelu_backward_reference(grad: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    """Gradients of x and bias in plain torch."""
    _check_backward(grad, x, bias, approximate)
    dx, dbias = _gradients(grad, x, bias, approximate)
    return dx.contiguous(), dbias


def _gradients(grad: Tensor, x: Tensor, bias: Tensor, approximate: str) -> tuple[Tensor, Tensor]:
    u = _sum(x, bias)
    dx = torch.ops.aten.gelu_backward(grad.to(u.dtype), u, approximate=approximate)
    return dx.to(x.dtype), dx.reshape(-1, len(bias)).sum(0).to(bias.dtype)


@torch.library.register_fake("airank_fast::bias_gelu", lib=_library)
def _fake(x, bias, approximate):
    _check(x, bias, approximate)
    return x.new_empty(x.shape)


@torch.library.register_fake("airank_fast::bias_gelu_backward", lib=_library)
def _backward_fake(grad, x, bias, approximate):
    _check_backward(grad, x, bias, approximate)
    return x.new_empty(x.shape), bias.new_empty(bias.shape)


def _setup_context(ctx, inputs, output):
    x, bias, ctx.approximate = inputs
    ctx.save_for_backward(x, bias)


def _backward(ctx, grad):
    x, bias = ctx.saved_tensors
    op = torch.ops.airank_fast.bias_gelu_backward.default
    return *autograd.backward_of(op, _gradients, grad, x, bias, ctx.approximate), None


def _torchs_own(x, bias, approximate):
    return F.gelu(x + bias, approximate=approximate).to(x.dtype)


_bias_gelu = autograd.differentiable(
    torch.ops.airank_fast.bias_gelu.default, _setup_context, _backward, _torchs_own, lib=_library
)
autograd.refuse_derivatives(_library, "bias_gelu_backward")


def _sum(x: Tensor, bias: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    return x.to(wide) + bias.to(wide)


def _check(x: Tensor, bias: Tensor, approximate: str, op: str = "bias_gelu") -> None:
    """The checks of csrc/bias_gelu_args.h, in the same order and words."""
    check_floating(op, "x", x)
    require(op, x.dim() >= 1, "x must have shape [..., features]", list(x.shape))
    check_device(op, "bias", bias, x.device)
    check_dtype(op, "bias", bias, *param_dtypes(x.dtype))
    check_shape(op, "bias", bias, x.shape[-1:])
    require(op, approximate in ("none", "tanh"), "approximate must be none or tanh", approximate)


def _check_backward(grad: Tensor, x: Tensor, bias: Tensor, approximate: str) -> None:
    op = "bias_gelu_backward"
    _check(x, bias, approximate, op)
    check_device(op, "grad", grad, x.device)
    check_dtype(op, "grad", grad, x.dtype)
    check_shape(op, "grad", grad, x.shape)
