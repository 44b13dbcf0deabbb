"""airank_fast::layer_norm: layer normalisation over the last dimensions, forward and backward.

Formula in csrc/layer_norm_math.h (that of torch.nn.LayerNorm). Statistics are float32 (float64 of float64) and are
saved for the backward pass, which recomputes the normalised rows from x.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.ops import autograd
from airank_fast.ops.checks import (
    IN_16_BITS,
    check_dense,
    check_device,
    check_dtype,
    check_floating,
    check_shape,
    name_of,
    param_dtypes,
    require,
)

_library = torch.library.Library("airank_fast", "FRAGMENT")
_library.define(
    "layer_norm(Tensor x, Tensor? weight, Tensor? bias, int num_dims, float eps, ScalarType? dtype=None)"
    " -> (Tensor y, Tensor mean, Tensor rstd)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "layer_norm_backward(Tensor grad, Tensor x, Tensor mean, Tensor rstd, Tensor? weight, int num_dims,"
    " bool need_params) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_ops = torch.ops.airank_fast


@autograd.overridable
def layer_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Normalise x over its last dimensions, as torch.nn.functional.layer_norm does.

    Args:
        x: ``[..., *normalized_shape]``, float32, float64, bfloat16 or float16; any strides.
        normalized_shape: the shape of a row, at least one dimension.
        weight, bias: of that shape, or None; both of x's dtype, or float32 beside a 16-bit x.
        eps: added to the variance.
        dtype: of the result; a float32 x may be written as bfloat16 or float16. Default: x's dtype; under autocast to
            a 16-bit dtype that dtype for a float32 x, as the next product would round it. A 16-bit x stays 16-bit,
            while torch's layer_norm under autocast returns float32.

    Returns:
        A contiguous tensor of x's shape. Arithmetic and statistics are float32 (float64 of float64). Gradients are
        those of the inputs' dtypes; the parameters' are summed in the same order in every run.

    Raises:
        RuntimeError: "layer_norm: NAME must be WHAT, got GOT".
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    check_normalized_shape("layer_norm", x, shape)
    dtype = dtype or autocast_dtype(x)
    return _layer_norm(x, weight, bias, len(shape), eps, dtype)


# Not on each call: torch.compile of torch 2.11 cannot trace is_autocast_available.
_WITH_AUTOCAST = frozenset(kind for kind in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(kind))


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a result of x under autocast: its 16-bit dtype for a float32 x, otherwise x's own."""
    kind = x.device.type
    if x.dtype != torch.float32 or kind not in _WITH_AUTOCAST or not torch.is_autocast_enabled(kind):
        return x.dtype
    dtype = torch.get_autocast_dtype(kind)
    return dtype if dtype in IN_16_BITS else x.dtype


def layer_norm_reference(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    num_dims: int,
    eps: float,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, mean, rstd) in plain torch: runs where there is no kernel, and is the oracle of the kernels' tests."""
    _check_forward(x, weight, bias, num_dims, dtype)
    dims = tuple(range(-num_dims, 0))
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = wide.mean(dims, keepdim=True)
    centred = wide - mean
    rstd = 1 / (centred.square().mean(dims, keepdim=True) + eps).sqrt()
    y = centred * rstd
    if weight is not None:
        y = y * weight.to(y.dtype)
    if bias is not None:
        y = y + bias.to(y.dtype)
    leading = x.shape[: x.dim() - num_dims]
    return y.to(dtype or x.dtype).contiguous(), mean.reshape(leading), rstd.reshape(leading)


def layer_norm_backward_reference(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, num_dims: int, need_params: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(grad_x, grad_weight, grad_bias) in plain torch; the last two are empty unless need_params."""
    _check_backward(grad, x, mean, rstd, weight, num_dims)
    return tuple(part.contiguous() for part in _gradients(grad, x, mean, rstd, weight, num_dims, need_params))


def _gradients(grad, x, mean, rstd, weight, num_dims, need_params) -> tuple[Tensor, Tensor, Tensor]:
    dims, leading = tuple(range(-num_dims, 0)), tuple(range(x.dim() - num_dims))
    wide = mean.dtype
    mean, rstd = (s.reshape(*s.shape, *[1] * num_dims) for s in (mean, rstd))
    h, dy = (x.to(wide) - mean) * rstd, grad.to(wide)
    g = dy if weight is None else dy * weight.to(wide)
    grad_x = rstd * (g - g.mean(dims, keepdim=True) - h * (g * h).mean(dims, keepdim=True))
    grad_x = grad_x.to(x.dtype)
    param_dtype = wide if weight is None else weight.dtype
    if not need_params:
        return grad_x, x.new_empty(0, dtype=param_dtype), x.new_empty(0, dtype=param_dtype)
    # sum(()) would sum over all dimensions
    return grad_x, *((part.sum(leading) if leading else part.clone()).to(param_dtype) for part in (dy * h, dy))


def gradients_of_x(
    grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, num_dims: int, need_params: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for a second derivative, which includes the part through the statistics."""
    dims, wide = tuple(range(-num_dims, 0)), x.to(mean.dtype)
    variance, mean_of_x = torch.var_mean(wide, dims, correction=0)
    mean, rstd = autograd.tied(mean, mean_of_x), autograd.tied(rstd.pow(-2), variance).rsqrt()
    return _gradients(grad, x, mean, rstd, weight, num_dims, need_params)


_library.impl("layer_norm", layer_norm_reference, "CompositeExplicitAutograd")
_library.impl("layer_norm_backward", layer_norm_backward_reference, "CompositeExplicitAutograd")


@torch.library.register_fake("airank_fast::layer_norm", lib=_library)
def _layer_norm_fake(x, weight, bias, num_dims, eps, dtype=None):
    _check_forward(x, weight, bias, num_dims, dtype)
    leading = x.shape[: x.dim() - num_dims]
    statistics = [x.new_empty(leading, dtype=torch.promote_types(x.dtype, torch.float32)) for _ in range(2)]
    return x.new_empty(x.shape, dtype=dtype or x.dtype), *statistics


@torch.library.register_fake("airank_fast::layer_norm_backward", lib=_library)
def _layer_norm_backward_fake(grad, x, mean, rstd, weight, num_dims, need_params):
    _check_backward(grad, x, mean, rstd, weight, num_dims)
    shape = x.shape[x.dim() - num_dims :] if need_params else (0,)
    dtype = mean.dtype if weight is None else weight.dtype
    return x.new_empty(x.shape), x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=dtype)


