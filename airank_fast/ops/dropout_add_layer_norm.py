"""airank_fast::dropout_add_layer_norm: layer_norm(dropout(x) + residual) in one pass, forward and backward.

The mask is a pure function of a seed and an element's position (csrc/dropout_math.h, Philox4x32-10), the same on
every device, so that the backward pass recomputes it and only the sum is saved. The seed is a tensor on the device: a
captured CUDA graph that draws it drops other elements at each replay, and nothing waits for the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast.ops import autograd
from airank_fast.ops.checks import param_dtypes, require
from airank_fast.ops.layer_norm import (
    autocast_dtype,
    check_beside,
    check_normalized_shape,
    check_params,
    check_rows,
    gradients_of_x,
    layer_norm_backward_reference,
    layer_norm_reference,
)
from airank_fast.ops.philox import philox

_ops = torch.ops.airank_fast
_OP = "dropout_add_layer_norm"
_library = torch.library.Library("airank_fast", "FRAGMENT")
_library.define(
    f"{_OP}(Tensor x, Tensor residual, Tensor? weight, Tensor? bias, Tensor? seed, float p, int num_dims, float eps)"
    " -> (Tensor y, Tensor sum, Tensor mean, Tensor rstd)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    f"{_OP}_backward(Tensor grad, Tensor? grad_sum, Tensor sum, Tensor mean, Tensor rstd, Tensor? weight,"
    " Tensor? seed, float p, int num_dims, bool need_params)"
    " -> (Tensor grad_x, Tensor grad_residual, Tensor grad_weight, Tensor grad_bias)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@autograd.overridable
def dropout_add_layer_norm(
    x: Tensor,
    residual: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    p: float = 0.1,
    training: bool = True,
    seed: Tensor | None = None,
    return_sum: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Compute ``layer_norm(dropout(x, p) + residual)``.

    Args:
        x: ``[..., *normalized_shape]``, float32, float64, bfloat16 or float16; any strides. Under autocast to a
            16-bit dtype a float32 x is first cast to it, as a linear layer before would do.
        residual: of x's shape; of x's dtype, or float32 beside a 16-bit x.
        normalized_shape: the shape of a row, at least one dimension.
        weight, bias: of that shape, or None; both of x's dtype, or float32 beside a 16-bit x.
        eps: added to the variance.
        p: the share of x that is dropped, from 0 to 1; the rest is divided by 1 - p.
        training: if False, nothing is dropped, as with p = 0.
        seed: int64 of shape [2] on x's device; the mask depends on it and the elements' positions alone. Default:
            drawn from torch's generator of that device.
        return_sum: return ``(y, dropout(x) + residual)``: a network that normalises first adds to the sum.

    Returns:
        y, of x's dtype, contiguous; the sum is of residual's dtype, rounded before it is normalised. Arithmetic and
        statistics are float32 (float64 of float64). Exports, torch.func's transforms and DTensors get torch's own
        operators (see ops/autograd.py): without a seed, F.dropout and the generator that it draws from.

    Raises:
        RuntimeError: "dropout_add_layer_norm: NAME must be WHAT, got GOT".
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    check_normalized_shape(_OP, x, shape)
    _check_p(p)
    p = float(p) if training else 0.0
    if p == 0:
        seed = None
    elif seed is None and not autograd.needs_torchs_own(x, residual, weight, bias):
        seed = torch.randint(-(2**63), 2**63 - 1, (2,), device=x.device)
    y, total = _dropout_add_layer_norm(x.to(autocast_dtype(x)), residual, weight, bias, seed, p, len(shape), eps)
    return (y, total) if return_sum else y


def dropout_mask_reference(shape: Sequence[int], seed: Tensor, p: float) -> Tensor:
    """The kept elements of a tensor of this shape: bool, by the rule of csrc/dropout_math.h in plain torch."""
    position = torch.arange(torch.Size(shape).numel(), device=seed.device)
    words = philox(seed[0], seed[1], torch.div(position, 4, rounding_mode="floor"))
    word = words.gather(1, (position % 4)[:, None])[:, 0]
    return (word >= min(int(p * 2**32 + 0.5), 0xFFFFFFFF)).reshape(shape)


def dropout_add_layer_norm_reference(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    seed: Tensor | None,
    p: float,
    num_dims: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(y, sum, mean, rstd) in plain torch: runs where there is no kernel, and is the oracle of the kernels' tests."""
    _check_forward(x, residual, weight, bias, seed, p, num_dims)
    wide = torch.promote_types(x.dtype, torch.float32)
    total = (_dropout(x.to(wide), seed, p) + residual.to(wide)).to(residual.dtype).contiguous()
    widened = [part if part is None else part.to(wide) for part in (weight, bias)]
    y, mean, rstd = layer_norm_reference(total.to(wide), *widened, num_dims, eps)
    return y.to(x.dtype), total, mean, rstd


