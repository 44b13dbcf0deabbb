"""Pictures [N, C, H, W], contiguous or channels_last: their memory format, and the checks of csrc/pictures.h."""

from __future__ import annotations

import torch
from torch import Tensor

from airank_fast.ops.checks import check_floating, require


def is_channels_last(x: Tensor) -> bool:
    """Whether the picture is channels_last and not contiguous as well."""
    return x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def memory_format(channels_last: bool) -> torch.memory_format:
    """torch's name of the format."""
    return torch.channels_last if channels_last else torch.contiguous_format


def in_format(x: Tensor, channels_last: bool) -> Tensor:
    """The picture, copied where it has another format."""
    return x.contiguous(memory_format=memory_format(channels_last)) if x.dim() == 4 else x


def check_picture_shape(op: str, name: str, x: Tensor) -> None:
    """At least one channel and one pixel."""
    required = f"{name} must have shape [N, C, H, W] with at least one channel and one pixel"
    require(op, x.dim() == 4 and 0 not in x.shape[1:], required, list(x.shape))


def check_picture_format(op: str, name: str, x: Tensor, channels_last: bool) -> None:
    """Without gaps in the memory format."""
    is_dense = x.is_contiguous(memory_format=memory_format(channels_last)) or x.numel() == 0
    required = f"{name} must be {'channels_last' if channels_last else 'contiguous'}"
    require(op, is_dense, required, f"strides {list(x.stride())}")


def check_picture(op: str, name: str, x: Tensor, channels_last: bool) -> None:
    """A picture of a dtype that the ops compute with."""
    check_picture_shape(op, name, x)
    check_floating(op, name, x)
    check_picture_format(op, name, x, channels_last)
