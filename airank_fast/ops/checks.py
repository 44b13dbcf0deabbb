"""Checks arguments of the ops, with messages of one line as the kernels': "op: NAME must be WHAT, got GOT"."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

IN_16_BITS = (torch.bfloat16, torch.float16)
FLOATING = (torch.float32, torch.float64, *IN_16_BITS)


def require(op: str, condition: bool, required: str, got: object) -> None:
    """RuntimeError in one line, "op: REQUIRED, got GOT", unless ``condition`` holds."""
    if not condition:
        raise RuntimeError(f"{op}: {required}, got {got}")


def name_of(dtype: torch.dtype) -> str:
    """The dtype's name without "torch."."""
    return str(dtype).removeprefix("torch.")


def text_of(tensor: Tensor) -> str:
    """Dtype, shape and device."""
    return f"{name_of(tensor.dtype)} of shape {list(tensor.shape)} on {tensor.device}"


def param_dtypes(x: torch.dtype) -> tuple[torch.dtype, ...]:
    """The dtypes that parameters may have beside x."""
    return (x, torch.float32) if x in IN_16_BITS else (x,)


def check_device(op: str, name: str, tensor: Tensor, device: torch.device) -> None:
    """The tensor must be on that device."""
    require(op, tensor.device == device, f"{name} must be on {device}", tensor.device)


def check_dense(op: str, name: str, tensor: Tensor) -> None:
    """The tensor must not be sparse."""
    require(op, tensor.layout == torch.strided, f"{name} must be dense", "a sparse tensor")


def check_dtype(op: str, name: str, tensor: Tensor, *dtypes: torch.dtype) -> None:
    """The tensor must be of one of the dtypes."""
    required = f"{name} must be " + " or ".join(map(name_of, dtypes))
    require(op, tensor.dtype in dtypes, required, name_of(tensor.dtype))


def check_floating(op: str, name: str, tensor: Tensor) -> None:
    """The tensor must be of a dtype that the ops compute with."""
    required = f"{name} must be float32, float64, bfloat16 or float16"
    require(op, tensor.dtype in FLOATING, required, name_of(tensor.dtype))


def check_shape(op: str, name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    """The tensor must be of that shape."""
    shape, got = list(shape), list(tensor.shape)
    require(op, shape == got, f"{name} must have shape {shape}", got)