def _setup_context(ctx, inputs, output):
    x, weight, bias, ctx.num_dims, _, _ = inputs
    _, mean, rstd = output
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, mean, rstd, weight)


def _backward(ctx, grad, _grad_mean, _grad_rstd):
    if grad is None:
        return (None,) * 6
    x, mean, rstd, weight = ctx.saved_tensors
    _, need_weight, need_bias = ctx.needs_input_grad[:3]
    grad_x, grad_weight, grad_bias = autograd.backward_of(
        _ops.layer_norm_backward.default,
        gradients_of_x,
        grad,
        x,
        mean,
        rstd,
        weight,
        ctx.num_dims,
        need_weight or need_bias,
    )
    grad_bias = grad_bias.to(ctx.bias_dtype) if need_bias else None
    return grad_x, grad_weight if need_weight else None, grad_bias, None, None, None


def _torchs_own(x, weight, bias, num_dims, eps, dtype):
    shape = x.shape[x.dim() - num_dims :]
    params = [part for part in (weight, bias) if part is not None]
    wide = x.dtype if all(part.dtype == x.dtype for part in params) else torch.float32
    weight, bias = (part if part is None else part.to(wide) for part in (weight, bias))
    return F.layer_norm(x.to(wide), shape, weight, bias, eps).to(dtype or x.dtype)


_layer_norm = autograd.differentiable(_ops.layer_norm.default, _setup_context, _backward, _torchs_own, lib=_library)
autograd.refuse_derivatives(_library, "layer_norm_backward")


# The checks of csrc/layer_norm_args.h, in the same order and words.


def check_normalized_shape(op: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """x must end in these dimensions, at least one."""
    require(op, len(shape) > 0, "normalized_shape must have at least one dimension", [])
    if x.shape[-len(shape) :] != shape:
        require(op, False, f"x must have shape [..., {', '.join(map(str, shape))}]", list(x.shape))


def check_rows(op: str, x: Tensor, num_dims: int) -> None:
    """x must be a dense floating-point tensor of at least num_dims dimensions."""
    check_dense(op, "x", x)
    check_floating(op, "x", x)
    required = f"num_dims must be from 1 to the {x.dim()} dimensions of x"
    require(op, 1 <= num_dims <= x.dim(), required, num_dims)


def check_beside(
    op: str, name: str, tensor: Tensor, x: Tensor, dtypes: Sequence[torch.dtype], shape: Sequence[int]
) -> None:
    """The tensor must be dense, on x's device, of one of the dtypes and of the shape."""
    check_device(op, name, tensor, x.device)
    check_dense(op, name, tensor)
    check_dtype(op, name, tensor, *dtypes)
    check_shape(op, name, tensor, shape)


def check_params(op: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, num_dims: int) -> None:
    """Weight and bias, where given, must fit x and one another."""
    shape = x.shape[x.dim() - num_dims :]
    if weight is not None:
        check_beside(op, "weight", weight, x, param_dtypes(x.dtype), shape)
    if bias is not None:
        dtypes = param_dtypes(x.dtype) if weight is None else (weight.dtype,)
        check_beside(op, "bias", bias, x, dtypes, shape)


def _result_dtypes(x: torch.dtype) -> tuple[torch.dtype, ...]:
    return (x, *IN_16_BITS) if x == torch.float32 else (x,)


def _check_forward(x, weight, bias, num_dims, dtype) -> None:
    check_rows("layer_norm", x, num_dims)
    check_params("layer_norm", x, weight, bias, num_dims)
    dtypes = _result_dtypes(x.dtype)
    required = "dtype must be " + " or ".join(map(name_of, dtypes))
    require("layer_norm", dtype is None or dtype in dtypes, required, dtype and name_of(dtype))


def _check_backward(grad, x, mean, rstd, weight, num_dims) -> None:
    op = "layer_norm"
    check_rows(op, x, num_dims)
    check_params(op, x, weight, None, num_dims)
    check_beside(op, "grad", grad, x, _result_dtypes(x.dtype), x.shape)
    statistics = (torch.promote_types(x.dtype, torch.float32),)
    for name, tensor in (("mean", mean), ("rstd", rstd)):
        check_beside(op, name, tensor, x, statistics, x.shape[: x.dim() - num_dims])
