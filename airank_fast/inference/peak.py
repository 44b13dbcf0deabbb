"""The rate of the device's matrix products, of which the operations of a network are a share."""

from __future__ import annotations

import time

import torch

SIZES = {"cpu": 1536, "cuda": 8192}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TIMED_S = 0.5


def matmul_rate(device: torch.device, precision: str, threads: int) -> float | None:
    """FLOP/s of the fastest of some square products in a precision, on a CPU with so many threads.

    A multiply-add counts as two. None of int8, of which torch has no product on every device.
    """
    dtype = DTYPES.get(precision)
    if dtype is None:
        return None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        size = SIZES[device.type]
        a, b = (torch.rand(size, size, device=device).to(dtype) for _ in range(2))
        took = [_seconds(a, b)]
        while len(took) < 2 or sum(took) < TIMED_S:
            took.append(_seconds(a, b))
    finally:
        torch.set_num_threads(before)
    return 2 * size**3 / min(took[1:])


def _seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    _wait(a.device)
    begin = time.perf_counter()
    a @ b
    _wait(a.device)
    return time.perf_counter() - begin


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