def dropout_add_layer_norm_backward_reference(
    grad: Tensor,
    grad_sum: Tensor | None,
    total: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    seed: Tensor | None,
    p: float,
    num_dims: int,
    need_params: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(grad_x, grad_residual, grad_weight, grad_bias) in plain torch; the last two are empty unless need_params."""
    _check_backward(grad, grad_sum, total, mean, rstd, weight, seed, p, num_dims)
    arguments = (grad, grad_sum, total, mean, rstd, weight, seed, p, num_dims, need_params)
    grad_x, grad_residual, *sums = _gradients(layer_norm_backward_reference, *arguments)
    if grad_residual.data_ptr() == grad_x.data_ptr():
        grad_residual = grad_residual.clone()  # an op's results may not share memory
    return grad_x.contiguous(), grad_residual.contiguous(), *sums


def _gradients(layer_norm_gradients, grad, grad_sum, total, mean, rstd, weight, seed, p, num_dims, need_params):
    wide = mean.dtype
    param_dtype = wide if weight is None else weight.dtype
    weight = None if weight is None else weight.to(wide)
    grad_total, *sums = layer_norm_gradients(grad.to(wide), total.to(wide), mean, rstd, weight, num_dims, need_params)
    if grad_sum is not None:
        grad_total = grad_total + grad_sum.to(wide)
    grad_x = _dropout(grad_total, seed, p).to(grad.dtype)
    return grad_x, grad_total.to(total.dtype), *(part.to(param_dtype) for part in sums)


def _dropout(x: Tensor, seed: Tensor | None, p: float) -> Tensor:
    if p == 0:
        return x
    return x * (dropout_mask_reference(x.shape, seed, p).to(x.dtype) * (1 / (1 - p) if p < 1 else 0.0))


_library.impl(_OP, dropout_add_layer_norm_reference, "CompositeExplicitAutograd")
_library.impl(f"{_OP}_backward", dropout_add_layer_norm_backward_reference, "CompositeExplicitAutograd")


@torch.library.register_fake(f"airank_fast::{_OP}", lib=_library)
def _dropout_add_layer_norm_fake(x, residual, weight, bias, seed, p, num_dims, eps):
    _check_forward(x, residual, weight, bias, seed, p, num_dims)
    leading = x.shape[: x.dim() - num_dims]
    statistics = [x.new_empty(leading, dtype=torch.promote_types(x.dtype, torch.float32)) for _ in range(2)]
    return x.new_empty(x.shape), residual.new_empty(x.shape), *statistics


@torch.library.register_fake(f"airank_fast::{_OP}_backward", lib=_library)
def _dropout_add_layer_norm_backward_fake(grad, grad_sum, total, mean, rstd, weight, seed, p, num_dims, need_params):
    _check_backward(grad, grad_sum, total, mean, rstd, weight, seed, p, num_dims)
    shape = grad.shape[grad.dim() - num_dims :] if need_params else (0,)
    dtype = mean.dtype if weight is None else weight.dtype
    sums = [grad.new_empty(shape, dtype=dtype) for _ in range(2)]
    return grad.new_empty(grad.shape), total.new_empty(grad.shape), *sums


def _setup_context(ctx, inputs, output):
    _, _, weight, bias, seed, ctx.p, ctx.num_dims, _ = inputs
    _, total, mean, rstd = output
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(total, mean, rstd, weight, seed)
    ctx.dtype = output[0].dtype


def _backward(ctx, grad, grad_sum, _grad_mean, _grad_rstd):
    if grad is None and grad_sum is None:
        return (None,) * 8
    total, mean, rstd, weight, seed = ctx.saved_tensors
    if grad is None:  # only the sum was used
        grad = torch.zeros_like(total, dtype=ctx.dtype)
    need_weight, need_bias = ctx.needs_input_grad[2:4]
    grad_x, grad_residual, grad_weight, grad_bias = autograd.backward_of(
        _ops.dropout_add_layer_norm_backward.default,
        partial(_gradients, gradients_of_x),
        grad,
        grad_sum,
        total,
        mean,
        rstd,
        weight,
        seed,
        ctx.p,
        ctx.num_dims,
        need_weight or need_bias,
    )
    grad_bias = grad_bias.to(ctx.bias_dtype) if need_bias else None
    return grad_x, grad_residual, grad_weight if need_weight else None, grad_bias, None, None, None, None


def _torchs_own(x, residual, weight, bias, seed, p, num_dims, eps):
    dropped = F.dropout(x, p) if seed is None else _dropout(x, seed, p)
    total = (dropped + residual).to(residual.dtype)
    dtypes = {part.dtype for part in (total, weight, bias) if part is not None}
    wide = total.dtype if len(dtypes) == 1 else torch.float32
    weight, bias = (part if part is None else part.to(wide) for part in (weight, bias))
    y = F.layer_norm(total.to(wide), x.shape[x.dim() - num_dims :], weight, bias, eps)
    return y.to(x.dtype), total


_dropout_add_layer_norm = autograd.differentiable(
    _ops.dropout_add_layer_norm.default, _setup_context, _backward, _torchs_own, lib=_library, num_results=2
)
autograd.refuse_derivatives(_library, f"{_OP}_backward")


# The checks of csrc/dropout_add_layer_norm_args.h, in the same order and words.


def _check_p(p: float) -> None:
    require(_OP, 0 <= p <= 1, "p must be from 0 to 1", f"{p:g}")


def _check_seed(x: Tensor, seed: Tensor | None, p: float) -> None:
    _check_p(p)
    got = f"{'no' if seed is None else 'a'} seed with p = {p:g}"
    require(_OP, (seed is None) == (p == 0), "seed must be given where p > 0, and only there", got)
    if seed is not None:
        check_beside(_OP, "seed", seed, x, (torch.int64,), (2,))


def _check_forward(x, residual, weight, bias, seed, p, num_dims) -> None:
    check_rows(_OP, x, num_dims)
    check_beside(_OP, "residual", residual, x, param_dtypes(x.dtype), x.shape)
    check_params(_OP, x, weight, bias, num_dims)
    _check_seed(x, seed, p)


def _check_backward(grad, grad_sum, total, mean, rstd, weight, seed, p, num_dims) -> None:
    check_rows(_OP, grad, num_dims)
    check_beside(_OP, "sum", total, grad, param_dtypes(grad.dtype), grad.shape)
    if grad_sum is not None:
        check_beside(_OP, "grad_sum", grad_sum, grad, (total.dtype,), grad.shape)
    check_params(_OP, grad, weight, None, num_dims)
    statistics = (torch.promote_types(grad.dtype, torch.float32),)
    for name, tensor in (("mean", mean), ("rstd", rstd)):
        check_beside(_OP, name, tensor, grad, statistics, grad.shape[: grad.dim() - num_dims])
    _check_seed(grad, seed, p)
