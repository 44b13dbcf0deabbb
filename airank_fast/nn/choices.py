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

FILE = Path(__file__).with_name("choices.json")
LIKE = {"AVX512": "AVX512_BF16", "AMX": "AVX512_BF16"}
"""Sets of instructions that were not measured, and the sets whose choices they use."""


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


def product_is_faster(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether ``conv`` of ``x`` is faster as a matrix product, and can be one.

    It must have a square kernel, equal strides, no bias, groups or dilation, and a padding of zeros, given in numbers.
    """
    if torch.compiler.is_compiling() or isinstance(x, Proxy) or needs_torchs_own(x, conv.weight):
        return False
    if x.device.type != "cpu" or x.dtype != conv.weight.dtype or x.dim() != 4:
        return False
    limit = limits().get((str(x.dtype).removeprefix("torch."), conv.kernel_size[0]))
    if limit is None or torch.is_autocast_enabled("cpu"):
        return False
    if conv.bias is not None or conv.groups != 1 or conv.dilation != (1, 1) or conv.padding_mode != "zeros":
        return False
    sides = (conv.kernel_size, conv.stride, conv.padding)
    if isinstance(conv.padding, str) or any(len(set(side)) > 1 for side in sides):
        return False
    kernel, stride, padding = (side[0] for side in sides)
    outputs = [(size + 2 * padding - kernel) // stride + 1 for size in x.shape[2:]]
    return min(outputs) > 0 and len(x) * math.prod(outputs) <= limit
