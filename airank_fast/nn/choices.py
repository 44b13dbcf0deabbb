"""Chooses between torch's convolution and a matrix product for this processor, from measurements in a file.

`bench/convolution.py --choose` makes `choices.json` from its committed results: by instruction set, dtype and kernel
size the number of output pixels (over the batch) up to which a convolution is faster as a matrix product; null for any
number. Nothing is measured at run time, so that all ranks and a resumed run compute alike.
"""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from airank_fast import processor
from airank_fast.ops.autograd import needs_torchs_own
from airank_fast.ops.pictures import is_channels_last

FILE = Path(__file__).with_name("choices.json")
LIKE = {"AVX512": "AVX512_BF16", "AMX": "AVX512_BF16"}
"""Sets of instructions that were not measured, and the sets whose choices they use."""

CONTIGUOUS_CHANNELS = 64
"""From which on, on the narrower side, contiguous copies are worth their time; by trials on AVX2 (bench/conv.py)."""
WINOGRAD_CHANNELS, WINOGRAD_PIXELS = 128, 512
"""The same of Winograd's minimal filtering, and the output pixels of a batch."""
DIRECT_WEIGHTS = 1 << 18
"""Weights up to which a direct convolution is faster, by trials on AVX2 (bench/conv.py)."""

LARGE = 1024
"""Pixels from which on a picture is large."""


@functools.cache
def limits() -> dict[tuple[str, int], float]:
    """(dtype, kernel size) -> pixels up to which the product is faster on this processor."""
    name = processor.instruction_set().partition(",")[0]
    by_dtype = json.loads(FILE.read_text(encoding="utf-8")).get(LIKE.get(name, name), {})
    return {
        (dtype, int(kernel)): math.inf if limit is None else limit
        for dtype, by_kernel in by_dtype.items()
        for kernel, limit in by_kernel.items()
    }


def _is_ordinary(conv: nn.Conv2d | nn.ConvTranspose2d, x: Tensor) -> bool:
    """Whether this is a convolution of a batch on a CPU in one dtype, and neither traced, compiled nor transformed."""
    if torch.compiler.is_compiling() or isinstance(x, Proxy):
        return False
    weight = conv.weight
    if not x.is_cpu or x.dtype != weight.dtype or x.dim() != 4 or torch.is_autocast_enabled("cpu"):
        return False
    return not needs_torchs_own(x, weight)


def _is_float32_on_avx2(conv: nn.Conv2d | nn.ConvTranspose2d, x: Tensor) -> bool:
    """Whether it is an ordinary one in float32 on AVX2, where oneDNN's gradients of weights are slow."""
    return _is_ordinary(conv, x) and x.dtype == torch.float32 and processor.instruction_set() == "AVX2"


def is_large(x: Tensor) -> bool:
    """Whether the pictures of x have at least LARGE pixels; of what is traced or compiled, never."""
    if torch.compiler.is_compiling() or isinstance(x, Proxy):
        return False
    return math.prod(x.shape[-2:]) >= LARGE


def contiguous_is_faster(conv: nn.Conv2d | nn.ConvTranspose2d, x: Tensor) -> bool:
    """Whether the gradient of the weight is faster to compute from contiguous copies: on AVX2, of many channels."""
    if not _is_float32_on_avx2(conv, x):
        return False
    channels = conv.weight.shape[:2]
    if conv.kernel_size == (1, 1):  # a matrix product, which copies would take longer than
        return False
    if min(channels) < CONTIGUOUS_CHANNELS or math.prod(channels) < 2 * CONTIGUOUS_CHANNELS**2:
        return False
    return is_channels_last(x) or is_channels_last(conv.weight)


