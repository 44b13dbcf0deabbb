"""The checks of batch_norm_act's arguments, those of csrc/batch_norm_act_args.h in the same order and words."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from airank_fast.ops.checks import check_floating, name_of, require, text_of


def is_fixed(statistics: Tensor) -> bool:
    """Whether the statistics have no count, as they do not depend on x."""
    return statistics.numel() % 2 == 0


def mask_shape(x: Tensor) -> list[int]:
    """Of the mask of x, [N, C, H, W]."""
    return [-(-x.shape[0] * x.shape[2] * x.shape[3] // 8), x.shape[1]]


def math_dtype(x: Tensor) -> torch.dtype:
    """In which the numbers of x are summed: float64 of float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _what(tensor: Tensor) -> str:
    gaps = "" if tensor.is_contiguous() else f" with strides {list(tensor.stride())}"
    return text_of(tensor) + gaps


def is_nhwc(x: Tensor) -> bool:
    """Whether x lies in memory as [N, H, W, C], without gaps."""
    return x.is_contiguous(memory_format=torch.channels_last) or x.numel() == 0


def check_nhwc(op: str, name: str, tensor: Tensor) -> None:
    """RuntimeError unless the tensor is [N, C, H, W], floating point, in channels_last."""
    shape = f"shape {list(tensor.shape)}"
    require(op, tensor.dim() == 4, f"{name} must have the 4 dimensions [N, C, H, W]", shape)
    check_floating(op, name, tensor)
    strides = f"strides {list(tensor.stride())}"
    require(op, is_nhwc(tensor), f"{name} must be channels_last without gaps", strides)


def _check_like(op: str, name: str, tensor: Tensor | None, first: str, like: Tensor) -> None:
    if tensor is None:
        return
    good = (tensor.dtype, tensor.shape, tensor.device) == (like.dtype, like.shape, like.device)
    require(op, good, f"{name} must be {text_of(like)} like {first}", text_of(tensor))
    required = f"{name} must be channels_last without gaps like {first}"
    require(op, is_nhwc(tensor), required, f"strides {list(tensor.stride())}")


def check_vector(op: str, name: str, tensor: Tensor | None, dtype: torch.dtype, shape: list, like: Tensor) -> None:
    """RuntimeError unless the tensor is None or contiguous, of the dtype and shape, on the device of ``like``."""
    if tensor is None:
        return
    good = tensor.dtype == dtype and list(tensor.shape) == shape and tensor.device == like.device
    required = f"{name} must be contiguous {name_of(dtype)} of shape {shape} on {like.device}"
    require(op, good and tensor.is_contiguous(), required, _what(tensor))


def check_running(op, like, dtype, running_mean, running_var, num_batches_tracked, momentum, channels=None) -> None:
    """RuntimeError unless the running statistics fit."""
    channels = like.shape[1] if channels is None else channels
    check_vector(op, "running_mean", running_mean, dtype, [channels], like)
    check_vector(op, "running_var", running_var, dtype, [channels], like)
    check_vector(op, "num_batches_tracked", num_batches_tracked, torch.int64, [], like)
    both = (running_mean is None) == (running_var is None)
    require(op, both, "running_mean and running_var must be given together", "one of them")
    counted = running_mean is None or momentum is not None or num_batches_tracked is not None
    require(op, counted, "momentum must be given without num_batches_tracked", "neither")


def check_finish(moments, running_mean, running_var, num_batches_tracked, momentum) -> None:
    """RuntimeError unless batch_norm_finish_ can take these."""
    op = "batch_norm_finish_"
    good = moments.dim() == 2 and moments.shape[1] % 2 == 1 and moments.dtype in (torch.float32, torch.float64)
    required = "moments must be contiguous float32 or float64 of shape [rows, 2 channels + 1]"
    require(op, good and moments.is_contiguous(), required, _what(moments))
    channels = moments.shape[1] // 2
    check_running(op, moments, moments.dtype, running_mean, running_var, num_batches_tracked, momentum, channels)


def _check_statistics(op: str, statistics: Tensor, like: Tensor) -> None:
    size = 2 * like.shape[1]
    check_vector(op, "statistics", statistics, math_dtype(like), [size + (statistics.numel() != size)], like)


def check_slope(op: str, negative_slope: float) -> None:
    """RuntimeError unless an activation can have the slope."""
    good = 0 <= negative_slope < math.inf
    require(op, good, "negative_slope must be at least 0 and finite", f"{negative_slope:g}")


def check_act(x, residual, weight, bias, statistics, negative_slope, with_mask) -> None:
    """RuntimeError unless batch_norm_act can take these."""
    op = "batch_norm_act"
    check_nhwc(op, "x", x)
    _check_like(op, "residual", residual, "x", x)
    check_vector(op, "weight", weight, math_dtype(x), [x.shape[1]], x)
    check_vector(op, "bias", bias, math_dtype(x), [x.shape[1]], x)
    _check_statistics(op, statistics, x)
    check_slope(op, negative_slope)
    require(op, negative_slope != 1 or not with_mask, "with_mask must be false without an activation", "true")


def check_sums(dy, x, mask, statistics, negative_slope) -> None:
    """RuntimeError unless batch_norm_act_sums can take these."""
    op = "batch_norm_act_sums"
    check_nhwc(op, "x", x)
    _check_like(op, "dy", dy, "x", x)
    check_vector(op, "mask", mask, torch.uint8, mask_shape(x), x)
    _check_statistics(op, statistics, x)
    check_slope(op, negative_slope)


def check_backward(dy, x, mask, weight, statistics, sums, negative_slope, with_residual) -> None:
    """RuntimeError unless batch_norm_act_backward can take these."""
    op = "batch_norm_act_backward"
    check_nhwc(op, "dy", dy)
    _check_like(op, "x", x, "dy", dy)
    check_vector(op, "mask", mask, torch.uint8, mask_shape(dy), dy)
    check_vector(op, "weight", weight, math_dtype(dy), [dy.shape[1]], dy)
    _check_statistics(op, statistics, dy)
    check_vector(op, "sums", sums, math_dtype(dy), [2, dy.shape[1]], dy)
    given = (x is not None) + (sums is not None)
    required = "x and sums must be given where the statistics have a count, and only there"
    require(op, given == (0 if is_fixed(statistics) else 2), required, ("neither", "one of them", "both")[given])
    check_slope(op, negative_slope)
    require(op, mask is not None or not with_residual, "with_residual must be false without a mask", "true")
