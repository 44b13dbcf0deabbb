"""Chooses the arithmetic of a run: what --amp and --precision mean on a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from airank_fast import processor
from airank_fast.errors import UserError

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FASTER = 1.2  # times as fast as fp32 is faster: the short measurement is disturbed on a busy machine
_ROUNDS, _ROUNDS_S = (2, 8), 0.1  # of a measurement: at least and at most; no further one after so many seconds


@dataclass(frozen=True)
class Choice:
    """The arithmetic of a run, and why it is this one."""

    precision: str
    reason: str
    warning: str | None = None


def choose(amp: bool, requested: str | None, device: torch.device) -> Choice:
    """What the options --amp and --precision (None: not given) mean on ``device``; --amp takes precedence.

    A 16-bit precision requested on a CPU gets a warning where a measurement finds fp32 faster.
    """
    if amp:
        found = amp_choice(device)
        return Choice(found.precision, f"--amp: {found.reason}")
    if requested is None:
        return Choice("fp32", "the default")
    reason = f"--precision {requested}"
    if device.type != "cpu" or DTYPES[requested] == torch.float32 or _is_native(requested):
        return Choice(requested, reason)
    speed = relative_speed(DTYPES[requested])
    if speed >= 1:
        return Choice(requested, reason)
    how_slow = f"{requested} is {1 / speed:.1f} times as slow as fp32 on this processor ({processor.instruction_set()})"
    return Choice(requested, reason, f"{reason}: {how_slow}, by a short measurement")


def amp_choice(device: torch.device) -> Choice:
    """What --amp means: the 16-bit precision that is faster than fp32 on ``device``, else fp32.

    On a GPU bf16 from compute capability 8.0 on, else fp16. On a CPU bf16 where the processor has the instructions.
    Where oneDNN emulates them, as on AVX-512, a short measurement decides; elsewhere fp32.
    """
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return Choice("bf16" if major >= 8 else "fp16", f"compute capability {major}.{minor}")
    instructions = processor.instruction_set()
    if _is_native("bf16"):
        return Choice("bf16", f"{instructions} multiplies bf16")
    if instructions == "AVX2" or not (
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    ):
        return Choice("fp32", f"{instructions} has no bf16 instructions")
    speed = relative_speed(torch.bfloat16)
    measured = f"bf16 is {speed:.1f} times as fast as fp32 on this processor ({instructions}), by measurement"
    return Choice("bf16" if speed >= FASTER else "fp32", measured)


def relative_speed(dtype: torch.dtype) -> float:
    """How many times as fast this CPU computes a matrix product and a convolution in ``dtype`` as in float32.

    Takes tens of ms, up to 300 ms where 16 bits are emulated; draws no random numbers.
    """
    seconds: dict[torch.dtype, list[list[float]]] = {torch.float32: [], dtype: []}
    operations = {which: _typical_operations(which) for which in seconds}
    least, most = _ROUNDS
    begin = time.perf_counter()
    for done in range(most):
        if done >= least and time.perf_counter() - begin > _ROUNDS_S:
            break
        for which, calls in operations.items():
            seconds[which].append([_seconds(call) for call in calls])
    # The fastest of each: the first call prepares the kernels, and others may be interrupted.
    of_float32, of_dtype = (sum(map(min, zip(*rounds, strict=True))) for rounds in seconds.values())
    return of_float32 / of_dtype


def _typical_operations(dtype: torch.dtype) -> tuple[Callable[[], Tensor], ...]:
    """A matrix product and a 3x3 convolution of a small batch."""
    rows, weights = torch.ones(128, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
    images = torch.ones(4, 64, 8, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    filters = torch.ones(64, 64, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return lambda: F.linear(rows, weights), lambda: F.conv2d(images, filters, padding=1)


def _seconds(call: Callable[[], Tensor]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _is_native(precision: str) -> bool:
    """Whether the CPU has instructions for products in ``precision``, and torch uses them."""
    return precision == "bf16" and processor.instruction_set() in processor.WITH_BF16


def check(precision: str, device: torch.device) -> None:
    """UserError where ``device`` does not have ``precision``."""
    if precision == "tf32" and device.type != "cuda":
        raise UserError(f"--precision tf32: must have a CUDA device, got {device.type}")