def phases_are_faster(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether the gradient of a dilated convolution's weight is faster to compute as that of a plain one: on AVX2.

    The output must have the input's size, so that each phase has the same padding.
    """
    if not _is_float32_on_avx2(conv, x):
        return False
    rate = conv.dilation[0]
    if rate == 1 or conv.dilation != (rate, rate) or conv.stride != (1, 1) or min(x.shape[2:]) < rate:
        return False
    if any(2 * size != rate * (kernel - 1) for size, kernel in zip(conv.padding, conv.kernel_size, strict=True)):
        return False
    return is_channels_last(x)


def contiguous_network_is_faster(device: torch.device, channels: int) -> bool:
    """Whether a float32 network of 4x4 convolutions of at least so many channels is faster in contiguous memory.

    On AVX2 it is (bench/gan_step.py): there the weights' gradients take most of a step of one picture.
    """
    return device.type == "cpu" and channels >= CONTIGUOUS_CHANNELS and processor.instruction_set() == "AVX2"


def direct_is_faster(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether ``conv`` of ``x`` is faster by the kernels of ops/direct_conv.py, and can be computed by them: on AVX2.

    Of large pictures the gradient of the weight alone is; a 1x1 convolution's is not. Both must be channels_last.
    """
    if not _is_float32_on_avx2(conv, x) or (conv.kernel_size == (1, 1) and is_large(x)):
        return False
    weight, layout = conv.weight, torch.channels_last
    if weight.numel() > DIRECT_WEIGHTS or not weight.is_contiguous(memory_format=layout):
        return False
    if not x.is_contiguous(memory_format=layout) or min(_plain_outputs(conv, x)) <= 0:
        return False
    return _has_kernel("direct_conv2d")


def winograd_is_faster(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether ``conv`` of ``x`` is faster by Winograd's minimal filtering, and can be computed by it."""
    if conv.kernel_size != (3, 3) or conv.stride != (1, 1) or conv.dilation != (1, 1) or conv.groups != 1:
        return False
    if conv.padding not in ((0, 0), (1, 1)) or conv.padding_mode != "zeros":
        return False
    if min(conv.weight.shape[:2]) < WINOGRAD_CHANNELS or not contiguous_is_faster(conv, x):
        return False
    if not _has_kernel("winograd_windows"):
        return False
    outputs = [size + 2 * conv.padding[0] - 2 for size in x.shape[2:]]
    return all(size > 0 and size % 2 == 0 for size in outputs) and len(x) * math.prod(outputs) >= WINOGRAD_PIXELS


@functools.cache
def _has_kernel(op: str) -> bool:
    """Whether the op's kernel is built."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"airank_fast::{op}", "CPU")


def product_is_faster(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether ``conv`` of ``x`` is faster as a matrix product, and can be one.

    It must have a square kernel, equal strides, no bias, groups or dilation, and a padding of zeros, given in numbers.
    """
    if not _is_ordinary(conv, x):
        return False
    limit = limits().get((str(x.dtype).removeprefix("torch."), conv.kernel_size[0]))
    if limit is None:
        return False
    if conv.bias is not None or conv.dilation != (1, 1):
        return False
    outputs = _plain_outputs(conv, x)
    return min(outputs) > 0 and len(x) * math.prod(outputs) <= limit


def _plain_outputs(conv: nn.Conv2d, x: Tensor) -> list[int]:
    """The output's height and width, of a convolution with square filters and equal sides; else, and of what fails, 0.

    Groups are not plain either, nor is a padding other than zeros in a given number.
    """
    if conv.groups != 1 or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return [0]
    (kernel, kernel_w), (stride, stride_w) = conv.kernel_size, conv.stride
    (padding, padding_w), (dilation, dilation_w) = conv.padding, conv.dilation
    if (kernel, stride, padding, dilation) != (kernel_w, stride_w, padding_w, dilation_w):
        return [0]
    _, channels, height, width = x.shape
    room = 2 * padding - dilation * (kernel - 1) - 1
    return [(height + room) // stride + 1, (width + room) // stride + 1] if channels == conv.in_channels else [0]
